"""Draws a picture, and changes it, with OpenAI's own client: it needs the address and the acceptance token alone.

python examples/openai_client.py http://127.0.0.1:7860 TOKEN "a small cabin on a snowy mountain" --then "at night"
"""

import argparse
import base64
import sys
from collections.abc import Sequence
from pathlib import Path

from openai import APIStatusError, OpenAI


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="the Space's address")
    parser.add_argument("token", help="the acceptance token: the page shows it, and /accept_license returns one")
    parser.add_argument("prompt")
    parser.add_argument("--then", default="", help="a second prompt, for which the picture is changed")
    parser.add_argument("--seed", type=int, default=-1, help="-1 for a random one")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the pictures")
    arguments = parser.parse_args(argv)

    client = OpenAI(base_url=f"{arguments.url.rstrip('/')}/v1", api_key=arguments.token)
    own = {"seed": arguments.seed}  # what OpenAI's API has no parameter for
    try:
        path = saved(client.images.generate(prompt=arguments.prompt, extra_body=own), arguments.out / "picture.png")
        if arguments.then:
            own |= {"strength": 0.6}
            changed = client.images.edit(image=path, prompt=arguments.then, extra_body=own)
            saved(changed, arguments.out / "changed.png")
    except APIStatusError as refusal:  # its sentence says what to change
        print(refusal.body["message"] if isinstance(refusal.body, dict) else refusal, file=sys.stderr)
        return 1
    return 0


def saved(answer, path: Path) -> Path:
    """Saves the first picture and says what became of it: one that is not shown is a placeholder."""
    (picture, *_) = answer.data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(picture.b64_json))
    print(f"{path}: seed {picture.seed}, {picture.outcome}")
    return path


if __name__ == "__main__":
    sys.exit(main())
