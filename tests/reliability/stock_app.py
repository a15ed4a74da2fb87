"""The app that a newcomer writes from the guides of Gradio and diffusers, for comparison: nothing of ours is in it.

The licence is a box that shows the form when it is ticked. The safety checker is the one that the pipeline brings.
"""

import os
from collections.abc import Sequence

import gradio as gr
import torch
from diffusers import StableDiffusionPipeline


def build_demo(pipeline: StableDiffusionPipeline) -> gr.Blocks:
    def generate(
        prompt,
        negative_prompt,
        num_images_per_prompt,
        num_inference_steps,
        guidance_scale,
        seed,
        width,
        height,
    ):
        return pipeline(
            prompt,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            width=width,
            height=height,
            generator=torch.Generator().manual_seed(seed),
        ).images

    with gr.Blocks(title="Stable Diffusion") as demo:
        gr.Markdown("# Stable Diffusion v1-4")
        agree = gr.Checkbox(label="I have read the licence and accept it")
        with gr.Column(visible=False) as form:
            inputs = [
                gr.Textbox(label="Prompt", max_length=1000),
                gr.Textbox(label="Negative prompt", max_length=1000),
                gr.Slider(1, 4, value=1, step=1, label="Number of pictures"),
                gr.Slider(1, 150, value=50, step=1, label="Steps"),
                gr.Slider(1, 20, value=7.5, label="Guidance scale"),
                gr.Number(value=0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed"),
                gr.Slider(64, 768, value=64, step=8, label="Width"),
                gr.Slider(64, 768, value=64, step=8, label="Height"),
            ]
            button = gr.Button("Generate")
            gallery = gr.Gallery(label="Your pictures")
        agree.change(lambda accepted: gr.Column(visible=accepted), agree, form)
        button.click(generate, inputs, gallery)
    return demo


def main(arguments: Sequence[str] = ()) -> int:
    model, variant = os.environ["SD_SPACE_MODEL"], os.environ.get("SD_SPACE_VARIANT")
    pipeline = StableDiffusionPipeline.from_pretrained(model, variant=variant)
    build_demo(pipeline).launch()
    return 0


if __name__ == "__main__":
    main()
