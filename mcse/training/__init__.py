"""The training loop: steps, precision, processes, checkpoints; never tasks.

It imports nothing here, so that ``mcse.training.config`` loads no torch.
"""
