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
    """

    key: str
    image: File | np.ndarray
    label: File | np.ndarray
    segments: Any = None


class Examples:
    """The examples of a split that were located: picklable random access."""

    @property
    def total(self) -> int:
        """Number of examples of the split, including those that the task leaves out."""
        return len(self)

    def __len__(self) -> int:
        raise NotImplementedError

    def locate(self, index: int) -> Location:
        """Returns where example `index` lies."""
        raise NotImplementedError

    def paths(self) -> Iterable[str]:
        """Returns the paths of all files that the examples need."""
        raise NotImplementedError


class OriginalFiles(Examples):
    """Examples of one image file and one label file each."""

    def __init__(self, locations: Sequence[Location]):
        self._locations = locations

    def __len__(self) -> int:
        return len(self._locations)

    def locate(self, index: int) -> Location:
        """Returns the paths of example `index`."""
        return self._locations[index]

    def paths(self) -> Iterable[str]:
        """Returns the paths of all images and labels."""
        for location in self._locations:
            yield str(location.image)
            yield str(location.label)


class PreparedRecords(Examples):
    """Examples in the records of a prepared form, ours or that of the TFDS catalog.

    Args:
      shards: where the records are.
      rows: the records that the task uses.
      split: name of the split in the data set, for errors.
      from_record: (record, where it lies) -> location; KeyError for a record of another form.
    """

    def __init__(
        self,
        shards: Shards,
        rows: Sequence[int],
        split: str,
        from_record: Callable[[Mapping[str, Any], str], Location],
    ):
        self.shards = shards
        self._rows = rows
        self._split = split
        self._from_record = from_record

    @property
    def total(self) -> int:
        """Number of records of the split."""
        return len(self.shards)

    def __len__(self) -> int:
        return len(self._rows)

    def locate(self, index: int) -> Location:
        """Returns the encoded image and label of example `index`."""
        row = self._rows[index]
        record = self.shards[row]
        try:
            return self._from_record(record, f"{self.shards.folder} ({self._split}, row {row})")
        except KeyError as error:
            allowed = f"They have {', '.join(sorted(record))}: is it another data set's folder?"
            raise LayoutError(
                self.shards.folder, f"its examples have no feature {error}", allowed
            ) from error

    def paths(self) -> Iterable[str]:
        """Returns the paths of the shards and of their metadata."""
        return map(str, epath.Path(self.shards.folder).glob("*"))
