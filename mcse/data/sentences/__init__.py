"""Sentences out of files and hub data sets, tokenised once or streamed."""
