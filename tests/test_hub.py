"""Fetching the model, and every way in which the Hub can refuse it, against a stand-in of its HTTP interface."""

import json
import logging
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from sd_space.errors import ModelUnavailable
from sd_space.model import download, pipeline
from sd_space.model.download import DownloadStalled
from sd_space.model.files import FilesMissing, files_in, format_size, needed_files, variant_of
from sd_space.model.hub import fetch
from sd_space.model.hub_errors import operator_hint
from sd_space.model.pipeline import load_pipeline
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.settings import V1_4, V1_4_REVISION, Settings

from .generated import sampled
from .hub import TOKEN, StandInHub, patience_s, point_here, serving
from .tiny_models import make_pipeline

CONFIGS = {
    "model_index.json", "scheduler/scheduler_config.json", "feature_extractor/preprocessor_config.json",
    "tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
    "safety_checker/config.json",
}  # fmt: skip
HALF = {
    "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors",
    "text_encoder/model.fp16.safetensors", "safety_checker/model.fp16.safetensors",
}  # fmt: skip
WHOLE = {name.replace(".fp16", "") for name in HALF}


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(pipeline, "_loaded", {})


def spec(**changes) -> PipelineSpec:
    return PipelineSpec.from_settings(Settings(**{"model": V1_4, "runtime": "torch"} | changes), Hardware("cpu"))


# --- what is needed


def names_of(repository: Path) -> set[str]:
    return files_in(repository)


def test_only_safetensors_of_the_wanted_variant_are_needed(repository):
    names = names_of(repository)
    assert {"v1-4.ckpt", "unet/diffusion_pytorch_model.bin"} < names
    assert set(needed_files(names, "fp16")) == CONFIGS | HALF
    assert set(needed_files(names, None)) == CONFIGS | WHOLE


def test_a_component_without_the_variant_comes_plain_and_then_in_half(repository):
    names = names_of(repository) - {"vae/diffusion_pytorch_model.fp16.safetensors"}
    assert variant_of(names, "vae", "fp16") is None
    assert variant_of(names - WHOLE, "unet", None) == "fp16"
    assert "vae/diffusion_pytorch_model.safetensors" in needed_files(names, "fp16")


def test_shards_are_needed_with_their_index_and_only_all_together(repository):
    shards = {f"unet/diffusion_pytorch_model.fp16-0000{k}-of-00002.safetensors" for k in (1, 2)}
    shards |= {"unet/diffusion_pytorch_model.safetensors.index.fp16.json"}
    names = names_of(repository) - HALF | shards
    assert shards < set(needed_files(names, "fp16"))
    assert variant_of(names - {max(shards)}, "unet", "fp16") is None, "the plain one"


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("model_index.json", "model_index.json"),
        ("vae/config.json", "vae/config.json"),
        ("tokenizer/vocab.json", "tokenizer/vocab.json"),
        ("feature_extractor/preprocessor_config.json", "feature_extractor"),
    ],
)
def test_what_is_missing_is_named(repository, lost, told):
    with pytest.raises(FilesMissing, match=told):
        needed_files(names_of(repository) - {lost}, "fp16")


def test_pickles_are_never_taken_instead(repository):
    names = names_of(repository) - WHOLE - HALF
    with pytest.raises(FilesMissing, match="no safetensors in unet"):
        needed_files(names, None)


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 bytes"), (1500, "2 kB"), (246e6, "246 MB"), (2.74e9, "2.74 GB"), (24.3e9, "24.30 GB")]
)
def test_sizes_are_said_as_people_say_them(count, words):
    assert format_size(count) == words


# --- fetching


def test_the_files_of_the_pinned_commit_come_and_no_others(standin):
    told = []
    snapshot = fetch(V1_4, V1_4_REVISION, "fp16", told.append)
    assert standin.fetched == CONFIGS | HALF
    assert all(V1_4_REVISION in path for _, path in standin.asked if "resolve" in path or "revision" in path)
    assert snapshot.commit == V1_4_REVISION
    assert files_in(snapshot.folder) == CONFIGS | HALF
    total = sum((standin.folder / name).stat().st_size for name in CONFIGS | HALF)
    assert told[0] == "asking the Hub"
    assert told[-1] == f"{format_size(total)} of {format_size(total)} fetched"


def test_a_cached_commit_is_used_without_asking_the_hub(standin):
    first = fetch(V1_4, V1_4_REVISION, "fp16")
    standin.asked.clear()
    assert fetch(V1_4, V1_4_REVISION, "fp16") == first
    assert not standin.asked


def test_another_variant_of_a_cached_commit_is_fetched(standin):
    fetch(V1_4, V1_4_REVISION, "fp16")
    standin.asked.clear()
    fetch(V1_4, V1_4_REVISION, None)
    assert standin.fetched == WHOLE


def test_a_branch_is_remembered_for_a_start_without_the_hub(standin, caplog):
    first = fetch(V1_4, "main", "fp16")
    standin.fault = "broken"
    assert fetch(V1_4, "main", "fp16") == first
    assert "the cached copy" in caplog.text


@pytest.mark.parametrize("version", ["v1-1", "v1-2", "v1-3"])
def test_the_earlier_versions_are_loaded_by_name(repository, tmp_path, monkeypatch, version):
    """Their repositories hold no half precision on `main`: what is there is taken."""
    folder = tmp_path / version
    shutil.copytree(repository, folder, ignore=shutil.ignore_patterns("*.fp16.*"))
    name = f"CompVis/stable-diffusion-{version}"
    with serving(folder, repository=name, commit="1" * 40) as server:
        point_here(monkeypatch, server.url, tmp_path / "cache")
        info = load_pipeline(spec(model=name, variant="fp16")).info
        assert (info.model, info.revision, info.licence) == (name, "1" * 40, "CreativeML OpenRAIL-M")
        assert server.fetched == CONFIGS | WHOLE


def test_a_2022_repository_is_loaded_with_every_weight(standin, tmp_path):
    told = []
    loaded = load_pipeline(spec(), told.append)
    assert (loaded.info.model, loaded.info.title, loaded.info.revision) == (
        V1_4,
        "Stable Diffusion v1-4",
        V1_4_REVISION,
    )
    fresh = make_pipeline()
    for name in ("unet", "vae", "text_encoder", "safety_checker"):
        expected, got = getattr(fresh, name).state_dict(), getattr(loaded.pipeline, name).state_dict()
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected), name
    text = "a cat does a dog"
    assert loaded.pipeline.tokenizer(text).input_ids == fresh.tokenizer(text).input_ids
    assert [line for line in told if line.startswith("loading")] == [
        "loading the safety checker", "loading the text encoder", "loading the vae", "loading the unet",
    ]  # fmt: skip


def test_the_cards_old_revision_loads_the_pinned_commit_in_half(standin, tmp_path, caplog):
    load_pipeline(spec(revision="fp16"))
    assert standin.fetched == CONFIGS | HALF
    assert "SD_SPACE_VARIANT=fp16" in caplog.text


def test_a_token_opens_a_gated_repository(standin, monkeypatch):
    standin.fault = "gated"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch(V1_4, V1_4_REVISION, "fp16").commit == V1_4_REVISION


# --- faults

FIXES = {
    "unauthorized": "set HF_TOKEN to a token of an account with access",
    "gated": f"accept its licence at https://huggingface.co/{V1_4}",
    "gated to this account": f"accept its licence at https://huggingface.co/{V1_4}",
    "no repository": "is not on the Hub, or the token's account cannot see it; check SD_SPACE_MODEL",
    "no revision": f"has no revision {V1_4_REVISION}; set SD_SPACE_REVISION",
    "busy": "limits how often this address may ask",
    "broken": "answered with error 503",
    "silent": "does not answer at http://127.0.0.1",
    "silent after the list": "check the network",
    "truncated": "went silent: nothing has arrived for",
    "short": "shorter than the Hub said",
}


def hint_of(asked: PipelineSpec) -> str:
    with pytest.raises(ModelUnavailable) as failure:
        load_pipeline(asked)
    told = str(failure.value)
    assert "/" not in told and "Hub" not in told, "visitors are not told of the Hub or of paths"
    hint = failure.value.operator_hint
    assert "\n" not in hint and hint.endswith(".")
    return hint


@pytest.mark.parametrize("fault", StandInHub.FAULTS)
def test_each_fault_of_the_hub_ends_soon_and_names_its_fix(standin, tmp_path, monkeypatch, fault):
    if "account" in fault:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    standin.fault = fault
    began_s = time.monotonic()
    hint = hint_of(spec(hub_timeout_s=patience_s(fault)))
    assert FIXES[fault] in hint
    assert time.monotonic() - began_s < 20.0
    assert TOKEN not in hint


@pytest.mark.parametrize("fault", sampled(["silent", "busy", "truncated"], 1))
def test_auto_falls_back_to_the_picture_book_and_says_why(standin, tmp_path, fault, caplog):
    standin.fault = fault
    asked = PipelineSpec(
        V1_4, V1_4_REVISION, None, "cpu", "float32", hub_timeout_s=patience_s(fault), may_fall_back=True
    )
    info = load_pipeline(asked).info
    assert info.is_picture_book
    assert V1_4 in info.fallback_reason
    assert FIXES[fault] in caplog.text


def test_a_hub_that_is_not_there_is_reported(standin, tmp_path):
    standin.close()
    assert "cannot be reached at http://127.0.0.1" in hint_of(spec())


def test_a_hub_that_was_only_busy_for_a_moment_is_asked_again(standin, monkeypatch):
    refuse, calls = StandInHub._refusal, []

    def sometimes(self, *arguments):
        calls.append(arguments)
        return (503, {}) if len(calls) == 1 else refuse(self, *arguments)

    monkeypatch.setattr(StandInHub, "_refusal", sometimes)
    assert fetch(V1_4, V1_4_REVISION, "fp16").commit == V1_4_REVISION


def test_offline_with_a_warm_cache_loads(standin, tmp_path, monkeypatch):
    fetch(V1_4, V1_4_REVISION, None)
    standin.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_pipeline(spec()).info.revision == V1_4_REVISION
    assert not standin.asked


def test_offline_another_variant_in_the_cache_will_do(standin, monkeypatch):
    first = fetch(V1_4, V1_4_REVISION, None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(V1_4, V1_4_REVISION, "fp16") == first


@pytest.mark.parametrize("lost", ["vae/diffusion_pytorch_model.safetensors", "tokenizer/merges.txt"])
def test_offline_with_a_partial_cache_is_reported(standin, tmp_path, monkeypatch, lost):
    folder = fetch(V1_4, V1_4_REVISION, None).folder
    (folder / lost).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "not cached completely, and HF_HUB_OFFLINE is set" in hint_of(spec())


def test_a_partial_cache_is_completed(standin):
    folder = fetch(V1_4, V1_4_REVISION, None).folder
    (folder / "tokenizer" / "merges.txt").unlink()
    standin.asked.clear()
    fetch(V1_4, V1_4_REVISION, None)
    assert "tokenizer/merges.txt" in files_in(folder)
    assert not standin.fetched & WHOLE


def test_a_disk_that_is_too_small_is_reported_before_anything_is_fetched(standin, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 12345))
    hint = hint_of(spec())
    assert "The disk is full (4 MB needed, 12 kB free); free some space or set HF_HOME" in hint
    assert not standin.fetched


def test_a_file_cut_short_on_the_disk_is_reported(standin, tmp_path):
    path = fetch(V1_4, V1_4_REVISION, None).folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])
    assert "is damaged or cut short" in hint_of(spec())


def test_a_repository_with_pickles_only_is_reported(repository, tmp_path, monkeypatch):
    folder = tmp_path / "pickles"
    shutil.copytree(repository, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with serving(folder) as server:
        point_here(monkeypatch, server.url, tmp_path / "cache")
        assert f"{V1_4} has no safetensors in unet" in hint_of(spec())
        assert not server.fetched


def test_another_kind_of_pipeline_is_reported(repository, tmp_path):
    folder = tmp_path / "xl"
    shutil.copytree(repository, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"}))
    assert "is a StableDiffusionXLPipeline" in hint_of(spec(model=str(folder)))


def test_anything_else_is_reported_with_its_first_line():
    assert "(KeyError: 'x')" in operator_hint(KeyError("x"), V1_4)


UNET, VAE = "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors"


def wait_for_downloads_to_end() -> None:
    for thread in threading.enumerate():
        if thread.name == "download":
            thread.join(10)
            assert not thread.is_alive()


def test_after_a_failure_the_other_downloads_stop_with_their_next_bytes(standin):
    standin.refused = {UNET}
    standin.go_on.clear()  # the other weights have come half-way
    with pytest.raises(HfHubHTTPError):
        fetch(V1_4, V1_4_REVISION, "fp16")
    standin.go_on.set()
    wait_for_downloads_to_end()
    assert not any(try_to_load_from_cache(V1_4, name, revision=V1_4_REVISION) for name in HALF)


def test_after_a_failure_no_further_file_is_asked_for(standin, monkeypatch):
    monkeypatch.setattr(download, "WORKERS", 1)
    largest = max(HALF, key=lambda name: (standin.folder / name).stat().st_size)
    standin.refused = {largest}
    with pytest.raises(HfHubHTTPError):
        fetch(V1_4, V1_4_REVISION, "fp16")
    wait_for_downloads_to_end()
    assert standin.fetched <= {largest}


def test_after_a_failure_downloads_from_xet_storage_stop_too(standin):
    standin.refused, standin.on_xet = {VAE}, {UNET}
    with pytest.raises(HfHubHTTPError):
        fetch(V1_4, V1_4_REVISION, "fp16")
    wait_for_downloads_to_end()


def test_xet_storage_that_is_silent_stalls_the_download(standin):
    standin.on_xet = {UNET}
    with pytest.raises(DownloadStalled, match=r"nothing has arrived for 1 s, after .* of 2 MB"):
        fetch(V1_4, V1_4_REVISION, "fp16", timeout_s=1.0)
    wait_for_downloads_to_end()


def test_a_slow_connection_is_not_a_stall(standin):
    standin.slow = {UNET}  # for 2.4 s
    assert fetch(V1_4, V1_4_REVISION, "fp16", timeout_s=1.5).commit == V1_4_REVISION


def test_the_log_tells_how_far_the_fetching_is(standin, caplog, monkeypatch):
    monkeypatch.setattr(download, "LOG_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO, "sd_space.model.download"):
        fetch(V1_4, V1_4_REVISION, "fp16")
    assert "fetching 15 files of CompVis/stable-diffusion-v1-4, 2 MB" in caplog.text
    assert " of 2 MB of CompVis/stable-diffusion-v1-4 fetched" in caplog.text
