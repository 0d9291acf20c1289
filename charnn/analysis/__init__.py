"""A look inside: what networks know, how far they remember, what they can learn; data alone."""
