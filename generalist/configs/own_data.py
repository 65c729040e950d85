"""Your own data. docs/own_data.md explains each line.

    python main.py --config=configs/own_data.py --config.data_dir=/data

Copy this file, keep the tasks you have, and name your folders. `own_data.py:full` takes the
full-size model; the small one trains on two CPU cores at the speed of the built-in scenes. `twin`
and `all_levels` are what they are behind multitask.py: `own_data.py:full,twin`.
"""

from ml_collections import ConfigDict

from generalist.configs import common

TASKS = {
    "crop": {  # /data/crop/{train,val}/{images,labels}/<name>
        "kind": "classes",
        "folder": "crop",
        "prompt": "Performance crop segmentation",
        "classes": (("soil", 0), ("wheat", 1), ("weed", 2)),  # or colors: ("soil", (120, 80, 40))
        "void": (255,),
    },
    "height": {
        "kind": "scalar",
        "folder": "height",
        "range": (0.0, 2.0),
        "unit": "m",
        "scale": 0.001,  # stored in millimeters
        "void": (0,),
    },
    "plants": {"kind": "instances", "folder": "plants"},
    "dehaze": {
        "kind": "image",
        "folder": "dehaze",
        "prompt": "Performance image restoration dehazing",
    },
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the small model, or with "full" the full-size one, on the tasks above."""
    words = [word for word in arg.split(",") if word]
    levels = [word for word in words if word in common.NOISE_LEVELS]
    if set(words) - {"full", *levels} or len(levels) > 1:
        raise ValueError(
            f"config argument {arg!r}: give 'full' for the full-size model, 'twin' or 'all_levels' "
            "for other noise levels, or nothing"
        )

    c = common.own(TASKS)
    if "full" not in words:
        c = common.small(c)
    return common.learn_levels(c, levels[0]) if levels else c
