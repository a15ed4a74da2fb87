"""A Gradio Space for Stable Diffusion v1-4."""
