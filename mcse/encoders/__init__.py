"""Encoders for users: sentences to rows, whatever kind of model stands behind them, and search among the rows."""
