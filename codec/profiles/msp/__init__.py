"""Profile `msp`: the quantised latent of a learned transform, under a progressive prior."""
