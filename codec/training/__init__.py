"""Trainings of the weights that ship with the package: `python -m codec.training` lists them."""
