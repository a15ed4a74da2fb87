"""The arrows point one way: which module may import which, what importing may load, who may make what."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sd_space"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "tools" not in path.parts)

GROUND = ""  # sd_space's own modules: data, settings, what the card says
# Wing -> the wings that it may import from, beside its own and the ground.
WINGS = {
    "ui": {"serving", "backends"},
    "serving": {"backends"},
    "backends": {"engine", "model"},
    "engine": {"model"},
    "model": set(),
    GROUND: set(),
}
PAGE = {"ui", "serving"}  # of the backends they know the protocol alone
PAGE_PACKAGES = {"gradio", "gradio_client", "itsdangerous", "starlette", "fastapi", "uvicorn"}
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "safetensors"}
MAKERS = {
    "AdmittedRequest": {"serving.gate"},
    "ScreenedImage": {"engine.safety"},
    "ScreenedSource": {"engine.safety"},
    "Preview": {"engine.safety"},
}


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
            for alias in node.names:  # a module of that package, or something in the module
                part = f"{node.module}.{alias.name}"
                names.add(part if (ROOT / part.replace(".", "/")).with_suffix(".py").is_file() else node.module)
    return names


def wing_of(name: str) -> str:
    first = name.split(".")[0]
    return first if first in WINGS else GROUND


def own_imports_of(path: Path) -> set[str]:
    return {name.removeprefix("sd_space.") for name in imports_of(path) if name.startswith("sd_space.")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_import_only_in_the_direction_of_the_arrows(path):
    wing = wing_of(name_of(path))
    for name in own_imports_of(path):
        assert wing_of(name) in {wing, GROUND} | WINGS[wing]
        assert wing not in PAGE or wing_of(name) != "backends" or name == "backends"


def test_no_module_imports_itself_by_way_of_others():
    graph = {name_of(path): own_imports_of(path) for path in MODULES}
    # What chooses a backend imports the one that it is asked for, and nothing before.
    graph["backends"] -= {f"backends.{name}" for name in ("local", "zerogpu", "ray_serve")}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_page_knows_gradio_and_only_the_engine_side_knows_torch(path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    name = name_of(path)
    assert "gradio" not in roots or wing_of(name) == "ui" or name == "serving.gradio_queue"
    assert not roots & HEAVY or wing_of(name) in {"engine", "model"} or name == "backends.loading"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_one_module_alone_touches_gradios_private_parts(path):
    """The page has what `import gradio` offers; tests/test_gradio_queue.py holds the rest."""
    if name_of(path) == "serving.gradio_queue":
        return
    assert not any(name.startswith("gradio.") for name in imports_of(path))
    attributes = {
        node.attr for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)
    }
    assert not attributes & {"_queue", "extra_startup_events", "mcp_server_obj"}


@pytest.mark.parametrize(("package", "owner"), [("spaces", "backends/zerogpu.py"), ("ray", "backends/ray_serve")])
def test_one_backend_alone_knows_the_package_that_it_stands_on(package, owner):
    for path in [*MODULES, ROOT / "app.py"]:
        roots = {name.split(".")[0] for name in imports_of(path)}
        assert package not in roots or (PACKAGE / owner) in (path, *path.parents)


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


def test_the_page_loads_no_torch():
    """Nor does it start a thread."""
    code = (
        "import app, sd_space.ui, sd_space.backends, sd_space.backends.local, tokenizers\nimport sys, threading\n"
        "print(*{name.split('.')[0] for name in sys.modules}, f'threads={threading.active_count()}')"
    )
    quiet = os.environ | {"TRANSFORMERS_VERBOSITY": "error"}  # else it recommends torchvision
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=quiet, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    loaded = set(run.stdout.split())
    assert not loaded & HEAVY
    assert "threads=1" in loaded


@pytest.mark.nightly
def test_what_draws_without_a_page_needs_none_of_its_packages():
    """A bare GPU machine has torch, diffusers and transformers: the doctor says what is missing, and draws."""
    code = (
        "import importlib.abc, runpy, sys\n"
        "class Missing(importlib.abc.MetaPathFinder):\n"
        "  def find_spec(self, name, path=None, target=None):\n"
        f"    if name.split('.')[0] in {PAGE_PACKAGES}: raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import sd_space.tools.record, sd_space.tools.bench.__main__\n"
        "runpy.run_path('examples/generate.py', run_name='generate')\n"
        "from sd_space.tools.doctor import main; main([])"
    )
    environ = os.environ | {"SD_SPACE_MODEL": "tiny", "TRANSFORMERS_VERBOSITY": "error"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    verdicts = {line[:25].split(maxsplit=1)[1].strip(): line.split()[0] for line in run.stdout.splitlines()}
    assert verdicts.pop("page's port") == "FAILED" and "pip install -r requirements.txt" in run.stdout
    assert set(verdicts.values()) == {"ok"} and "picture" in verdicts, run.stdout
