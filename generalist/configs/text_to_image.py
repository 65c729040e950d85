"""A text-to-image model: the prior that a generalist can start from.

    python main.py --config=configs/text_to_image.py --workdir=runs/prior
    python main.py --config=configs/text_to_image.py --config.data_dir=/data --workdir=runs/prior

Without a data directory it learns the built-in scenes, which caption themselves; with one, its
folders of images with captions: /data/{train,val}/images/<name>.jpg beside <name>.txt. Words behind
the file: `64` or `128`, the side of its pictures, and `tiny`, to see in a minute what a run writes.

    generalist predict --task text_to_image --prompt "a red ball in a room" --from runs/prior

20,000 steps of 64 pictures are meant for a GPU; not measured yet. docs/text_to_image.md.
"""

import os

from ml_collections import ConfigDict

from generalist.configs import common
from generalist.names import one_of

WORDS = (*common.SIZES, "tiny")


def get_config(arg: str = "") -> ConfigDict:
    """Returns the small model on captions; `arg` has words of WORDS, with commas."""
    words = [word for word in arg.split(",") if word]
    for word in words:
        one_of(word, WORDS, "word behind text_to_image.py:")
    sizes = [word for word in words if word in common.SIZES]
    if len(sizes) > 1 or (sizes and "tiny" in words):
        raise ValueError(f"config argument {arg!r}: give one of {', '.join(WORDS)}")
    size = sizes[0] if sizes else next(iter(common.SIZES))

    c = common.text_to_image(os.environ.get("GENERALIST_DATA_DIR", ""), size)
    if "tiny" in words:
        c = common.tiny(c)
        c.diffusion.steps = 4
    return c
