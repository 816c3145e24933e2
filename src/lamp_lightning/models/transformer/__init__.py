"""Video backbones made of text-to-image transformers: Sana, Stable Diffusion 3 and 3.5."""
