def tokenize() -> None:
    """Being built."""
