"""A look inside trained networks: what units do, how far they remember; data, nothing printed."""
