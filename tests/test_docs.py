"""README, the examples and the settings say what the code does."""

import ast
import json
import re
from pathlib import Path

import yaml

from sd_space.card import load_card
from sd_space.model.memory import GIB, MEMORY_PROFILES, needed_bytes
from sd_space.recorded import load_recorded
from sd_space.request import GenerationRequest
from sd_space.settings import V1_4, V1_4_REVISION, Settings

from .fakes import V1_4 as V1_4_FOOTPRINT
from .test_schema import INFO

ROOT = Path(__file__).parent.parent
PACKAGE, MODEL = "sd_space/README.md", "sd_space/model/README.md"


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


README = page("README.md")
FRONT = yaml.safe_load(README.split("---\n")[1])


def between(name: str, text: str) -> str:
    return text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0].strip()


def settings_table() -> str:
    rows = [f"| `{name}` | {f'`{default}`' if default else ''} | {help} |" for name, default, help in Settings.table()]
    return "\n".join(["| variable | default | what it does |", "| --- | --- | --- |", *rows])


def file_map() -> str:
    """Each module with the first line of its docstring."""
    lines = []
    for path in sorted([ROOT / "app.py", *ROOT.glob("examples/*.py"), *ROOT.glob("sd_space/**/*.py")]):
        if path.name == "__init__.py" and path.parent.name == "sd_space":
            continue
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"| `{path.relative_to(ROOT)}` | {docstring.splitlines()[0]} |")
    return "\n".join(["| file | what it is |", "| --- | --- |", *lines])


def profiles_table() -> str:
    """Each memory profile with the bytes that v1-4 needs in it, from which on it is chosen."""
    rows = [
        f"| {needed_bytes(V1_4_FOOTPRINT, profile) / GIB:.1f} GiB | {profile.name} |" for profile in MEMORY_PROFILES
    ]
    return "\n".join(["| free memory from | how v1-4 in float16 is held, 512 × 512 |", "| --- | --- |", *rows])


def test_the_memory_profiles_table_is_the_codes():
    assert between("profiles", page(MODEL)) == profiles_table(), f"paste tests.test_docs.profiles_table() into {MODEL}"


def test_the_settings_table_is_the_codes():
    assert between("settings", page(PACKAGE)) == settings_table(), (
        f"paste tests.test_docs.settings_table() into {PACKAGE}"
    )


def test_readme_has_the_settings_most_used_word_for_word():
    rows = between("used", README).splitlines()
    assert set(rows) <= set(settings_table().splitlines()) and len(rows) == 2 + 12


def test_every_setting_that_a_readme_names_is_one():
    known = {name for name, _, _ in Settings.table()}
    for path in [ROOT / "README.md", *ROOT.glob("sd_space/**/README.md"), *ROOT.glob("tests/**/README.md")]:
        named = set(re.findall(r"SD_SPACE_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8")))
        assert named <= known, path.relative_to(ROOT)


def test_the_words_that_the_code_uses_are_explained_in_a_few_lines():
    words = page(PACKAGE).split("## Words\n")[1].split("\n## ")[0]
    assert 5 <= words.count("- **") <= 10


def test_readme_is_short_enough_to_be_read():
    assert len(README.encode()) <= 10_000


def test_every_link_between_the_readmes_leads_to_a_file_and_a_heading():
    for path in [ROOT / "README.md", *ROOT.glob("sd_space/**/README.md"), *ROOT.glob("tests/**/README.md")]:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            name, _, heading = target.partition("#")
            there = path.parent / name if name else path
            assert there.exists(), f"{target} in {path.relative_to(ROOT)}"
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
            assert not heading or heading in [title.lower().replace(" ", "-") for title in titles], target


def test_the_extras_are_pinned_once_and_the_same():
    pins = dict(re.findall(r'pip install "?(openvino|jax|ray\[serve\])==([\d.]+)', README))
    requirements = page("tests/requirements.txt")
    assert len(pins) == 3 and all(f"{name}=={version}" in requirements for name, version in pins.items())


def test_the_file_map_is_the_tree():
    assert between("files", page(PACKAGE)) == file_map(), f"paste tests.test_docs.file_map() into {PACKAGE}"


def test_the_front_matter_pins_what_the_code_pins():
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert f"gradio[mcp]=={FRONT['sdk_version']}" in requirements
    assert "torch>=2.8,<2.14" in requirements.splitlines()
    assert FRONT["sdk"] == "gradio" and FRONT["app_file"] == "app.py" and FRONT["python_version"] == "3.12.12"
    assert FRONT["license"] == load_card().licence
    assert FRONT["models"] == [V1_4]
    assert len(FRONT["short_description"]) <= 60


def test_only_half_precision_files_of_the_pinned_commit_are_preloaded():
    (preload,) = FRONT["preload_from_hub"]
    repository, files, revision = preload.split(" ")
    assert (repository, revision) == (V1_4, V1_4_REVISION)
    weights = [name for name in files.split(",") if name.endswith((".safetensors", ".bin"))]
    assert len(weights) == 4 and all(name.endswith(".fp16.safetensors") for name in weights)


def test_ci_runs_readmes_test_command():
    (command,) = re.findall(r"^pip install -r tests/requirements.txt.*$", README, re.MULTILINE)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_lanes_of_ci_are_all_tests():
    """What has one of two marks, what has neither, and a file that is run by itself."""
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (alone,) = re.findall(r"^timed=(.*)$", text, re.MULTILINE)
    lanes = re.findall(r'PYTEST_ADDOPTS="(.*?)"', text)
    marks = ("-m 'served or browser'", "-m 'not served and not browser'")
    assert lanes == [*(f"{mark} --ignore=$timed" for mark in marks), ""]
    assert (ROOT / alone).is_file() and 'python -m pytest "$timed"' in text


def test_the_example_prompts_are_the_cards_and_valid():
    lines = (ROOT / "examples" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) for line in lines]
    assert [(e["title"], e["prompt"]) for e in examples] == [(e.title, e.text) for e in load_card().examples]
    for example in examples:
        GenerationRequest.parse({"prompt": example["prompt"]}, INFO, random_seed=0)


def test_every_example_has_a_recording_with_its_circumstances():
    recorded = load_recorded()
    assert [example.prompt for example in recorded] == [example.text for example in load_card().examples]
    for example in recorded:
        assert example.path.is_file()
        assert example.model and example.device and re.fullmatch(r"\d{4}-\d\d-\d\d", example.recorded_on)


def test_the_repository_stays_small():
    ignored = {".git", *(ROOT / ".gitignore").read_text(encoding="utf-8").replace("/", "").split()}
    sizes = [path.stat().st_size for path in ROOT.rglob("*") if path.is_file() and not ignored & {*path.parts}]
    assert max(sizes) < 10_000_000
    assert sum(sizes) < 48 * 2**20
