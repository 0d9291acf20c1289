"""N-grams of the training text, mixed with the network."""
