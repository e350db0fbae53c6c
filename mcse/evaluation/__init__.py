"""Evaluation through an encoder's ``encode`` alone: three kinds of modules.

``suites/`` holds published protocols, one a file, which ``evaluate.py --suite`` names. ``evaluators/`` holds dev sets
that score a model while it trains. The modules beside them are what these share: encoding, intervals, comparisons.
"""
