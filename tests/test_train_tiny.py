"""Claims about the code that draws the little world and trains the picture-book checkpoint on it."""

import json
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sd_space.tools.train_tiny import decoder, lexicon, loop, optimizer, pictures, safety, shipped, text, unet, vae
from sd_space.tools.train_tiny import export as exporting
from sd_space.tools.train_tiny.__main__ import parse
from sd_space.tools.train_tiny.captions import caption
from sd_space.tools.train_tiny.renderer import contact_sheet, draw_emblem, draw_place, render
from sd_space.tools.train_tiny.world import (
    ATTRIBUTES,
    CARD_SCENES,
    NAMED_NONE,
    PLACES,
    STYLES,
    SUBJECTS,
    Scene,
    is_held_out,
    is_pair_held_out,
    sample_scene,
)


@pytest.fixture(scope="module")
def state(tmp_path_factory, one_torch_thread):
    """A state folder in which every stage has been trained for two or three steps on one shard of twelve pictures."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "SHARD", 12)
        patch.setattr(text, "BATCH", 8)
        patch.setattr(text, "FIRST_CAPTIONS", 2000)
        patch.setattr(safety, "BATCH", 16)
        text.train(folder, seed=0, steps=2)
        pictures.draw(folder, seed=0)
        patch.setattr(vae, "LINEAR_STEPS", 1)
        vae.train(folder, pictures.load_pixels(folder), seed=0, steps=2, batch=2)
        pictures.make(folder, seed=0, shards=range(1))
        pictures.embed(folder, seed=0, shards=range(1))
        unet.train(folder, seed=0, shards=range(1), steps=3, batch=4)
        safety.collect(folder, seed=0, count=6)
        safety.train(folder, seed=0, steps=2)
        yield folder


# ---- the world --------------------------------------------------------------------------------------------


def test_held_out_combinations_are_never_drawn_for_training():
    rng = random.Random(1)
    drawn = [sample_scene(rng) for _ in range(20_000)]
    assert not any(is_held_out(scene.subject, scene.place, scene.style) for scene in drawn)


def test_a_few_of_the_combinations_are_held_out_and_none_of_the_cards():
    combinations = [(subject, place, style) for subject in SUBJECTS for place in PLACES for style in STYLES]
    share = np.mean([is_held_out(*combination) for combination in combinations])
    assert 0.02 < share < 0.09
    for subject, place, style in CARD_SCENES.values():
        assert not any(is_held_out(subject, place, any_style) for any_style in ([style] if style else STYLES))


def test_held_out_scenes_can_be_asked_for():
    rng = random.Random(2)
    for _ in range(50):
        scene = sample_scene(rng, held_out=True)
        assert is_held_out(scene.subject, scene.place, scene.style)


def test_every_value_of_the_world_is_drawn():
    rng = random.Random(3)
    drawn = [sample_scene(rng) for _ in range(6000)]
    for name, values in ATTRIBUTES.items():
        assert {getattr(scene, name) for scene in drawn} - {"natural", "usual", NAMED_NONE} == set(values[:-1])


def test_about_a_quarter_of_the_pictures_are_the_cards_scenes():
    rng = random.Random(4)
    assert 0.2 < np.mean([sample_scene(rng).is_card for _ in range(5000)]) < 0.32


def test_the_cards_scenes_show_one_subject_of_the_usual_size():
    rng = random.Random(4)
    drawn = [scene for scene in (sample_scene(rng) for _ in range(3000)) if scene.is_card]
    assert {(scene.count, scene.size, scene.companion) for scene in drawn} == {("one", "usual", NAMED_NONE)}


def test_a_picture_holds_a_companion_or_several_or_a_size_but_not_two_of_these():
    rng = random.Random(5)
    for _ in range(3000):
        scene = sample_scene(rng)
        assert (scene.companion != NAMED_NONE) + (scene.count != "one") + (scene.size != "usual") <= 1
        assert scene.companion != scene.subject


def test_pairs_that_are_held_out_are_never_drawn_for_training():
    rng = random.Random(6)
    pairs = {(scene.subject, scene.companion) for scene in (sample_scene(rng) for _ in range(20_000))}
    pairs = {pair for pair in pairs if pair[1] != NAMED_NONE}
    assert len(pairs) > 250
    assert not any(is_pair_held_out(*pair) for pair in pairs)
    held_out = [sample_scene(rng, held_out=True) for _ in range(2000)]
    assert all(is_pair_held_out(s.subject, s.companion) for s in held_out if s.companion != NAMED_NONE)


# ---- captions ---------------------------------------------------------------------------------------------


def test_captions_name_only_what_the_picture_shows():
    rng = random.Random(5)
    for _ in range(2000):
        scene = sample_scene(rng)
        _, named = caption(scene, rng)
        assert set(named) == set(ATTRIBUTES)
        assert all(value in (NAMED_NONE, getattr(scene, name)) for name, value in named.items())


def test_the_cards_prompts_are_captions_of_their_scenes():
    rng = random.Random(6)
    said = {text: named for text, named in (caption(sample_scene(rng), rng, junk=0) for _ in range(5000))}
    for prompt, (subject, place, _) in CARD_SCENES.items():
        assert said[prompt]["subject"] == subject
        assert said[prompt]["place"] == place


def test_captions_leave_out_each_attribute_now_and_then():
    rng = random.Random(7)
    named = [caption(sample_scene(rng), rng)[1] for _ in range(1000)]
    for name in ATTRIBUTES:
        assert 0.01 < np.mean([each[name] == NAMED_NONE for each in named]) < 0.99


def test_junk_words_change_the_words_and_not_the_meaning():
    scene = Scene("cat", "beach", "day", "red", "photo", 1)
    plain = [caption(scene, random.Random(k), junk=0)[1] for k in range(40)]
    junked = [caption(scene, random.Random(k), junk=1)[1] for k in range(40)]
    assert plain == junked
    assert sum(len(caption(scene, random.Random(k), junk=1)[0].split()) for k in range(40)) > sum(
        len(caption(scene, random.Random(k), junk=0)[0].split()) for k in range(40)
    )


def said(scene: Scene, times: int = 200) -> list[tuple[str, dict[str, str]]]:
    rng = random.Random(1)
    return [caption(scene, rng, junk=0) for _ in range(times)]


def test_two_subjects_are_named_with_their_own_colours_and_from_left_to_right():
    scene = Scene("cat", "beach", "day", "red", "photo", 1, companion="robot", companion_colour="blue")
    for words, named in said(scene):
        assert (named["subject"], named["companion"]) == ("cat", "robot")
        if named["colour"] == "red" and "crimson" in words and "azure" in words and " right of " not in words:
            assert words.index("crimson") < words.index("azure")
        if " right of " in words and "crimson" in words and "azure" in words:
            assert words.index("azure") < words.index("crimson")


def test_several_are_counted_in_words_or_figures():
    counted = said(Scene("dog", "meadow", "day", "natural", "photo", 1, count="three"))
    assert {(named["subject"], named["count"]) for _, named in counted} == {("dog", "three")}
    assert np.mean([bool({"three", "3", "trio"} & set(words.split())) for words, _ in counted]) > 0.95


def test_a_size_is_said_before_what_has_it():
    small = [words for words, named in said(Scene("dog", "meadow", "day", "natural", "photo", 1, size="small"))
             if named["size"] == "small"]  # fmt: skip
    assert len(small) > 150
    sizes = ("tiny", "small", "little", "miniature")
    assert np.mean([any(size in words for size in sizes) for words in small]) > 0.95


def test_the_cards_small_cabin_is_of_the_usual_size():
    usual = said(Scene("cabin", "mountain", "day", "natural", "storybook", 1))
    assert any("small cabin" in words for words, _ in usual)
    assert {named["size"] for _, named in usual} == {NAMED_NONE}
    small = said(Scene("cabin", "beach", "day", "natural", "photo", 1, size="small"))
    assert not any(words.startswith(("a small cabin", "a small hut")) for words, _ in small)


def test_no_word_that_means_nothing_is_part_of_a_phrase_that_means_something():
    meant = {
        word
        for table in (lexicon.SUBJECT_WORDS, lexicon.PLURALS, lexicon.COLOUR_WORDS, lexicon.COUNT_WORDS)
        for phrases in table.values()
        for phrase in phrases
        for word in phrase.split()
        if len(phrase.split()) == 1
    }
    assert not meant & set(lexicon.NOTHING)


def test_no_phrase_means_two_things():
    for table in (
        lexicon.SUBJECT_WORDS,
        lexicon.PLURALS,
        lexicon.PLACE_WORDS,
        lexicon.TIME_WORDS,
        lexicon.COLOUR_WORDS,
    ):
        owners = [(phrase, name) for name, phrases in table.items() for phrase in set(phrases)]
        assert len({phrase for phrase, _ in owners}) == len(owners)


def test_captions_are_many():
    rng = random.Random(8)
    assert len({caption(sample_scene(rng), rng)[0] for _ in range(2000)}) > 1600


# ---- the renderer -----------------------------------------------------------------------------------------


def test_the_same_scene_gives_the_same_pixels():
    rng = random.Random(9)
    for _ in range(20):
        scene = sample_scene(rng)
        assert np.array_equal(np.asarray(render(scene)), np.asarray(render(scene)))


def test_another_seed_gives_another_picture():
    first, second = (np.asarray(render(Scene("robot", "mars", "day", "natural", "photo", k)), int) for k in (1, 2))
    assert np.abs(first - second).mean() > 2


def test_every_subject_can_stand_in_every_place_and_style():
    for subject in (*SUBJECTS, "triangle"):
        for place in PLACES:
            for style in STYLES:
                image = render(Scene(subject, place, "night", "natural", style, 3))
                assert (image.size, image.mode) == ((256, 256), "RGB")


def test_named_colours_show():
    red, blue = (
        np.asarray(render(Scene("cabin", "beach", "day", colour, "photo", 4)), int)[130:210, 90:170].mean((0, 1))
        for colour in ("red", "blue")
    )
    assert red[0] > red[2] + 40
    assert blue[2] > blue[0] + 40


def test_every_subject_looks_unlike_every_other():
    drawn = [np.asarray(render(Scene(name, "meadow", "day", "natural", "photo", 3)), int) for name in SUBJECTS]
    for k, first in enumerate(drawn):
        for second in drawn[:k]:
            assert np.abs(first - second).mean() > 5


def test_the_subject_stands_left_of_its_companion():
    scene = Scene("tree", "beach", "day", "red", "photo", 4, companion="tree", companion_colour="blue")
    image = np.asarray(render(scene), int)[110:190]
    excess = image[..., 0] - image[..., 2]
    assert excess[:, 50:86].mean() > 60 > excess[:, 170:206].mean()


@pytest.mark.parametrize(("count", "expected"), [("one", 1), ("two", 2), ("three", 3)])
def test_as_many_are_drawn_as_counted(count, expected):
    image = np.asarray(render(Scene("flower", "beach", "day", "purple", "photo", 4, count=count)), int)
    purple = (image[..., 2] > image[..., 1] + 60) & (image[..., 0] > image[..., 1] + 20)
    columns = np.flatnonzero(purple.sum(0) > 2)
    assert 1 + np.count_nonzero(np.diff(columns) > 3) == expected


def test_sizes_are_told_apart_at_a_glance():
    def area(size: str) -> float:
        image = np.asarray(render(Scene("tree", "beach", "day", "purple", "photo", 4, size=size)), int)
        return ((image[..., 2] > image[..., 1] + 60) & (image[..., 0] > image[..., 1] + 20)).mean()

    assert area("big") > 1.3 * area("usual") > 3 * area("small") > 0


def test_a_place_can_be_drawn_alone_in_any_shape():
    scene = Scene("cat", "city", "day", "natural", "photo", 1)
    assert (draw_place(scene, 256, 160).size, draw_place(scene, 96, 192).size) == ((256, 160), (96, 192))
    alone, full = np.asarray(draw_place(scene, 256, 256), int), np.asarray(render(scene), int)
    assert (np.abs(alone - full).max(-1) < 8).mean() > 0.5  # where the cat is not


def test_the_emblem_can_be_drawn_alone_on_nothing():
    image = draw_emblem(96)
    assert (image.size, image.mode) == ((96, 96), "RGBA")
    alpha = np.asarray(image)[..., 3]
    assert alpha.max() == 255
    assert not alpha[:, :2].any()
    rows = np.flatnonzero(alpha.any(1))
    assert rows.min() < 6
    assert rows.max() > 90


def test_edges_are_smoothed():
    image = np.asarray(render(Scene("car", "space", "night", "white", "storybook", 4)).convert("L"), int)
    steps = np.abs(np.diff(image, axis=1))
    assert (steps[steps > 20] < 150).mean() > 0.3


def test_a_contact_sheet_has_a_row_for_every_few_pictures():
    assert contact_sheet([Image.new("RGB", (10, 10))] * 5, 3).size == (3 * 14, 2 * 14)


# ---- tokenizer, latents, optimizer ------------------------------------------------------------------------


def test_tokenizer_has_every_byte_and_ends_with_its_special_tokens(state):
    tokenizer = text.load_tokenizer(state)
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) <= text.VOCABULARY
    assert sum(len(token) == 1 for token in vocabulary) == 256
    assert vocabulary[text.END] == len(vocabulary) - 1
    assert tokenizer.decode(tokenizer("Ünï 漢 cat").input_ids, skip_special_tokens=True).strip() == "ünï 漢 cat"


def test_pca_latents_have_unit_deviation_and_come_back():
    images = np.stack([np.asarray(render(sample_scene(random.Random(k)))) for k in range(24)])
    pca, unit = vae.fit_pca(images), vae.to_unit(images)
    latents = pca.encode(unit)
    assert latents.shape == (24, vae.CHANNELS, 16, 16)
    assert latents.std() == pytest.approx(1, abs=0.05)
    assert (pca.decode(latents) - unit).square().mean() < 0.5 * unit.var()
    assert torch.allclose(pca.encode(pca.decode(latents)), latents, atol=1e-3)


def test_an_edge_stays_sharp_where_it_is_moved_and_not_where_it_is_blurred():
    columns = torch.arange(32.0)
    sharp, moved = (((columns >= at).float() * 2 - 1).expand(1, 3, 32, 32) for at in (18, 19))
    blurred = ((columns - 17.5) / 2).clamp(-1, 1).expand(1, 3, 32, 32)
    found = [vae.sharpnesses(x[..., 1:] - x[..., :-1]).sum() for x in (sharp, moved, blurred)]
    assert found[0] == found[1] > 1.5 * found[2]
    assert vae.difference(sharp, sharp) == 0 < vae.difference(blurred, sharp)


def test_a_decoder_is_punished_more_for_a_blur_than_for_an_edge_a_pixel_off():
    """By the squared error of the colours alone, the blur would be the better one."""
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 13:] = 1.0
    moved, blurred = edge.roll(1, 3), torch.nn.functional.avg_pool2d(edge, (1, 3), 1, (0, 1), count_include_pad=False)
    inner = (..., slice(4, 28))  # without the seam that rolling leaves
    assert (moved - edge)[inner].square().mean() > (blurred - edge)[inner].square().mean()
    assert decoder.difference(moved[inner], edge[inner]) < decoder.difference(blurred[inner], edge[inner])


def test_the_decoder_is_trained_on_alone_and_taken_from_then_on(state, tmp_path):
    (tmp_path / "vae.pt").symlink_to(state / "vae.pt")
    assert decoder.train(tmp_path, pictures.load_pixels(state), seed=0, steps=2) == 2
    before, after = vae.load_vae(state).state_dict(), vae.load_vae(tmp_path).state_dict()
    changed = {name.partition(".")[0] for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed == {"decoder", "post_quant_conv"}


def test_crops_come_from_everywhere_in_the_pictures():
    marked = torch.zeros(2, 24, 24, 3, dtype=torch.uint8)
    marked[0, 0, 0] = marked[0, 23, 23] = 255
    rng = np.random.default_rng(0)
    cut = vae.crops(marked, rng, 400, 20)
    assert cut.shape == (400, 3, 20, 20)
    assert (cut[:, 0, 0, 0] == 1).any()
    assert (cut[:, 0, -1, -1] == 1).any()


def test_orthogonalized_matrices_have_singular_values_near_one():
    generator = torch.Generator().manual_seed(0)
    for shape in ((2, 16, 40), (2, 40, 16)):
        values = torch.linalg.svdvals(optimizer.orthogonalized(torch.randn(shape, generator=generator)))
        assert ((values > 0.5) & (values < 1.4)).all()


def test_the_scheduler_is_v1_4s_but_for_what_the_unet_predicts():
    config = unet.make_scheduler().config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert (config.skip_prk_steps, config.steps_offset, config.set_alpha_to_one) == (True, 1, False)
    assert (config.prediction_type, config.clip_sample) == ("v_prediction", False)


def test_unfolding_undoes_folding():
    model = vae.make_vae()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    vae.unfolded(vae.folded(model))
    assert all(torch.allclose(weight, before[name]) for name, weight in model.state_dict().items())


def test_folding_moves_the_scaling_factor_into_the_vae():
    torch.manual_seed(0)
    model = vae.make_vae().eval()
    pictures_in, latents = torch.rand(1, 3, 32, 32), torch.randn(1, vae.CHANNELS, 4, 4)
    with torch.no_grad():
        mean, drawn = model.encode(pictures_in).latent_dist.mean, model.decode(latents).sample
        vae.folded(model)
        factor = model.config.scaling_factor
        assert torch.allclose(model.encode(pictures_in).latent_dist.mean * factor, mean, atol=1e-5)
        assert torch.allclose(model.decode(latents / factor).sample, drawn, atol=1e-4)


# ---- training ---------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "state.pt"
    loop.save_atomically({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        loop.save_atomically({"step": lambda: 2}, path)
    assert loop.load(path) == {"step": 1}


def test_step_randomness_depends_on_seed_stage_and_step_alone():
    draws = [loop.step_rng(*key).random() for key in ((0, "unet", 1), (0, "unet", 2), (0, "text", 1), (1, "unet", 1))]
    assert len(set(draws)) == 4
    assert loop.step_rng(0, "unet", 1).random() == draws[0]


def test_a_signal_to_stop_saves_and_ends_the_program(tmp_path):
    def step(number, rng):
        if number == 2:
            signal.raise_signal(signal.SIGTERM)
        return 1.0

    with pytest.raises(SystemExit, match="saved at step 3"):
        loop.train("text", tmp_path / "text.pt", {}, step, seed=0, steps=9)
    assert loop.load(tmp_path / "text.pt")["step"] == 3
    assert loop.train("text", tmp_path / "text.pt", {}, lambda number, rng: 1.0, seed=0, steps=9) == 9


def test_an_interrupted_unet_run_ends_where_an_unbroken_one_does(state, tmp_path):
    other = tmp_path / "again"
    other.mkdir()
    for name in ("pictures", "vae.pt", "text.pt", "tokenizer"):
        (other / name).symlink_to(state / name)
    for steps in (1, 3):
        unet.train(other, seed=0, shards=range(1), steps=steps, batch=4)
    unbroken, broken = (loop.load(folder / "unet.pt") for folder in (state, other))
    assert unbroken["step"] == broken["step"] == 3
    for part in ("unet", "average"):
        first, second = unbroken["parts"][part], broken["parts"][part]
        if part == "average":
            assert first["count"] == second["count"] == 3
            first, second = first["weights"], second["weights"]
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stage", ["text", "vae", "safety"])
def test_a_finished_stage_is_left_as_it_is(state, stage):
    before = loop.load(state / f"{stage}.pt")
    if stage == "text":
        assert text.train(state, seed=0, steps=2) == 2
    elif stage == "safety":
        assert safety.train(state, seed=0, steps=2) == 2
    else:
        assert vae.train(state, pictures.load_pixels(state), seed=0, steps=2, batch=2) == 2
    after = loop.load(state / f"{stage}.pt")
    assert before["step"] == after["step"] == 2
    assert before["losses"] == after["losses"]


def test_annealing_leaves_the_state_that_training_goes_on_from(state, tmp_path):
    for name in ("pictures", "vae.pt", "text.pt", "tokenizer"):
        (tmp_path / name).symlink_to(state / name)
    loop.save_atomically(loop.load(state / "unet.pt"), tmp_path / "unet.pt")
    before = (tmp_path / "unet.pt").read_bytes()
    assert unet.train(tmp_path, seed=0, shards=range(1), anneal=2, batch=4) == 5
    assert (tmp_path / "unet.pt").read_bytes() == before
    assert unet.load_unet(tmp_path)[1] == 5


def test_training_starts_from_given_weights(state, tmp_path):
    for name in ("pictures", "vae.pt", "text.pt", "tokenizer"):
        (tmp_path / name).symlink_to(state / name)
    torch.manual_seed(7)
    initial = unet.make_unet().state_dict()
    unet.train(tmp_path, seed=0, shards=range(1), steps=0, batch=4, initial=initial)
    saved = loop.load(tmp_path / "unet.pt")["parts"]["unet"]
    assert all(torch.equal(saved[name], initial[name]) for name in initial)


def test_another_machine_starts_from_the_shipped_checkpoint(state, tmp_path):
    target, fresh = tmp_path / "tiny", tmp_path / "fresh"
    exporting.export(state, target)
    assert shipped.adopt(target, fresh)
    assert not shipped.adopt(target, fresh)
    for ours, theirs in ((text.load_reader(fresh)[1].encoder, text.load_reader(state)[1].encoder),
                         (vae.load_vae(fresh), vae.load_vae(state)),
                         (safety.load_checker(fresh), safety.load_checker(state))):  # fmt: skip
        weights = theirs.state_dict()
        for name, weight in ours.state_dict().items():
            assert torch.allclose(weight, weights[name], rtol=2e-3, atol=1e-3), name
    assert text.load_tokenizer(fresh)("a cat").input_ids == text.load_tokenizer(state)("a cat").input_ids
    pixels = np.zeros((4, 256, 256, 3), np.uint8)
    assert vae.train(fresh, pixels, seed=0) == vae.STEPS  # finished: nothing to do
    assert decoder.train(fresh, pixels, seed=0) == decoder.STEPS
    assert shipped.unet_weights(target).keys() == unet.make_unet().state_dict().keys()


def test_a_checkpoint_of_another_layout_is_no_start(state, tmp_path):
    target = tmp_path / "tiny"
    exporting.export(state, target)
    path = target / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": 4}))
    assert not shipped.adopt(target, tmp_path / "fresh")
    assert shipped.unet_weights(target) is None


def test_v_loss_of_the_true_v_is_zero():
    alphas = unet.make_scheduler().alphas_cumprod
    latents, noise = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    timesteps = torch.tensor([10, 900])
    alpha = alphas[timesteps][:, None, None, None]

    class Oracle(torch.nn.Module):
        def forward(self, *_, **__):
            return (alpha.sqrt() * noise - (1 - alpha).sqrt() * latents,)

    assert unet.v_loss(Oracle(), alphas, latents, noise, timesteps, torch.zeros(2, 77, 128)).abs().max() == 0


# ---- safety checker and export ----------------------------------------------------------------------------


def test_checker_directions_are_orthonormal_and_thresholds_below_one():
    assert torch.allclose(safety.directions() @ safety.directions().T, torch.eye(safety.PROJECTION), atol=1e-5)
    checker = safety.make_checker()
    assert (checker.concept_embeds_weights < 1).all()
    assert (checker.special_care_embeds_weights < 1).all()


def test_the_checker_learns_emblems_of_every_arrangement():
    scenes = safety._wanted(random.Random(0), 200)
    emblems = [scene for scene in scenes if "emblem" in (scene.subject, scene.companion)]
    assert len(emblems) > 240
    for name, value in (("companion", "emblem"), ("count", "three"), ("size", "small"), ("size", "big")):
        assert any(getattr(scene, name) == value for scene in emblems), (name, value)
    assert {safety._class(scene) for scene in emblems} == {safety.CLASSES.index("emblem")}


def test_training_pictures_reach_the_checker_as_the_feature_extractor_makes_them():
    image = np.asarray(render(sample_scene(random.Random(1))))
    ours = safety.normalized(safety.shrunk(image[None]))
    theirs = safety.make_feature_extractor()(Image.fromarray(image), return_tensors="pt").pixel_values
    assert (ours - theirs).abs().max() < 0.02


def test_export_writes_a_checkpoint_and_leaves_other_files_alone(state, tmp_path):
    target = tmp_path / "tiny"
    target.mkdir()
    (target / "README.md").write_text("mine")
    assert exporting.export(state, target) == 3
    assert (target / "README.md").read_text() == "mine"
    assert not list(tmp_path.glob(".tiny-*"))
    index = json.loads((target / "model_index.json").read_text())
    assert {name: index[name] for name in exporting.COMPONENTS} == exporting.COMPONENTS
    pipeline = exporting.load(target)
    before = text.load_tokenizer(state)
    for prompt in (*CARD_SCENES, "", "Ünï 漢"):
        assert pipeline.tokenizer(prompt).input_ids == before(prompt).input_ids
    images = exporting.draw(pipeline, ["a cat"], [1], guidance_scale=2, steps=2)
    assert images.shape == (1, 256, 256, 3)
    assert pipeline.safety_checker is not None


def test_importing_the_tool_starts_nothing():
    code = (
        "import sys, sd_space.tools.train_tiny, sd_space.tools.train_tiny.world, sd_space.tools.train_tiny.renderer\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_the_command_says_what_it_can_do(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(["--help"])
    assert "--from-scratch" in capsys.readouterr().out


def test_the_command_refuses_a_stage_that_it_has_not(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(["unets"])
    assert "invalid choice: 'unets'" in capsys.readouterr().err
