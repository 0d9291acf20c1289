"""Classes with which other programs use charnn's models; each module imports its program."""
