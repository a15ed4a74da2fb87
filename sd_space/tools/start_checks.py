"""The doctor's checks of what the app needs before any model: each returns what it found, or raises CannotStart."""

import os
import shutil
from collections.abc import MutableMapping

from sd_space.errors import CannotStart
from sd_space.model.files import format_size
from sd_space.model.memory import GIB
from sd_space.serving.environment import check_environment
from sd_space.serving.marks import Marks
from sd_space.serving.results import ResultStore, SavedPicture
from sd_space.serving.verify import verify
from sd_space.settings import Settings

LEAST_FREE_BYTES = GIB // 2


def check_port(environ: MutableMapping[str, str]) -> str:
    """The page could be served, with what is read from the environment for that."""
    try:
        from sd_space.serving.connections import raise_handle_limit
        from sd_space.serving.listening import Address, check
    except ModuleNotFoundError as error:  # on a machine that draws without a page
        raise CannotStart(f"{error.name} is missing, so there is no page; pip install -r requirements.txt.") from None
    address = Address.from_env(environ)
    handles = raise_handle_limit()
    check_environment(environ, address.host)
    return f"{check(address)}, {handles} file handles"


def check_results(settings: Settings) -> str:
    """A folder for results can be taken as the app takes it, written and given back."""
    store = ResultStore(settings.result_dir, settings.result_ttl_s)
    store.start()
    try:
        folder = store.root.parent.parent
        with (store.root / "probe").open("wb") as file:
            file.write(os.urandom(4096))
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        raise CannotStart(f"{folder} cannot be written ({error.strerror}); set SD_SPACE_RESULT_DIR.") from None
    finally:
        store.close()
    if free_bytes < LEAST_FREE_BYTES:
        raise CannotStart(
            f"Only {format_size(free_bytes)} are free in {folder}; free some, or set SD_SPACE_RESULT_DIR."
        )
    return f"{folder}, {format_size(free_bytes)} free"


def check_certificate(settings: Settings) -> str:
    """Pictures can be signed, and what is signed can be verified."""
    signer = Marks.from_settings(settings).signer
    if signer is None:
        return "pictures are not signed: there is no package c2pa-python for this system"
    signer.check()
    whose = "this installation's own, for which nobody else vouches" if signer.key.is_own else "SD_SPACE_CERTIFICATE"
    return f"{signer.key.name}, until {signer.key.valid_until:%Y-%m-%d}; {whose}"


def check_marks(picture: SavedPicture, marks: Marks) -> str:
    """A picture that was saved carries the marks that its result names."""
    found = verify(picture.path.read_bytes(), marks.signer.key if marks.signer else None)
    is_signed = found.credentials is not None and found.credentials.is_valid and found.credentials.is_ours
    if picture.credentials != is_signed or picture.watermark != bool(found.has_watermark):
        raise CannotStart("The picture does not carry the marks that it was given; install requirements.txt again.")
    return f"signed: {'yes' if is_signed else 'no'}, watermark: {'yes' if picture.watermark else 'no'}"
