"""Synthetic tasks with known answers, and experiments on which cells learn them."""
