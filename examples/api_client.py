"""Draws pictures through a running Space's API: accepts the licence, shows the progress, saves the files.

python examples/api_client.py http://127.0.0.1:7860 "a small cabin on a snowy mountain" --agree
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gradio_client import Client
from gradio_client.exceptions import AppError


def show_progress(text: object) -> None:
    """On one line of a terminal that is written over; a file or a pipe gets none."""
    if sys.stderr.isatty():
        print(f"\r{text!s:<60}", end="", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="the Space's address, or its id on the Hub")
    parser.add_argument("prompt")
    parser.add_argument("--agree", action="store_true", help="I have read the licence and accept it")
    parser.add_argument("--num", type=int, default=1, help="number of pictures, 1 to 4")
    parser.add_argument("--seed", type=int, default=-1, help="-1 for a random one")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the pictures")
    arguments = parser.parse_args(argv)

    client = Client(arguments.url, verbose=False)
    try:
        token = client.predict(agree=arguments.agree, api_name="/accept_license")
        while "defaults" not in (model := client.predict(api_name="/model")):  # the page is up before the model is
            if model["stage"] in ("failed", "stopped"):
                print(model.get("reason", "The Space has stopped."), file=sys.stderr)
                return 1
            show_progress(f"{model['stage']}…")
            time.sleep(2)
        job = client.submit(
            prompt=arguments.prompt,
            num_images_per_prompt=arguments.num,
            seed=arguments.seed,
            # A model that states better values than the card's says so here.
            **{key: model["defaults"][key] for key in ("num_inference_steps", "guidance_scale", "scheduler")},
            acceptance_token=token,
            api_name="/generate",
        )
        while not job.done():
            if job.outputs():
                show_progress(job.outputs()[-1][1].get("progress", ""))
            time.sleep(0.5)
        files, result = job.result()
    except AppError as refusal:  # one sentence that says what to change
        print(refusal, file=sys.stderr)
        return 1

    arguments.out.mkdir(parents=True, exist_ok=True)
    print(file=sys.stderr)
    for file, image in zip(files, result["images"], strict=True):
        path = shutil.copy(file, arguments.out / Path(file).name)
        print(f"{path}: seed {image['seed']}, {image['outcome']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
