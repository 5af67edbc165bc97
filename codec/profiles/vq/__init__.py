"""Profile `vq`: a map of indices of a codebook, under a prior."""
