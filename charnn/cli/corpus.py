def corpus() -> None:
    """Being built."""
