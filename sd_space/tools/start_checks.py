"""The doctor's checks of what the app needs before any model: each returns what it found, or raises CannotStart."""

import os
import shutil

from sd_space.gallery import ResultStore
from sd_space.hub import size
from sd_space.memory import GIB
from sd_space.settings import CannotStart, Settings

LEAST_FREE_BYTES = GIB // 2


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
        raise CannotStart(f"Only {size(free_bytes)} are free in {folder}; free some, or set SD_SPACE_RESULT_DIR.")
    return f"{folder}, {size(free_bytes)} free"
