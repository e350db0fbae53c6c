"""Dev sets that score a model while it trains: each gives named scores, draws nothing at random, restores the mode."""
