"""The model card's JAX example: as many pictures as JAX has devices, each on one of them, in bfloat16."""

import jax

from sd_space.settings import Settings
from sd_space.tools.drawing import draw_files

settings = Settings(model="CompVis/stable-diffusion-v1-4", runtime="jax", dtype="bfloat16")

num_samples = jax.device_count()
prompt = num_samples * ["a photo of an astronaut riding a horse on mars"]
wanted = [{"prompt": text, "seed": seed, "num_inference_steps": 50} for seed, text in enumerate(prompt)]

for path in draw_files(settings, wanted):
    print(path)
