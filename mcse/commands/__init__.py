"""The ``mcse`` console script."""
