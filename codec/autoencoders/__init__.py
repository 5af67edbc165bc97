"""Pretrained autoencoders: those that ship with the package, and everybody else's.

model = store.load("patch")
autoencoder = Autoencoder(model, torch.device("cpu"))
latents = autoencoder.encode(pictures)
"""
