"""The card's code as the page shows it runs, here with the picture book; tests/test_jax.py runs that for JAX."""

import re
from pathlib import Path

import pytest

import sd_space
from sd_space.card import load_card

PACKAGE = Path(sd_space.__file__).parent
HERE = {  # for a machine without a GPU, in a moment
    '"CompVis/stable-diffusion-v1-4"': repr(str(PACKAGE / "tiny")),
    '"cuda"': '"cpu"',
    "torch.float16": "torch.float32",
    "pipe(prompt)": "pipe(prompt, num_inference_steps=2)",
}


def code_of(title: str) -> list[str]:
    return re.findall(r"```py(?:thon)?\n(.*?)```", load_card().section(title).markdown, re.DOTALL)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_code_for_pytorch_runs_block_after_block(one_torch_thread, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks, names = code_of("PyTorch"), {}
    assert len(blocks) == 3
    for block in blocks:
        for shown, here in HERE.items():
            block = block.replace(shown, here)
        names.pop("image", None)
        exec(block, names)
        assert names["image"].size == (256, 256) and Path("astronaut_rides_horse.png").is_file()
        Path("astronaut_rides_horse.png").unlink()
    assert type(names["pipe"].scheduler).__name__ == "EulerDiscreteScheduler"


def test_the_code_for_jax_is_the_example_of_at_most_15_lines():
    (block,) = code_of("JAX/Flax")
    assert block == (PACKAGE.parent / "examples" / "jax_pictures.py").read_text(encoding="utf-8")
    assert len(block.splitlines()) <= 15
    assert "FlaxStableDiffusionPipeline" not in load_card().section("JAX/Flax").markdown
