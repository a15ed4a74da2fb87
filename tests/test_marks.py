"""Pictures as they are written, read back with the library's own reader in a process that knows nothing of them."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_space.recorded import load_recorded
from sd_space.schema import Outcome, ScreenedImage
from sd_space.serving.certificate import own_folder, own_key
from sd_space.serving.credentials import Claim, Signer
from sd_space.serving.marks import Marks
from sd_space.serving.signed_recordings import SignedRecordings
from sd_space.serving.verify import verify
from sd_space.serving.watermark import is_found
from sd_space.settings import Settings

from .fakes import picture
from .test_recipe import SOURCE
from .test_results import REQUEST
from .test_schema import INFO
from .test_watermark import scene

NOW = datetime.now(UTC)
READ = """
import c2pa, json, sys
for path in sys.argv[1:]:
    with c2pa.Reader("image/png", open(path, "rb")) as reader:
        print(json.dumps(json.loads(reader.json())))
"""


def screened(seed: int, size: int = 512) -> ScreenedImage:
    return ScreenedImage(seed, Outcome.OK, size, size, scene(seed, size, size).tobytes())


@pytest.fixture(scope="module")
def marks() -> Marks:
    return Marks.from_settings(Settings(watermark="on"))


def written(marks: Marks, path: Path, image: ScreenedImage, embed_recipe: bool = True):
    with path.open("wb") as file:
        return marks.write(file, image, REQUEST, INFO, embed_recipe)


def read_elsewhere(*paths: Path) -> list[dict]:
    run = subprocess.run([sys.executable, "-c", READ, *map(str, paths)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


def action_of(read: dict) -> dict:
    (assertion,) = read["manifests"][read["active_manifest"]]["assertions"]
    return assertion["data"]["actions"][0]


def test_fifty_pictures_of_every_kind_are_valid_to_an_independent_reader(marks, tmp_path):
    paths = [tmp_path / f"{seed}.png" for seed in range(50)]
    for seed, path in enumerate(paths):
        size = (64, 128, 256, 512)[seed % 4]
        applied = written(marks, path, screened(seed, size), embed_recipe=bool(seed % 3))
        assert applied.credentials and applied.watermark == (size >= 256)
        with Image.open(path) as image:
            assert is_found(np.asarray(image)) == applied.watermark
    for seed, read in enumerate(read_elsewhere(*paths)):
        assert read["validation_state"] == "Valid"
        action = action_of(read)
        assert action["action"] == "c2pa.created" and action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
        assert action["softwareAgent"]["name"] == INFO.model
        assert abs(datetime.fromisoformat(action["when"]) - NOW) < timedelta(hours=1)
        assert ("a cabin, snow" in json.dumps(read)) == bool(seed % 3), "the prompt only where the recipe is"


def test_a_changed_picture_names_its_start_by_hash_whether_or_not_its_recipe_is_inside(marks, tmp_path):
    request = replace(REQUEST, init_image=SOURCE)
    paths = [tmp_path / "with.png", tmp_path / "without.png"]
    for path, embed_recipe in zip(paths, (True, False), strict=True):
        with path.open("wb") as file:
            marks.write(file, screened(1), request, INFO, embed_recipe)
    for read, path in zip(read_elsewhere(*paths), paths, strict=True):
        assert read["validation_state"] == "Valid"
        assert action_of(read)["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
        (start,) = read["manifests"][read["active_manifest"]]["ingredients"]
        assert (start["instance_id"], start["relationship"]) == (str(SOURCE), "inputTo")
        found = verify(path.read_bytes(), marks.signer.key)
        assert found.credentials.is_valid and found.credentials.is_by_model and found.says_model
        assert b"/compositeWithTrainedAlgorithmicMedia" in path.read_bytes()


def test_a_recording_is_served_with_credentials_that_its_file_has_not(marks):
    (example, *_) = load_recorded()
    claims = {example.path: Claim(example.model, None, NOW, None)}
    recordings = SignedRecordings(marks, claims)
    served = recordings.find(str(example.path))
    assert verify(example.path.read_bytes(), marks.signer.key).credentials is None
    found = verify(served, marks.signer.key)
    assert found.credentials.is_ours and found.credentials.is_valid and found.recipe["prompt"] == example.prompt
    assert recordings.find(str(example.path)) is served and recordings.find("/etc/passwd") is None
    assert SignedRecordings(Marks(), claims).find(str(example.path)) is None


def test_one_changed_pixel_is_found(marks, tmp_path):
    path = tmp_path / "picture.png"
    written(marks, path, screened(1))
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    (read,) = read_elsewhere(path)
    failures = {failure["code"] for failure in read["validation_results"]["activeManifest"]["failure"]}
    assert read["validation_state"] == "Invalid" and "assertion.dataHash.mismatch" in failures


def test_a_placeholder_does_not_say_that_it_is_a_picture(marks, tmp_path):
    path = tmp_path / "withheld.png"
    applied = written(marks, path, picture(7, Outcome.WITHHELD))
    with Image.open(path) as image:
        assert not image.text and not is_found(np.asarray(image.convert("RGB")))
    assert b"c2pa" not in path.read_bytes() and not (applied.watermark or applied.credentials)


@pytest.mark.parametrize(("setting", "is_picture_book", "has"), [
    ("auto", True, False), ("auto", False, True), ("on", True, True), ("off", False, False),
])  # fmt: skip
def test_the_setting_says_which_models_pictures_get_the_watermark(tmp_path, setting, is_picture_book, has):
    info = replace(INFO, is_picture_book=is_picture_book)
    with (tmp_path / "picture.png").open("wb") as file:
        assert Marks(setting).write(file, screened(1), REQUEST, info, True).watermark == has


def test_a_picture_that_cannot_be_signed_is_delivered_all_the_same(tmp_path, caplog):
    def expired() -> Signer:
        return Signer(own_key(tmp_path / "keys", NOW - timedelta(days=4000)))

    applied = written(Marks(make_signer=expired), tmp_path / "picture.png", screened(1))
    assert not applied.credentials and "could not be signed" in caplog.text
    with Image.open(tmp_path / "picture.png") as image:
        assert "trainedAlgorithmicMedia" in image.text["XML:com.adobe.xmp"]


def test_the_key_is_the_installations_for_good_and_nobody_else_can_read_it(marks):
    path = own_folder() / "signing.pem"
    assert marks.signer.key == own_key(own_folder(), NOW)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
