"""Files to typed batches, and the only user of datasets."""
