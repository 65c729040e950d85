"""What every source of examples answers, whether it reads files or renders scenes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

# {"image": uint8 (h, w, 3) RGB, "label": the form of the task, "key": str}, and where the example
# has a prompt of its own {"prompt": str}
Example = dict[str, Any]

# What sources of several tasks have decoded of the files that they share, in a form of their own.
Decoded = dict[Any, Any]

Crop = tuple[slice, slice]  # rows and columns of an image


class ReadWindow(NamedTuple):
    """What to read of an example, instead of all of it.

    Attributes:
      crop: size (h, w) of the image -> the rows and columns to read.
      enough: number of rows, and of columns, that the caller needs. A JPEG whose crop has twice as
        many is decoded at half its size.
    """

    crop: Callable[[tuple[int, int]], Crop]
    enough: int


class Source(Protocol):
    """Random access to the examples of one task in one split: picklable and deterministic.

    Attributes:
      task: name of the task whose labels the examples have.
      split: "train", "held_out", "val", "test", or a further split of the data set.
      seed: seed of a source that makes its examples; None where they are read from files.
      groups: where a figure is a mean over groups of examples, their names; a group is the first
        part of an example's key, up to "/". () where it is a mean over all examples.
    """

    task: str
    split: str
    seed: int | None
    groups: tuple[str, ...]

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Returns `read(index)`, so that grain takes a source as it is."""
        ...

    def read(self, index: int, window: ReadWindow | None = None) -> Example:
        """Reads an example, or only a window of its image and label.

        Where the example is damaged and the source skips such files, the next readable one takes
        its place; else DataError.
        """
        ...

    def intact(self, index: int, decoded: Decoded | None = None) -> Example | None:
        """Reads an example, or returns None where it is damaged and the source skips such files.

        For figures, which must not count another example in its place.

        Args:
          index: of the example.
          decoded: what sources of other tasks have decoded of the same example's files; a source
            that shares them uses it and adds to it.
        """
        ...

    @property
    def damaged(self) -> Mapping[str, str]:
        """{file that was left out so far: what is wrong with it}."""
        ...

    def stamp(self) -> str:
        """Returns what changes when a file of the source changes; "" if there are no files."""
        ...


def cut(example: Example, window: ReadWindow | None) -> Example:
    """Returns the part of a whole example that `window` asks for; all of it for None."""
    if window is None:
        return example
    crop = window.crop(example["image"].shape[:2])
    return example | {name: example[name][crop] for name in ("image", "label")}
