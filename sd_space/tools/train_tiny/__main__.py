"""Makes the picture-book checkpoint, stage by stage: ``python -m sd_space.tools.train_tiny all``."""

import argparse
import os
from pathlib import Path

import torch

from sd_space.tools.train_tiny import decoder, export, pictures, safety, shipped, text, unet, vae

STAGES = ("text", "drawings", "vae", "decoder", "pictures", "unet", "anneal", "generated", "safety", "export", "sheet")
STATE = Path.home() / ".cache" / "sd_space" / "train_tiny_256"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sd_space.tools.train_tiny", description=__doc__)
    parser.add_argument(
        "stages", nargs="+", choices=(*STAGES, "all"), metavar="stage", help=", ".join((*STAGES, "all"))
    )
    parser.add_argument(
        "--state", type=Path, default=STATE, help="what is rendered and half trained (default: %(default)s)"
    )
    parser.add_argument(
        "--target", type=Path, default=export.TINY, help="where the checkpoint goes (default: sd_space/tiny)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, help="of VAE or UNet training; without it, until it is done or stopped"
    )
    parser.add_argument("--steps", type=int, help="of the stages named, in place of their own number")
    parser.add_argument("--batch", type=int, default=unet.BATCH, help="of UNet training (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=unet.RATE, help="UNet learning rate (default: %(default)s)")
    parser.add_argument(
        "--shards", type=int, default=5, help=f"of {pictures.SHARD} training pictures (default: %(default)s)"
    )
    parser.add_argument("--from-scratch", action="store_true", help="do not start from the checkpoint in --target")
    return parser.parse_args(arguments)


def run(stage: str, options: argparse.Namespace) -> None:
    folder, seed = options.state, options.seed
    shards = range(options.shards)
    common = {"seed": seed, "device": options.device}
    steps = {"steps": options.steps} if options.steps else {}
    if stage == "text":
        text.train(folder, **common, **steps)
    elif stage == "drawings":
        pictures.draw(folder, seed=seed, processes=options.threads)
    elif stage == "vae":
        vae.train(folder, pictures.load_pixels(folder), minutes=options.minutes, **common, **steps)
    elif stage == "decoder":
        decoder.train(folder, pictures.load_pixels(folder), **common, **steps)
    elif stage == "pictures":
        pictures.make(folder, seed=seed, shards=shards, processes=options.threads, device=options.device)
    elif stage in ("unet", "anneal"):
        pictures.embed(folder, seed=seed, shards=shards, device=options.device)
        ready = options.from_scratch or (folder / "unet.pt").exists()
        unet.train(
            folder,
            shards=shards,
            minutes=options.minutes if stage == "unet" else None,
            anneal=(options.steps or unet.ANNEAL_STEPS) if stage == "anneal" else None,
            batch=options.batch,
            rate=options.rate,
            initial=None if ready else shipped.unet_weights(options.target),
            **common,
            **(steps if stage == "unet" else {}),
        )
    elif stage == "generated":
        pipeline, _ = export.make_pipeline(folder)
        pipeline.to(options.device)
        hasty = export.sampler(pipeline, steps=3)
        garish = export.sampler(pipeline, guidance_scale=12, steps=6, scheduler=export.garish_scheduler)
        safety.collect_generated(folder, export.sampler(pipeline), hasty, garish, seed=seed)
    elif stage == "safety":
        safety.collect(folder, seed=seed, processes=options.threads, device=options.device)
        safety.train(folder, **common, **steps)
    elif stage == "export":
        print(f"UNet step {export.export(folder, options.target)} written to {options.target}")
    else:
        export.sheet(options.target, folder / "sheet.png")
        print(folder / "sheet.png")


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(options.threads)
    if not options.from_scratch and shipped.adopt(options.target, options.state):
        print(f"Starting from the checkpoint in {options.target}")
    for stage in STAGES if "all" in options.stages else options.stages:
        run(stage, options)


if __name__ == "__main__":
    main()
