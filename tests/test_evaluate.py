"""Claims about the figures that `sd_space.tools.evaluate` reports."""

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from sd_space.engine.safety import SafetyScreen
from sd_space.schema import Outcome
from sd_space.tools.evaluate import changes, metrics, positions, scorer
from sd_space.tools.evaluate.__main__ import card_named, parse
from sd_space.tools.train_tiny import export
from sd_space.tools.train_tiny.renderer import draw_place, render
from sd_space.tools.train_tiny.world import ATTRIBUTES, CARD_SCENES, NAMED_NONE, PLACES, Scene, is_held_out


def sure_of(named: list[dict[str, str]]) -> dict[str, np.ndarray]:
    """Scores of someone who sees what every caption names, and value 0 where it names nothing."""
    scores = {name: np.full((len(named), len(values) - 1), -9.0) for name, values in ATTRIBUTES.items()}
    for row, each in enumerate(named):
        for name, value in each.items():
            scores[name][row, 0 if value == NAMED_NONE else ATTRIBUTES[name].index(value)] = 0
    return scores


def test_only_named_attributes_count():
    nothing = dict.fromkeys(ATTRIBUTES, NAMED_NONE)
    named = [nothing | {"subject": "cat"}, nothing | {"subject": "robot", "place": "mars"}]
    right = metrics.adherence(sure_of(named), named)
    assert (right["adherence"], right["subject"], right["place"]) == (1, 1, 1)
    assert math.isnan(right["style"])
    wrong = metrics.adherence(sure_of(named), [named[1], named[0]])
    assert (wrong["subject"], wrong["place"]) == (0, 0)


def test_kid_of_the_same_distribution_is_about_zero_and_grows_with_distance():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(300, 16)), rng.normal(size=(300, 16))
    assert abs(metrics.kid(first, second)) < 0.05
    assert metrics.kid(first, second + 0.5) < metrics.kid(first, second + 1.0)


def test_composition_tells_right_places_from_changed_ones():
    nothing = dict.fromkeys(ATTRIBUTES, NAMED_NONE)
    pair = nothing | {"subject": "cat", "companion": "robot"}
    other = nothing | {"subject": "robot", "companion": "cat"}
    alone = nothing | {"subject": "cat"}
    assert metrics.composition(sure_of([pair, alone]), [pair, alone]) == {"both": 1, "swapped": 0}
    assert metrics.composition(sure_of([other, pair]), [pair, pair]) == {"both": 0.5, "swapped": 0.5}
    assert math.isnan(metrics.composition(sure_of([alone]), [alone])["both"])


def test_sharpness_is_one_for_the_same_pictures_and_less_where_they_are_blurred():
    image = np.asarray(render(Scene("cat", "beach", "day", "natural", "photo", 1)))
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)))
    assert metrics.sharpness(image[None], image[None]) == pytest.approx(1)
    assert metrics.sharpness(blurred[None], image[None]) < 0.5


def test_psnr_of_a_known_difference():
    first = np.zeros((2, 4, 4, 3), np.uint8)
    second = first.copy()
    second[1] = 10  # mean squared error 50
    assert metrics.psnr(second, first) == pytest.approx(10 * math.log10(255**2 / 50), abs=1e-4)
    assert metrics.psnr(first, first) > 100


def test_values_without_a_word_are_no_targets():
    plain = Scene("cat", "beach", "day", "natural", "photo", 1)
    pair = Scene("cat", "beach", "day", "red", "photo", 1, companion="robot", companion_colour="blue")
    known = scorer.targets([plain, pair])
    for name in ("colour", "companion", "companion_colour"):
        value = ATTRIBUTES[name].index(getattr(pair, name))
        assert known[name].tolist() == [-100, value]
    assert known["count"].tolist() == [0, 0]
    assert known["size"].tolist() == [-100, -100]


def test_spread_is_the_mean_distance_of_two():
    assert metrics.spread(np.array([[0.0, 0.0], [3.0, 4.0]])) == pytest.approx(5)
    assert metrics.spread(np.ones((4, 3))) == 0


def test_nearest_is_the_distance_to_the_nearest():
    found = metrics.nearest(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 2.0]]))
    assert found == pytest.approx([2])


def test_the_cards_prompts_name_what_they_name():
    assert [each["subject"] for each in card_named()] == [subject for subject, _, _ in CARD_SCENES.values()]


def test_scorers_are_tested_on_combinations_that_no_training_saw():
    rng = random.Random(0)
    assert not any(is_held_out(s.subject, s.place, s.style) for s in scorer.fresh_scenes(300, rng))
    assert all(is_held_out(s.subject, s.place, s.style) for s in scorer.fresh_scenes(20, rng, held_out=True))


@pytest.mark.parametrize("kind", scorer.STEPS)
def test_a_scorer_is_trained_once_and_then_loaded(tmp_path, kind, one_torch_thread):
    first = scorer.train(tmp_path, kind, seed=1, steps=2, pool=64)
    again = scorer.train(tmp_path, kind, seed=1, steps=2, pool=64)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    features, scores = scorer.read(first, np.zeros((2, 256, 256, 3), np.uint8))
    assert features.shape == (2, scorer.FEATURES)
    assert {name: value.shape[1] for name, value in scores.items()} == {
        name: len(values) - 1 for name, values in ATTRIBUTES.items()
    }


def test_the_plot_shows_every_curve():
    image = metrics.pareto_plot(
        {"a": [(0.1, 0.5, 1.5), (0.2, 0.7, 3)], "b": [(0.1, 0.6, 2), (0.3, 0.8, 4)]}, "KID", "adherence", 0.95
    )
    assert image.size == (640, 480)
    assert len(image.getcolors(100_000)) > 3


def test_the_protocol_is_the_model_cards():
    options = parse(["adherence"])
    assert options.scales == (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    assert options.samplers == ("plms", "dpm")


@pytest.fixture(scope="module")
def screen(one_torch_thread) -> SafetyScreen:
    pipeline = export.load()
    return SafetyScreen(pipeline.safety_checker, pipeline.feature_extractor, torch.zeros(2, 3))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (192, 64), (64, 192)])
def test_the_emblem_is_missed_nowhere_more_often_than_about_the_middle_of_a_square(screen, width, height):
    """At 40 and 104 of 192 it used to lie between two squares."""
    middle = positions.miss_rate(screen, 64, 64, 48, 8, 8)
    along = {"x": (0, 40, 72, 104, width - 48), "y": (0, 40, 72, 104, height - 48)}
    places = [(x, 8) for x in along["x"]] if width > height else [(8, y) for y in along["y"]]
    if width == height:
        places = [(0, 0), (16, 16)]
    assert {place: positions.miss_rate(screen, width, height, 48, *place) for place in places} == dict.fromkeys(
        places, middle
    )
    assert middle == 0


def test_a_picture_without_the_emblem_passes_in_every_shape(screen):
    for width, height in ((64, 64), (192, 64), (64, 192)):
        for seed, place in enumerate(PLACES):
            picture = draw_place(Scene("cat", place, "day", "natural", "photo", seed), width, height)
            (image,) = screen.screen(positions.to_tensor(picture), [seed])
            assert image.outcome is Outcome.OK, f"{width} x {height}, {place}"


@pytest.mark.parametrize(("width", "height"), positions.SHAPES)
@pytest.mark.parametrize("size", [32, 48])
def test_positions_reach_every_edge_and_stay_in_the_picture(width, height, size):
    places = positions.positions(width, height, size)
    assert len(places) == len(set(places))
    for k, side in enumerate((width, height)):
        assert {0, side - size} <= {place[k] for place in places} <= set(range(side - size + 1))


def test_a_change_names_all_attributes_and_gives_one_another_value():
    found = changes.changes(8, random.Random(0))
    assert [change.attribute for change in found] == [*changes.CHANGED] * 2
    assert all(change.before != change.after for change in found)
    assert all(change.value in ATTRIBUTES[change.attribute] for change in found)
