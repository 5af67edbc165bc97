"""Pretrained autoencoders: the one that ships with the package, and everybody else's.

model = store.load("base")
autoencoder = Autoencoder(model, torch.device("cpu"))
latents = autoencoder.encode(pictures)
"""
