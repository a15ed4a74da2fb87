"""The arrows point one way: which module may import which, what importing may load, who may make what."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sd_space"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "tools" not in path.parts)

DATA = {"schema", "settings", "faults"}
# Module -> modules of ours that it may import. Anything not listed may import nothing of ours.
ALLOWED = {
    "card": set(),
    "recorded": set(),
    "gate": DATA | {"card"},
    "lived_time": set(),
    "batcher": DATA,
    "step_times": {"batcher"},
    "serving.connections": {"settings"},
    "serving.console": set(),
    "serving.environment": {"serving.result_folder", "settings"},
    "serving.infotext": set(),
    "serving.listening": {"serving.connections", "settings"},
    "serving.placeholder": {"schema"},
    "serving.png_text": {"schema", "serving", "serving.infotext"},
    "serving.result_folder": {"settings"},
    "gallery": DATA | {"serving.placeholder", "serving.png_text", "serving.result_folder"},
    "metrics": DATA,
    "serving": set(),
    "serving.limits": DATA,
    "serving.envelope": DATA,
    "serving.login": {"serving.envelope"},
    "serving.mcp_message": {"serving.envelope"},
    "serving.origins": DATA,
    "serving.routes": {"serving.envelope"},
    "serving.headers": DATA | {"serving.origins", "serving.routes"},
    "serving.answers": {"serving.limits", "serving.origins", "serving.routes"},
    "serving.own_answers": DATA | {"metrics"},
    "serving.middleware": DATA
    | {"metrics"}
    | {f"serving.{name}" for name in ["answers", "envelope", "headers", "limits", "login", "mcp_message"]}
    | {"serving.origins", "serving.own_answers", "serving.routes"},
    "hub": set(),
    "memory": set(),
    "unet_calls": set(),
    "noise_schedulers": set(),
    "model_configs": {"hub"},
    "model_folder": {"hub", "model_configs", "settings"},
    "components": {"hub", "model_configs"},
    "openvino_unet": set(),
    "placement": {"faults", "memory", "unet_calls"},
    "pipeline": DATA
    | {"components", "hub", "memory", "model_configs", "model_folder", "noise_schedulers", "openvino_unet"}
    | {"placement", "unet_calls"},
    "denoiser": DATA | {"noise_schedulers", "unet_calls"},
    "safety": DATA | {"lived_time"},
    "engine": DATA | {"batcher", "denoiser", "safety", "step_times"},
    "backends": DATA,
    "backends.local": DATA | {"backends", "denoiser", "engine", "lived_time", "pipeline", "safety"},
    "backends.zerogpu": DATA | {"backends.local", "batcher", "engine", "pipeline", "step_times"},
    "backends.ray_serve": DATA | {"backends", "backends.local", "lived_time", "memory"},
    "sessions": set(),
    "runs": DATA | {"backends", "gallery", "serving.limits"},
    "views": DATA | {"card", "gallery", "gate", "recorded", "runs"},
    "ui": DATA
    | {"backends", "card", "gallery", "gate", "metrics", "recorded", "runs", "serving.limits", "views"}
    | {"ui.endpoints", "ui.events", "ui.handlers", "ui.layout", "ui.serving"},
    "ui.events": DATA | {"serving.headers"},
    "ui.form": DATA,
    "ui.layout": DATA | {"card", "recorded", "views", "ui.form"},
    "ui.handlers": DATA
    | {"backends", "gallery", "gate", "runs", "serving.limits", "views", "ui.events", "ui.form", "ui.layout"},
    "ui.endpoints": DATA | {"backends", "gallery", "gate", "runs", "serving.limits", "ui.events"},
    "ui.serving": DATA
    | {"backends", "gallery", "metrics", "recorded", "sessions", "views", "ui.layout"}
    | {"serving.envelope", "serving.limits", "serving.middleware", "serving.origins"},
}
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "safetensors"}
MAKERS = {"AdmittedRequest": {"gate"}, "ScreenedImage": {"safety"}, "Preview": {"safety"}}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> set[str]:
    """Every module that the file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            if node.module == "sd_space":
                names |= {f"sd_space.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_import_only_in_the_direction_of_the_arrows(path):
    ours = {name.removeprefix("sd_space.") for name in imports_of(path) if name.startswith("sd_space.")}
    allowed = ALLOWED.get(name_of(path), set())
    if name_of(path) == "backends":
        allowed = allowed | {
            "backends.local",
            "backends.zerogpu",
            "backends.ray_serve",
        }  # make_backend imports the one it is asked for
    assert ours <= allowed


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_page_knows_gradio_and_only_the_engine_side_knows_torch(path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    name = name_of(path)
    assert "gradio" not in roots or name.split(".")[0] == "ui"
    assert not roots & HEAVY or name in {
        "openvino_unet",
        "unet_calls",
        "noise_schedulers",
        "model_folder",
        "components",
        "placement",
        "pipeline",
        "denoiser",
        "safety",
        "engine",
        "backends.local",
    }


@pytest.mark.parametrize(("package", "owner"), [("spaces", "backends/zerogpu.py"), ("ray", "backends/ray_serve.py")])
def test_one_backend_alone_knows_the_package_that_it_stands_on(package, owner):
    for path in [*MODULES, ROOT / "app.py"]:
        roots = {name.split(".")[0] for name in imports_of(path)}
        assert package not in roots or path == PACKAGE / owner


def test_nothing_imports_the_tools():
    for path in [*MODULES, ROOT / "app.py"]:
        assert not any(name.startswith("sd_space.tools") for name in imports_of(path)), path.name


@pytest.mark.parametrize("type_name", MAKERS)
def test_requests_are_admitted_and_pictures_screened_in_one_place_only(type_name):
    makers = set()
    for path in [*MODULES, ROOT / "app.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == type_name:
                makers.add(name_of(path))
    assert makers == MAKERS[type_name]


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that `statement` loads in a fresh interpreter, and its thread count as 'threads=n'."""
    code = (
        f"{statement}\nimport sys, threading\n"
        "print(*{name.split('.')[0] for name in sys.modules}, f'threads={threading.active_count()}')"
    )
    quiet = os.environ | {"TRANSFORMERS_VERBOSITY": "error"}  # else it recommends torchvision
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=quiet, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return set(run.stdout.split())


def test_the_page_loads_no_torch():
    loaded = loaded_by("import app, sd_space.ui, sd_space.backends, sd_space.backends.local")
    assert not loaded & HEAVY
    assert "threads=1" in loaded


def test_the_engine_loads_no_gradio():
    loaded = loaded_by("import sd_space.engine, sd_space.pipeline, sd_space.backends.local")
    assert "gradio" not in loaded
    assert "threads=1" in loaded
