"""A look inside: what a model thinks of a text, as arrays that a notebook can plot."""
