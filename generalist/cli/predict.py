"""The command `generalist predict`."""

import argparse
import collections
import pathlib
import sys
import time

import generalist
from generalist.cli.common import DEFAULT_WORKDIR, add_source, one_line

HELP = "Predict one task or several of images."
# argparse would show IMAGE last, behind options that take several values.
USAGE = "generalist predict [IMAGE ...] [--task TASK [TASK ...]] [--prompt TEXT] [options]"
EXAMPLES = """examples:
  generalist predict photo.jpg --task depth semantic --out predictions
  generalist predict photos/*.jpg --task denoise --from runs/multitask --out predictions --tile
  generalist predict --task text_to_image --prompt "a red ball in a room" --from runs/prior

Each image and task gives <image>.<task>.png, the data (depth: 16-bit millimeters; semantic: class
ids; instance: ids; panoptic: COCO's PNG, with a .json; restoration: the image), and
<image>.<task>.render.png, a picture for people. Without an image there is prompt.<task>.png, or
the file of --out if that ends in .png. The exit code is 0, or 1 if some image failed (the others
are done nevertheless), or 2 if nothing could start.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="image files; none where a prompt says it all"
    )
    parser.add_argument(
        "--task",
        nargs="+",
        default=["depth"],
        metavar="TASK",
        help="depth, semantic, ... (default: depth)",
    )

    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="in place of the tasks' own prompts; what text_to_image paints",
    )

    # Which model, and where its predictions go.
    add_source(
        parser,
        "a workdir, a model folder, or 'scenes' for the weights of the package "
        f"(default: {DEFAULT_WORKDIR} if it holds weights, else scenes)",
    )
    parser.add_argument(
        "--out",
        default="predictions",
        metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )

    # How it samples.
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="denoising steps (default: as the model's config says)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the noise, where the sampler uses any (default: 0)",
    )
    parser.add_argument(
        "--tile",
        action=argparse.BooleanOptionalAction,
        help="denoise and derain in tiles at native resolution, or not "
        "(default: tiles for images larger than the model's)",
    )


def run(args: argparse.Namespace) -> int:
    """Predicts every image. One that fails is reported, and the others follow."""
    images = _distinct([pathlib.Path(image) for image in args.images])
    out = pathlib.Path(args.out)
    source = args.source or _default_source()

    model = generalist.load(source)
    # What is wrong with the command fails here, before the first image.
    model.components(args.task)
    model.check_sampling(args.steps, args.seed)
    print(f"weights: {source}\n{model.recipe.trained_for()}")
    if not images:
        return _paint(model, args, out)

    failed = 0
    began = time.monotonic()
    for done, image in enumerate(images, start=1):
        started = time.monotonic()
        try:
            files = _predict(model, image, args, out)
        except (ValueError, OSError) as error:
            failed += 1
            print(f"generalist: error: {one_line(error)}", file=sys.stderr)
            continue

        now = time.monotonic()
        left = (now - began) / done * (len(images) - done)
        eta = f", {left:.0f} s left" if left else ""
        print(f"[{done}/{len(images)}] {image}: {' '.join(files)}, {now - started:.2f} s{eta}")

    print(f"{len(images) - failed} of {len(images)} images done, results in {out}")
    return 1 if failed else 0


def _paint(model, args: argparse.Namespace, out: pathlib.Path) -> int:
    """Writes what is painted of a prompt alone."""
    predictions = model.predict(
        None, args.task, steps=args.steps, seed=args.seed, prompt=args.prompt
    )
    for task, prediction in predictions.items():
        file = out if out.suffix == ".png" and len(predictions) == 1 else out / f"prompt.{task}.png"
        prediction.save(file)
        print(file)
    return 0


def _predict(model, image: pathlib.Path, args: argparse.Namespace, out: pathlib.Path) -> list[str]:
    """Writes all predictions of an image, and returns the names of the files."""
    from generalist.files import write_atomically
    from generalist.pictures import encode_png

    predictions = model.predict(
        image,
        args.task,
        steps=args.steps,
        seed=args.seed,
        tile=args.tile,
        prompt=args.prompt,
    )
    written = []
    for task, prediction in predictions.items():
        stem = out / f"{image.stem}.{task}"
        written += prediction.save(f"{stem}.png")
        picture = pathlib.Path(f"{stem}.render.png")
        write_atomically(picture, encode_png(prediction.render()))
        written.append(picture)
    return [file.name for file in written]


def _default_source() -> str:
    from generalist.pretrained.weights import WEIGHTS

    trained = (pathlib.Path(DEFAULT_WORKDIR) / WEIGHTS).is_file()
    return DEFAULT_WORKDIR if trained else "scenes"


def _distinct(images: list[pathlib.Path]) -> list[pathlib.Path]:
    """Returns `images` once each; raises ValueError if two would write the same files."""
    distinct = list(dict.fromkeys(images))
    by_stem = collections.defaultdict(list)
    for image in distinct:
        by_stem[image.stem].append(image)

    for stem, same in by_stem.items():
        if len(same) > 1:
            raise ValueError(
                f"{', '.join(map(str, same))}: the results of both would be named {stem}.*; "
                "predict them in two runs with another --out"
            )
    return distinct
