"""A look inside: what networks do, and what they can learn at all."""
