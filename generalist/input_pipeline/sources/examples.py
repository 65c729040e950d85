"""Where the examples of a split lie: in original files, or in the records of a prepared form."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from generalist.input_pipeline.sources.files import File, LayoutError
from generalist.input_pipeline.sources.tfds import Shards


class Location(NamedTuple):
    """Where an example lies, before anything of it is decoded.

    Attributes:
      key: name of the example, unique in its split.
      image: path or content of a file, or pixels that were cut from a larger file.
      label: likewise.
      segments: what an annotation file adds to the label (COCO).
      caption: path of the text file that holds the example's prompt, if it has its own.
    """

    key: str
    image: File | np.ndarray
    label: File | np.ndarray
    segments: Any = None
    caption: str | None = None


class Examples:
    """The examples of a split that were located: picklable random access."""

    def __len__(self) -> int:
        raise NotImplementedError

    def names(self) -> list[str]:
        """Returns a name of every example: its key, where that is known without reading it."""
        return [str(index) for index in range(len(self))]

    def part(self, rows: Sequence[int]) -> "Examples":
        """Returns only the examples at `rows`."""
        return Part(self, rows)

    def locate(self, index: int) -> Location:
        """Returns where example `index` lies."""
        raise NotImplementedError

    def paths(self) -> Iterable[str]:
        """Returns the paths of all files that the examples need."""
        raise NotImplementedError


class Part(Examples):
    """Some of the examples of a split.

    Args:
      whole: all of them.
      rows: which ones.
    """

    def __init__(self, whole: Examples, rows: Sequence[int]):
        self._whole = whole
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def names(self) -> list[str]:
        """Returns the name that every example has in the whole split."""
        names = self._whole.names()
        return [names[row] for row in self._rows]

    def locate(self, index: int) -> Location:
        """Returns where example `index` of the part lies."""
        return self._whole.locate(self._rows[index])

    def paths(self) -> Iterable[str]:
        """Returns the paths of the whole split, whose files hold more than one example each."""
        return self._whole.paths()


class OriginalFiles(Examples):
    """Examples of one image file and one label file each."""

    def __init__(self, locations: Sequence[Location]):
        self._locations = locations

    def __len__(self) -> int:
        return len(self._locations)

    def names(self) -> list[str]:
        """Returns the key of every example."""
        return [location.key for location in self._locations]

    def part(self, rows: Sequence[int]) -> "OriginalFiles":
        """Returns only the examples at `rows`, so that `paths` has only their files."""
        return OriginalFiles([self._locations[row] for row in rows])

    def locate(self, index: int) -> Location:
        """Returns the paths of example `index`."""
        return self._locations[index]

    def paths(self) -> Iterable[str]:
        """Returns the paths of all images, labels and captions."""
        for location in self._locations:
            yield str(location.image)
            yield str(location.label)
            if location.caption:
                yield location.caption


class PreparedRecords(Examples):
    """Examples in the records of a prepared form, ours or that of the TFDS catalog.

    Args:
      shards: where the records are.
      split: name of the split in the data set, for errors.
      from_record: (record, where it lies) -> location; KeyError for a record of another form.
    """

    def __init__(
        self,
        shards: Shards,
        split: str,
        from_record: Callable[[Mapping[str, Any], str], Location],
    ):
        self.shards = shards
        self._split = split
        self._from_record = from_record

    def __len__(self) -> int:
        return len(self.shards)

    def locate(self, index: int) -> Location:
        """Returns the encoded image and label of example `index`."""
        record = self.shards[index]
        try:
            return self._from_record(record, f"{self.shards.folder} ({self._split}, row {index})")
        except KeyError as error:
            allowed = f"They have {', '.join(sorted(record))}: is it another data set's folder?"
            raise LayoutError(
                self.shards.folder, f"its examples have no feature {error}", allowed
            ) from error

    def paths(self) -> Iterable[str]:
        """Returns the paths of the shards and of their metadata."""
        return map(str, epath.Path(self.shards.folder).glob("*"))
