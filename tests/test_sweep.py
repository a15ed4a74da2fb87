"""Claims about `python -m sd_space.tools.evaluate sweep`, run as it is, with few steps."""

import json
import os
import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from sd_space.tools.evaluate.__main__ import main, parse
from sd_space.tools.evaluate.judges import ClipJudge
from sd_space.tools.evaluate.scorer import STEPS, train
from sd_space.tools.evaluate.sweep import read_prompts
from sd_space.tools.train_tiny import loop
from sd_space.tools.train_tiny.captions import caption, named_in
from sd_space.tools.train_tiny.export import TINY
from sd_space.tools.train_tiny.world import sample_scene


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP model as the Hub has them, with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(TINY / "tokenizer")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=sizes | {"image_size": 32, "patch_size": 8}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def state(tmp_path_factory, one_torch_thread):
    """A scorer that has learnt nothing, marked as trained."""
    folder = tmp_path_factory.mktemp("state")
    train(folder, "convolutional", seed=100, steps=1, pool=64)
    (path,) = folder.glob("*.pt")
    loop.save_atomically(loop.load(path) | {"step": STEPS["convolutional"]}, path)
    return folder


@pytest.fixture
def swept(tmp_path, state, monkeypatch, capsys):
    """Runs the command; returns its last line, and the folder with its files."""
    monkeypatch.setenv("SD_SPACE_MAX_BATCH_SIZE", "6")
    monkeypatch.setenv("SD_SPACE_RUNTIME", "torch")

    def run(*arguments: str):
        few = ["--steps", "2", "--seeds", "2", "--state", str(state), "--out", str(tmp_path / "out"), "--threads", "1"]
        main(["sweep", *few, *arguments])
        return json.loads(capsys.readouterr().out.splitlines()[-1]), tmp_path / "out"

    return run


def test_a_sweep_is_a_table_a_plot_and_one_line_and_its_pictures_share_unet_calls(swept, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text('a red cat on the beach at night\n\n{"prompt": "a robot on mars"}\n')
    line, folder = swept("--model", "tiny", "--prompts", str(prompts), "--guidance-scales", "1.5, 3, 8")
    assert [row["guidance_scale"] for row in line["rows"]] == [1.5, 3, 8]
    assert all(row["pictures"] == 4 and 0 <= row["score"] <= 1 and row["variety"] > 0 for row in line["rows"])
    assert (line["model"], line["steps"], line["scheduler"]) == ("picture-book", 2, "PNDM")
    assert (line["pictures"], line["pictures_per_unet_call"]) == (12, 6)
    table = (folder / "sweep.md").read_text()
    assert table.count("| 4 |") == 3 and "34.91" in table and "not measured here" in table
    with Image.open(folder / "sweep.png") as plot:
        assert plot.size == (640, 480) and len(plot.getcolors(100_000)) > 3


def test_a_clip_score_is_100_times_the_cosine_of_both_embeddings(clip_folder, one_torch_thread):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    model, processor = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)
    with torch.no_grad():
        image = model.get_image_features(**processor(images=picture, return_tensors="pt")).pooler_output
        text = model.get_text_features(**processor(text="a cat", return_tensors="pt")).pooler_output
    features, score = ClipJudge(str(clip_folder), "cpu").read(picture, "a cat")
    assert score == pytest.approx(100 * float(torch.cosine_similarity(image, text)), abs=1e-3)
    assert np.linalg.norm(features) == pytest.approx(1)


def test_a_prompt_longer_than_clip_reads_is_cut(clip_folder, one_torch_thread):
    _, score = ClipJudge(str(clip_folder), "cpu").read(Image.new("RGB", (64, 64)), "a cat " * 100)
    assert -100 <= score <= 100


def test_any_model_is_scored_by_a_clip_folder(swept, clip_folder, model_folder):
    line, _ = swept("--model", str(model_folder), "--guidance-scales", "2, 7.5", "--scorer", str(clip_folder))
    assert line["score"].startswith("CLIP score")
    assert all(0 <= row["score"] <= 100 for row in line["rows"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model", "tiny", "--guidance-scales", "2"), "values must be 2 to 8 of guidance_scale"),
        (("--model", "tiny", "--guidance-scales", "2,70"), "guidance_scale must be"),
        (("--model", "tiny", "--prompts", "nowhere.txt"), "--prompts nowhere.txt cannot be read"),
        (("--model", "tiny", "--prompts", os.devnull), "has no prompt"),
        (("--model", "tiny", "--out", __file__), "must be a folder that can be written to"),
        (("--model", "tiny", "--scorer", "./nowhere"), "--scorer ./nowhere cannot be loaded as a CLIP model"),
    ],
)
def test_what_cannot_be_swept_is_said_in_a_sentence(swept, arguments, sentence):
    with pytest.raises(SystemExit, match=sentence):
        swept(*arguments)


@pytest.mark.parametrize("option", ["--seeds", "--threads"])
@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_there_is_at_least_one_of_what_is_counted(swept, capsys, option, number):
    with pytest.raises(SystemExit):
        swept(f"{option}={number}")
    assert f"argument {option}: must be a whole number of at least 1, not {number}" in capsys.readouterr().err


def test_prompts_may_begin_with_the_mark_that_editors_write(tmp_path):
    (tmp_path / "prompts.txt").write_text('{"prompt": "a robot on mars"}\n', encoding="utf-8-sig")
    assert read_prompts(tmp_path / "prompts.txt") == ["a robot on mars"]


def test_the_sweep_is_the_cards():
    options = parse(["sweep", "--out", "out"])
    assert (options.guidance_scales, options.steps) == ("1.5,2,3,4,5,6,7,8", 50)


def test_what_a_caption_names_is_read_from_its_words():
    rng = random.Random(0)
    pairs = [caption(sample_scene(rng), rng, junk=0) for _ in range(300)]
    assert np.mean([named_in(text) == named for text, named in pairs]) > 0.9  # the rest has typing errors
