"""Conversion of files by `clric-convert`: what to convert, how, and what is said of it."""
