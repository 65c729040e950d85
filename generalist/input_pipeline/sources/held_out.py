"""The slice of each training split that is never trained on, and is measured during training.

What steers a training (when to stop, which settings are better) must not be the official test set:
its figure would be too high in the end.
"""

import hashlib
from collections.abc import Sequence

HELD_OUT = "held_out"  # name of the split
ONE_OF = 50  # one scene of so many is held out
MOST = 200  # scenes at most


def choose_held_out(scenes: Sequence[str]) -> list[int]:
    """Returns which examples of a training split are held out.

    All examples of a scene stay together: neighbors in a video, or crops of one photograph, show
    the same things. The choice depends on the names of the scenes alone, not on their order.

    Args:
      scenes: scene of each example; where no scenes are known, a name of its own.

    Returns:
      Ascending indices of the examples of one scene in ONE_OF, at most MOST; [] of fewer scenes.
    """
    names = sorted(set(scenes), key=_hash)
    held_out = set(names[: min(len(names) // ONE_OF, MOST)])
    return [index for index, scene in enumerate(scenes) if scene in held_out]


def _hash(name: str) -> bytes:
    # File names may hold bytes that are no text.
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()
