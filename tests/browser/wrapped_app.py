"""The app with another language, "eo", in which each text of ours stands in brackets: what has none is in no table."""

from collections.abc import Sequence

import app
from sd_space.languages import tables


def main(argv: Sequence[str] | None = None) -> int:
    tables()["eo"] = {text: f"⟦{text}⟧" for text in tables()["de"]}
    return app.main(argv)
