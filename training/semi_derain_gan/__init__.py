"""The recipe of Semi-DerainGAN."""
