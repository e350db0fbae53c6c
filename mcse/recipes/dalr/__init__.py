"""DALR: MCSE whose similarities across and within modalities follow those of frozen teachers."""
