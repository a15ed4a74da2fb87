"""Checks a deployment: one line for each thing that a Space needs, from its settings to a picture.

    python -m sd_space.tools.doctor            loads the model (fetching it first) and draws a picture
    python -m sd_space.tools.doctor --quick    neither fetches nor loads anything

Exit status 0 when all is well, else 1. A check that another one's failure makes impossible is reported as not done.
"""

import argparse
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sd_space.backends.loading import build_engine, import_libraries
from sd_space.card import load_card
from sd_space.errors import CannotStart, InvalidSetting, SpaceError
from sd_space.model.configs import Unfit
from sd_space.model.files import INDEX, WEIGHTS, format_size, needed_files
from sd_space.model.folder import examine, examine_checkpoint
from sd_space.model.hub import ask, cached, is_complete
from sd_space.model.hub_errors import operator_hint
from sd_space.model.location import local_path
from sd_space.schema import Outcome
from sd_space.serving.console import make_printable
from sd_space.serving.gate import Gate
from sd_space.serving.marks import Marks
from sd_space.serving.results import ResultStore
from sd_space.settings import Settings
from sd_space.tools.start_checks import check_certificate, check_marks, check_port, check_results

if TYPE_CHECKING:
    from sd_space.engine.engine import Engine
    from sd_space.model.pipeline import LoadedPipeline
    from sd_space.model.spec import PipelineSpec

STEPS = 2  # of the picture: enough to run every part once, and bearable with v1-4 on a CPU


T = TypeVar("T")


class Failed(Exception):
    """A check has failed; the sentence names the fix."""


class Doctor:
    """Runs the checks in order and prints a line for each; what one finds out is there for those after it."""

    def __init__(self, environ: dict[str, str], is_quick: bool):
        self._environ = environ
        self._is_quick = is_quick
        self._is_well = True
        self.settings: Settings | None = None
        self.spec: PipelineSpec | None = None
        self.is_there = False  # the model can be loaded, or fetched
        self.loaded: LoadedPipeline | None = None
        self.engine: Engine | None = None

    def run(self) -> bool:
        checks: list[tuple[str, Callable[[], str], Callable[[], bool]]] = [
            ("settings", self.check_settings, lambda: True),
            ("page's port", self.check_port, lambda: True),
            ("result folder", self.check_results, lambda: self.settings is not None),
            ("certificate", self.check_certificate, lambda: self.settings is not None),
            ("device", self.check_device, lambda: self.settings is not None),
            ("model's files", self.check_files, lambda: self.spec is not None),
            ("model", self.check_model, lambda: self.is_there and not self._is_quick),
            ("safety checker", self.check_safety, lambda: self.loaded is not None),
            ("picture", self.check_picture, lambda: self.engine is not None),
        ]
        for name, check, is_possible in checks:
            if not is_possible():
                self._tell(
                    "not done", name, "--quick" if self._is_quick and self.is_there else "because of what failed above"
                )
                continue
            try:
                self._tell("ok", name, check())
            except (Failed, CannotStart, SpaceError) as error:
                self._is_well = False
                self._tell("FAILED", name, getattr(error, "operator_hint", str(error)))
            except Exception as error:  # so that the checks after it are made all the same
                self._is_well = False
                self._tell("FAILED", name, f"The check itself broke off with {type(error).__name__}: {error}.")
        return self._is_well

    @staticmethod
    def _tell(verdict: str, name: str, detail: str) -> None:
        print(f"{verdict:<9} {name:<15} {detail}", flush=True)

    def check_settings(self) -> str:
        try:
            settings = Settings.from_env(self._environ)
        except InvalidSetting as error:
            raise Failed(str(error)) from None
        self.settings = settings
        changed = [
            field.name.upper()
            for field in dataclasses.fields(settings)
            if getattr(settings, field.name) != field.default
        ]
        said = f"changed from the defaults: {', '.join(changed)}" if changed else "all of them the defaults"
        if settings.secret is None:
            said += "; SECRET is not set, so visitors accept the licence anew after each restart"
        return said

    def check_port(self) -> str:
        return check_port(self._environ)

    def check_results(self) -> str:
        return check_results(_found(self.settings))

    def check_certificate(self) -> str:
        return check_certificate(_found(self.settings))

    def check_device(self) -> str:
        import_libraries()
        import diffusers
        import torch

        from sd_space.model.spec import PipelineSpec, detect_hardware

        hardware = detect_hardware()
        # Without the fallback of `auto`: that the model itself cannot be loaded is what is to be found.
        spec = PipelineSpec.from_settings(_found(self.settings), hardware)
        self.spec = dataclasses.replace(spec, may_fall_back=False)
        said = [self.spec.device, self.spec.dtype, self.spec.runtime]
        if self.spec.device == "cuda":
            free, total = (format_size(size or 0) for size in (hardware.free_vram_bytes, hardware.total_vram_bytes))
            said[:1] = [torch.cuda.get_device_name(0), f"{free} of {total} free"]
        return ", ".join([*said, f"torch {torch.__version__}", f"diffusers {diffusers.__version__}"])

    def check_files(self) -> str:
        spec = _found(self.spec)
        path = local_path(spec.model)
        if path is not None and path.is_dir():
            self._examine(path, spec)
            return f"{path}, complete, and its parts fit together"
        if path is not None:
            if (path.parent / INDEX).is_file():
                self._examine(path.parent, spec, path)
            self.is_there = True
            return f"{path}, {format_size(path.stat().st_size)}"
        known = cached(spec.model, spec.revision)
        if known is not None and is_complete(known, spec.variant):
            self._examine(known.folder, spec)
            return f"{spec.model} at {known.commit} is cached"
        return self._ask_the_hub(spec)

    def _examine(self, folder: Path, spec: "PipelineSpec", checkpoint: Path | None = None) -> None:
        try:
            examine(folder, spec.variant, ("safety_checker",) if checkpoint else tuple(WEIGHTS))
            if checkpoint is not None:
                examine_checkpoint(checkpoint, folder)
        except Unfit as error:
            raise Failed(error.sentence(spec.model)) from error
        except Exception as error:
            raise Failed(operator_hint(error, spec.model)) from error
        self.is_there = True

    def _ask_the_hub(self, spec: "PipelineSpec") -> str:
        try:
            listing = ask(spec.model, spec.revision, spec.hub_timeout_s)
            total = sum(listing.sizes[name] for name in needed_files(listing.sizes, spec.variant))
        except Exception as error:
            raise Failed(operator_hint(error, spec.model, spec.revision, spec.variant)) from error
        self.is_there = True
        token = "with the token" if os.environ.get("HF_TOKEN") else "without a token"
        return f"{spec.model} at {listing.commit} is open to us {token}; {format_size(total)} have to be fetched"

    def check_model(self) -> str:
        from sd_space.model.pipeline import load_pipeline

        began_s = time.monotonic()
        self.loaded = load_pipeline(_found(self.spec))
        info, took_s = self.loaded.info, time.monotonic() - began_s
        return f"{info.title}, {info.dtype}, {info.runtime}, {info.memory_profile}, loaded in {took_s:.1f} s"

    def check_safety(self) -> str:
        self.engine = build_engine(_found(self.loaded), _found(self.settings))
        return f"each concept flags itself, a grey picture passes; {self.engine.width} pictures share a step"

    def check_picture(self) -> str:
        from sd_space.engine.engine import run_to_completion

        info, settings = _found(self.loaded).info, _found(self.settings)
        gate = Gate(load_card(), None, settings.token_ttl_s)
        values = {"prompt": "a small cabin", "num_images_per_prompt": 1, "num_inference_steps": STEPS, "seed": 1}
        admitted = gate.admit_operator(values, info)
        (image,) = (result := run_to_completion(_found(self.engine), admitted)).images
        if image.outcome is Outcome.BROKEN:
            raise Failed("The picture was no number; set SD_SPACE_DTYPE to float32, or fetch the model's files again.")
        marks = Marks.from_settings(settings)
        store = ResultStore(settings.result_dir, settings.result_ttl_s, marks)
        store.start()
        try:
            picture = store.save(admitted.request_id, 0, image, admitted.request, info, embed_recipe=True)
            said = check_marks(picture, marks)
        finally:
            store.close()
        seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in result.elapsed_s.items() if stage != "queue")
        return f"{image.width} x {image.height}, {STEPS} steps, {image.outcome}, {said}: {seconds}"


def _found(value: T | None) -> T:
    """What an earlier check has found out: `Doctor.run` makes none without that."""
    assert value is not None
    return value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="neither fetch nor load the model")
    options = parser.parse_args(argv)
    make_printable()
    logging.basicConfig(level=logging.CRITICAL)  # what matters is in the lines
    return 0 if Doctor(dict(os.environ), options.quick).run() else 1


if __name__ == "__main__":
    sys.exit(main())
