"""How the weights that ship with the package were trained; every script resumes from its checkpoint."""
