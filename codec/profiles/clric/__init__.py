"""Profile `clric`: a function fitted to the latent of a pretrained autoencoder."""
