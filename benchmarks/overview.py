"""The picture of the README: python benchmarks/overview.py --from runs/multitask --out docs/overview.png

One row a held-out scene: the input, what the model paints for each task, and each degraded input beside its restoration.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import generalist
from generalist.configs import common
from generalist.input_pipeline import open_sources

SEEN = ("depth", "semantic", "instance", "panoptic")
RESTORED = {
    "denoise": ("noisy", "denoised"),
    "derain": ("rainy", "derained"),
    "light": ("dark", "lightened"),
}
SIDE, GAP, HEAD = 192, 8, 24


def row(model, sources, index: int) -> list[np.ndarray]:
    """The pictures of one scene, uint8 (h, w, 3)."""
    image = sources["depth"][index]["image"]
    pictures = [
        image,
        *(result.render() for result in model.predict(image, task=list(SEEN)).values()),
    ]
    for task in RESTORED:
        degraded = sources[task][index]["image"]
        pictures += [degraded, model.predict(degraded, task=task).render()]
    return pictures


def sheet(rows: list[list[np.ndarray]], titles: list[str]) -> Image.Image:
    """Rows of pictures under their titles, on white."""
    step = SIDE + GAP
    canvas = Image.new("RGB", (GAP + step * len(titles), HEAD + step * len(rows)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for x, title in enumerate(titles):
        draw.text((GAP + x * step, 3), title, "black", font)
    for y, pictures in enumerate(rows):
        for x, picture in enumerate(pictures):
            canvas.paste(
                Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST),
                (GAP + x * step, HEAD + y * step),
            )
    return canvas


def main() -> None:
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
    config, model = common.scenes(), generalist.load(args.source)
    sources = open_sources(config, ["depth", *RESTORED], "val")
    titles = ["input", *SEEN, *(title for pair in RESTORED.values() for title in pair)]
    sheet([row(model, sources, index) for index in args.scenes], titles).save(
        args.out, optimize=True
    )
    print(args.out)


if __name__ == "__main__":
    main()
