"""Makes the picture of the README.

    python benchmarks/overview.py --from runs/multitask --out docs/overview.png

One row a held-out scene: the input, what the model paints for each task, and each degraded input
beside its restoration. Prints the name of the file.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import generalist
from generalist.configs import common
from generalist.input_pipeline import open_sources

# Tasks that see the clean image.
SEEN = ("depth", "semantic", "instance", "panoptic")

# Task -> titles of its degraded input and of its restoration.
RESTORED = {
    "denoise": ("noisy", "denoised"),
    "derain": ("rainy", "derained"),
    "light": ("dark", "lightened"),
}

# Pixels: side of a picture, gap between two, height of the titles.
SIDE = 192
GAP = 8
HEAD = 24


def row(model, sources, index: int) -> list[np.ndarray]:
    """Returns the pictures of one scene, uint8 (h, w, 3)."""
    image = sources["depth"][index]["image"]
    predictions = model.predict(image, task=list(SEEN))
    pictures = [image, *(prediction.render() for prediction in predictions.values())]

    for task in RESTORED:
        degraded = sources[task][index]["image"]
        pictures += [degraded, model.predict(degraded, task=task).render()]
    return pictures


def sheet(rows: list[list[np.ndarray]], titles: list[str]) -> Image.Image:
    """Returns rows of pictures under their titles, on white."""
    step = SIDE + GAP
    canvas = Image.new("RGB", (GAP + step * len(titles), HEAD + step * len(rows)), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(15)

    for x, title in enumerate(titles):
        draw.text((GAP + x * step, 3), title, "black", font)
    for y, pictures in enumerate(rows):
        for x, picture in enumerate(pictures):
            # Pixels stay squares: what the model painted is seen as it is.
            scaled = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            canvas.paste(scaled, (GAP + x * step, HEAD + y * step))
    return canvas


def main() -> None:
    """Draws the sheet and saves it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--from", dest="source", default="runs/multitask", help="a workdir, or 'scenes'"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/overview.png"))
    parser.add_argument(
        "--scenes", type=int, nargs="+", default=[0, 1, 2, 3], help="which of the held-out scenes"
    )
    args = parser.parse_args()

    model = generalist.load(args.source)
    sources = open_sources(common.scenes(), ["depth", *RESTORED], "val")
    titles = ["input", *SEEN]
    for pair in RESTORED.values():
        titles += pair

    rows = [row(model, sources, index) for index in args.scenes]
    sheet(rows, titles).save(args.out, optimize=True)
    print(args.out)


if __name__ == "__main__":
    main()
