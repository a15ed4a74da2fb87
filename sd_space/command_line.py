"""What the operator asks for: the arguments of the command, and the settings of its environment."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sd_space.errors import CannotStart
from sd_space.settings import PREFIX, Settings


@dataclass(frozen=True, slots=True)
class Command:
    """A valid call of the app. `auth` is the name and the password that visitors need."""

    settings: Settings
    share: bool
    auth: tuple[str, str] | None

    @classmethod
    def parse(cls, argv: Sequence[str] | None, environ: Mapping[str, str]) -> "Command":
        """Raises CannotStart for a value that cannot be used, and ends the process on an unknown argument."""
        arguments = _parser().parse_args(argv)
        name, _, password = (arguments.auth or "").partition(":")
        if arguments.auth is not None and not (name and password):
            raise CannotStart("--auth must be USER:PASSWORD, with neither part empty.")
        given = {PREFIX + name.upper(): getattr(arguments, name) for name in ("model", "backend")}
        settings = Settings.from_env({**environ, **{name: value for name, value in given.items() if value}})
        return cls(settings, arguments.share, (name, password) if arguments.auth else None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A web demo of Stable Diffusion v1-4.")
    parser.add_argument("--share", action="store_true", help="also serve through a public share link of Gradio")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask visitors for this name and password")
    parser.add_argument("--model", help="same as SD_SPACE_MODEL: auto, tiny, a Hub id, a folder or a .safetensors file")
    parser.add_argument("--backend", help="same as SD_SPACE_BACKEND")
    return parser
