"""Draws a small world, and trains a tiny Stable Diffusion on it (the picture-book checkpoint)."""
