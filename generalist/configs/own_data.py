"""Your own data. docs/own_data.md explains each line.

    python main.py --config=configs/own_data.py --config.data_dir=/data

Copy this file, keep the tasks you have, and name your folders. `own_data.py:full` takes the
full-size model; the small one trains on two CPU cores at the speed of the built-in scenes.
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
    if arg not in ("", "full"):
        raise ValueError(
            f"config argument {arg!r}: give 'full' for the full-size model, or nothing"
        )
    c = common.own(TASKS)
    return c if arg == "full" else common.small(c)
