"""A text that a person and a model write together."""
