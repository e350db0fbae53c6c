"""Training and evaluating from Python: the functions behind ``mcse train`` and ``mcse evaluate``, and their results."""
