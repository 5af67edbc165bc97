"""How the weights that ship with the package were trained: `python -m codec.training` lists what can be."""
