"""Entropy coding: integer probabilities, one range coder, and the order in which samples are coded.

Nothing here depends on floating-point rounding, so the same bytes give the same symbols everywhere. Floating point is
used as an integer type, of 53 bits in float64 and of 24 in float32, which makes sums of products exact in any order
(and fast). None of it needs torch.
"""
