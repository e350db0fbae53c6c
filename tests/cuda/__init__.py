"""CUDA's branches, executed without a GPU: real steps on fake tensors, and stand-ins for what a GPU holds."""
