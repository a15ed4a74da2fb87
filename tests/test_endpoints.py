"""What the public endpoints answer, called without a server."""

import asyncio
import inspect
import re

import gradio as gr
import pytest
from gradio.utils import get_function_description

from sd_space.errors import EngineFailed
from sd_space.fields import Picture
from sd_space.request import REQUEST_FIELDS
from sd_space.schema import Outcome, Stage
from sd_space.serving import limits
from sd_space.ui.form import CARD_DEFAULTS, CARD_LIMITS

from .fakes import FakeBackend
from .test_schema import INFO
from .window import Host, play

PUBLIC = ["accept_license", "generate", "compare", "model", "verify"]


def data(token: str = "", **changes) -> list:
    """The inputs of /generate, in their order."""
    values = {
        "prompt": "a cat", "negative_prompt": "", "num_images_per_prompt": 4, "num_inference_steps": 20,
        "guidance_scale": 3.0, "seed": 7, "width": None, "height": None, "scheduler": "PNDM", "acceptance_token": token,
        "init_image": "", "mask": "", "strength": 0.8, "variation_seed": -1, "variation_strength": 0.0,
    } | changes  # fmt: skip
    return list(values.values())


def signature(host: Host, name: str) -> inspect.Signature:
    (event,) = [event for event in host.demo.fns.values() if event.api_name == name]
    return inspect.signature(event.fn)


def test_five_endpoints_are_public_and_all_events_of_the_page_private(tmp_path):
    async def scene(host: Host):
        public = [event.api_name for event in host.demo.fns.values() if event.api_visibility == "public"]
        assert public == PUBLIC
        assert {event.api_visibility for event in host.demo.fns.values()} == {"public", "private"}

    play(tmp_path, scene)


def test_every_field_of_a_request_is_a_parameter_with_the_tables_default_and_help(tmp_path):
    async def scene(host: Host):
        parameters = signature(host, "generate").parameters
        assert list(parameters) == [
            "prompt", "negative_prompt", "num_images_per_prompt", "num_inference_steps", "guidance_scale", "seed",
            "width", "height", "scheduler", "acceptance_token",
            "init_image", "mask", "strength", "variation_seed", "variation_strength", "request",
        ]  # fmt: skip
        assert set(parameters) - {"acceptance_token", "request"} == REQUEST_FIELDS.keys()
        (event,) = [event for event in host.demo.fns.values() if event.api_name == "generate"]
        _, helps, _ = get_function_description(event.fn)
        for name, field in REQUEST_FIELDS.items():
            assert helps[name] == field.describe(CARD_LIMITS)
            if field.default is not None:
                assert parameters[name].default == field.default
            elif isinstance(field.kind, Picture):
                assert parameters[name].default == ""
            elif name not in ("prompt", "width", "height"):  # a size is the model's own
                assert parameters[name].default == getattr(CARD_DEFAULTS, name)

    play(tmp_path, scene)


def test_accepting_gives_a_token_that_opens_generate(tmp_path):
    async def scene(host: Host):
        host.backend.proceed.set()
        ((token,),) = await host.call("accept_license", True)
        *_, (files, result) = await host.call("generate", *data(token))
        assert [image["seed"] for image in result["images"]] == [7, 8, 9, 10] and len(files) == 4
        assert result["recipe"]["prompt"] == "a cat" and result["elapsed_s"] == {"total": 2.0}

    play(tmp_path, scene)


@pytest.mark.parametrize("agree", [False, "true", 1, None])
def test_only_true_accepts_the_licence(tmp_path, agree):
    async def scene(host: Host):
        with pytest.raises(gr.Error, match="agree must be true"):
            await host.call("accept_license", agree)

    play(tmp_path, scene)


@pytest.mark.parametrize("forged", ["", "x", "e30.x", None])
def test_without_a_valid_token_nothing_is_drawn(tmp_path, forged):
    async def scene(host: Host):
        with pytest.raises(gr.Error, match="/accept_license"):
            await host.call("generate", *data(forged))
        assert host.backend.started == [] and len(host.capacity) == 0

    play(tmp_path, scene)


def test_the_token_may_travel_in_a_header(tmp_path):
    async def scene(host: Host):
        host.backend.proceed.set()
        *_, (files, _) = await host.call("generate", *data(), x_license_token=host.gate.issue_token(True))
        assert len(files) == 4

    play(tmp_path, scene)


def test_progress_has_the_names_of_the_engine_and_those_of_earlier_versions(tmp_path):
    async def scene(host: Host):
        token = host.gate.issue_token(True)
        seen = []
        async for files, result in host.stream("generate", *data(token)):
            seen.append((files, result))
            if result.get("progress", {}).get("num_timesteps"):
                host.backend.proceed.set()
        assert seen[0] == ([], {"progress": {"stage": "queued"}})
        assert {
            "queue_position": 0, "step_index": 1, "num_timesteps": 51, "step": 1, "steps": 51, "pictures_done": 0,
            "seconds_left": 2.0, "fraction_done": 0.0,
        } in [result.get("progress") for _, result in seen]  # fmt: skip

    play(tmp_path, scene)


def test_while_the_model_loads_a_call_waits_and_says_how_far_it_is(tmp_path):
    async def scene(host: Host):
        host.backend.stage = Stage.LOADING
        host.backend.proceed.set()
        seen = []
        async for _, result in host.stream("generate", *data(host.gate.issue_token(True))):
            seen.append(result)
            host.backend.stage = Stage.READY
        assert seen[0] == {"progress": {"stage": str(Stage.LOADING)}} and "images" in seen[-1]

    play(tmp_path, scene)


def test_who_leaves_frees_the_device_and_his_place(tmp_path):
    async def scene(host: Host):
        async for _, result in (answers := host.stream("generate", *data(host.gate.issue_token(True)))):
            if result.get("progress", {}).get("num_timesteps"):
                break
        await answers.aclose()
        (cancelled,) = host.backend.cancelled.values()
        await cancelled.wait()
        while len(host.capacity):
            await asyncio.sleep(0)

    play(tmp_path, scene)


def test_withheld_pictures_are_named_and_have_a_placeholder(tmp_path):
    async def scene(host: Host):
        host.backend.proceed.set()
        *_, (files, result) = await host.call("generate", *data(host.gate.issue_token(True)))
        outcomes = [image["outcome"] for image in result["images"]]
        assert outcomes == ["ok", "withheld", "broken", "ok"] and len(files) == 4

    play(tmp_path, scene, FakeBackend((Outcome.OK, Outcome.WITHHELD, Outcome.BROKEN, Outcome.OK)))


def test_a_failure_is_a_sentence(tmp_path):
    async def scene(host: Host):
        host.backend.proceed.set()
        with pytest.raises(gr.Error, match="The device was lost"):
            await host.call("generate", *data(host.gate.issue_token(True)))

    play(tmp_path, scene, FakeBackend(error=EngineFailed("The device was lost.")))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("prompt", "  ", "prompt must not be empty"),
        ("num_images_per_prompt", 5, "num_images_per_prompt must be a whole number from 1 to 4, not 5."),
        ("seed", 1.5, "seed must be a whole number from -1"),
        ("width", 7, "width must be a whole number from 64"),
        ("scheduler", "Unknown", "scheduler must be one of PNDM"),
    ],
)
def test_a_bad_value_is_refused_in_a_sentence_and_takes_no_place(tmp_path, field, value, says):
    async def scene(host: Host):
        with pytest.raises(gr.Error) as refusal:
            await host.call("generate", *data(host.gate.issue_token(True), **{field: value}))
        assert says in str(refusal.value) and len(host.capacity) == 0

    play(tmp_path, scene)


def test_the_model_describes_itself_once_it_is_there(tmp_path):
    async def scene(host: Host):
        ((model,),) = await host.call("model")
        assert model["ready"] is True and model["model"] == INFO.model and model["default_size"] == [256, 256]
        host.backend.stage = Stage.LOADING
        ((model,),) = await host.call("model")
        assert model == {"ready": False, "stage": str(Stage.LOADING), "waiting": 0, "devices": []}

    play(tmp_path, scene)


def test_a_result_of_ones_own_is_named_by_its_address_and_nobody_elses(tmp_path):
    async def scene(host: Host):
        host.backend.outcomes = (Outcome.OK, Outcome.WITHHELD)
        host.backend.proceed.set()
        mine, other = host.gate.issue_token(True), host.gate.issue_token(True)
        *_, (files, _) = await host.call("generate", *data(mine, num_images_per_prompt=2))
        shown, withheld = (f"http://here/gradio_api/file={file.path}" for file in files)
        *_, (_, result) = await host.call("generate", *data(mine, init_image=shown, num_images_per_prompt=2))
        assert result["recipe"]["init_image_seed"] == 7 and result["recipe"]["strength"] == 0.8
        asked = host.backend.started[-1].request
        assert (asked.width, asked.height, asked.init_image.seed) == (64, 64, 7), "the size of that picture"
        refused = ((mine, withheld, "not shown"), (other, shown, "still there"), (mine, f"{shown}x", "still there"))
        for token, address, words in refused:
            with pytest.raises(gr.Error, match=words):
                await host.call("generate", *data(token, init_image=address))
        assert len(host.backend.started) == 2 and len(host.capacity) == 0

    play(tmp_path, scene)


def test_pictures_that_wait_to_be_verified_are_bounded_with_all_large_bodies(tmp_path, monkeypatch):
    async def scene(host: Host):
        ((token,),) = await host.call("accept_license", True)
        monkeypatch.setattr(limits, "MAX_HELD_BYTES", 1_000)
        with pytest.raises(gr.Error, match=re.escape(limits.FULL)):
            await host.call("verify", "data:image/png;base64," + "A" * 1_000, token)
        monkeypatch.setattr(limits, "MAX_HELD_BYTES", 10_000)
        with pytest.raises(gr.Error, match="picture must be"):  # and what was refused is held no more
            await host.call("verify", "data:image/png;base64," + "A" * 9_000, token)

    play(tmp_path, scene)


def strip_data(host: Host, token: str, **changes) -> list:
    """The inputs of /compare, in their order."""
    values = {"field": "guidance_scale", "values": "1.5, 2, 3", "prompt": "a cat", "acceptance_token": token} | changes
    parameters = signature(host, "compare").parameters.values()
    return [values.get(p.name, None if p.default is p.empty else p.default) for p in parameters if p.name != "request"]


def test_a_strip_has_a_picture_for_each_value_and_the_same_random_seed(tmp_path):
    async def scene(host: Host):
        host.backend.proceed.set()
        *_, (files, answer) = await host.call("compare", *strip_data(host, host.gate.issue_token(True)))
        assert answer["field"] == "guidance_scale" and len(files) == 3
        recipes = [result["recipe"] for result in answer["results"]]
        assert [recipe["guidance_scale"] for recipe in recipes] == [1.5, 2, 3]
        assert len({recipe["seed"] for recipe in recipes}) == 1 and recipes[0]["num_images_per_prompt"] == 1
        assert [[image["outcome"] for image in result["images"]] for result in answer["results"]] == [["ok"]] * 3
        assert len(host.capacity) == 0

    play(tmp_path, scene)


def test_a_strip_is_one_request_whose_pictures_are_drawn_together_and_end_with_its_caller(tmp_path):
    async def scene(host: Host):
        inputs = strip_data(host, host.gate.issue_token(True), values="1, 2, 3, 4, 5, 6, 7, 8")
        answers = host.stream("compare", *inputs)
        async for _, result in answers:
            if len(host.backend.started) == 8:
                assert result["progress"].get("pictures_done", 0) == 0
                break
        assert len(host.capacity) == 1 and len({one.visitor for one in host.backend.started}) == 1
        await answers.aclose()
        for cancelled in host.backend.cancelled.values():
            await cancelled.wait()

    play(tmp_path, scene)


def test_pictures_of_a_strip_that_cannot_be_drawn_cost_it_no_others(tmp_path):
    async def scene(host: Host):
        host.backend.error = EngineFailed("This picture could not be drawn; please try again.")
        host.backend.proceed.set()
        *_, (files, answer) = await host.call("compare", *strip_data(host, host.gate.issue_token(True)))
        assert len(files) == sum(len(result["images"]) for result in answer["results"])
        assert [result["error"] for result in answer["results"]] == [str(host.backend.error)] * 3

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("field", "values", "says"),
    [
        ("num_images_per_prompt", "1, 2", "field must be one of prompt, negative_prompt, num_inference_steps"),
        ("init_image", "1, 2", "field must be one of"),
        ("guidance_scale", "3", "values must be 2 to 8 of guidance_scale, with commas between them, not 1."),
        ("guidance_scale", "1,2,3,4,5,6,7,8,9", "not 9."),
        ("guidance_scale", "2, much", "values of guidance_scale must be numbers, not 'much'."),
        ("guidance_scale", "1_0, 2", "values of guidance_scale must be numbers, not '1_0'."),
        ("num_inference_steps", "٣, 4", "values of num_inference_steps must be numbers, not '٣'."),
        ("guidance_scale", "2, nan", "guidance_scale must be a number from 1 to 20"),
        ("num_inference_steps", "2.5, 3", "values of num_inference_steps must be numbers, not '2.5'."),
        ("size", "64x64, 64", "values of size must be sizes such as 512x768, not '64'."),
        ("size", "64x64, 64x63", "height must be"),
        ("scheduler", "PNDM, Best", "scheduler must be one of"),
        ("prompt", "a cat", "values must be 2 to 8 of prompt, in a line each, not 1."),
        ("prompt", "a cat\n", "prompt must not be empty"),
        (7, "1, 2", "field must be one of"),
        ("seed", None, "values must be text, such as 1.5, 2, 3, not nothing."),
    ],
)
def test_what_is_wrong_with_a_strip_is_said_before_anything_is_drawn(tmp_path, field, values, says):
    async def scene(host: Host):
        with pytest.raises(gr.Error, match=re.escape(says)):
            await host.call("compare", *strip_data(host, host.gate.issue_token(True), field=field, values=values))
        assert host.backend.started == [] and len(host.capacity) == 0

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("field", "values", "name", "drawn"),
    [
        ("prompt", "a cat, red\na dog", "prompt", ["a cat, red", "a dog"]),
        ("negative_prompt", "\nblurry", "negative_prompt", ["", "blurry"]),
        ("size", "64x128,128x64", "width", [64, 128]),
        ("seed", "7, 8", "seed", [7, 8]),
        ("scheduler", "PNDM, DDIM", "scheduler", ["PNDM", "DDIM"]),
    ],
)
def test_every_kind_of_field_can_change_in_a_strip(tmp_path, field, values, name, drawn):
    async def scene(host: Host):
        host.backend.proceed.set()
        *_, (_, answer) = await host.call(
            "compare", *strip_data(host, host.gate.issue_token(True), field=field, values=values)
        )
        assert [result["recipe"][name] for result in answer["results"]] == drawn

    play(tmp_path, scene)
