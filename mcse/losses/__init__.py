"""Losses: pure functions of tensors; sums over rows or tokens, with neither models nor processes nor configuration."""
