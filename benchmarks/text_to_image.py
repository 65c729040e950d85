"""What a text-to-image model of the built-in scenes has learned, in numbers and in a picture.

    python benchmarks/text_to_image.py --from runs/prior --out results/prior

On held-out scenes: its error of denoising by noise level, with the scene's own caption and with
that of another; and how many of the classes that the captions name the shipped generalist finds in
what it paints, beside true pictures and shuffled captions. Prints the table; with --out it also
writes table.md and eight captions with what was painted, painted.png.
"""

import argparse
import pathlib
import time
from collections.abc import Sequence

import numpy as np

import generalist
from generalist.evaluation import panels
from generalist.evaluation.text_to_image import classes_found, denoising_by_level, format_figures
from generalist.files import write_atomically
from generalist.input_pipeline.scenes import ScenesSource, classes_named
from generalist.pictures import encode_png

TASK = "text_to_image"
SHOWN = 8  # captions in the picture
BATCH = 64  # pictures that are painted together


def paint(model, captions: Sequence[str], steps: int | None) -> list[np.ndarray]:
    """Returns a picture for each caption, uint8 (s, s, 3)."""
    painted = []
    for start in range(0, len(captions), BATCH):
        batch = list(captions[start : start + BATCH])
        predictions = model.predict(None, TASK, steps=steps, seed=start, prompt=batch)
        painted += [prediction.image for prediction in predictions]
    return painted


def main() -> None:
    """Measures a model and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="source", default="runs/prior", help="a workdir")
    parser.add_argument(
        "--reader", default="scenes", help="the model that finds classes (default: %(default)s)"
    )
    parser.add_argument("--scenes", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, help="of the sampler (default: the config's)")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the results")
    args = parser.parse_args()

    model = generalist.load(args.source)
    size = model.target_size
    source = ScenesSource(TASK, "val", args.scenes, size, model.recipe.config.seed)
    examples = [source[index] for index in range(args.scenes)]

    # Figures.
    began = time.monotonic()
    errors = denoising_by_level(model, model.tasks[TASK], examples)
    painted = paint(model, [example["prompt"] for example in examples], args.steps)
    found = classes_found(generalist.load(args.reader), painted, examples, classes_named)
    table = format_figures(errors, found)
    print(f"{table}\n\n{args.scenes} scenes of {size} pixels, {time.monotonic() - began:.0f} s")

    # The picture: what was painted beside what the caption is of.
    if args.out:
        rows = []
        for picture, example in list(zip(painted, examples, strict=True))[:SHOWN]:
            pair = (picture, example["image"])
            rows.append([panels.enlarge(one, panels.SIDE) for one in pair])
        captions = [example["prompt"] for example in examples[:SHOWN]]
        sheet = panels.compose(["painted", "truth"], rows, captions)
        write_atomically(args.out / "table.md", f"{table}\n".encode())
        write_atomically(args.out / "painted.png", encode_png(np.asarray(sheet)))


if __name__ == "__main__":
    main()
