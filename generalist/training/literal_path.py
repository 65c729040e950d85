"""A folder's path as Orbax and TensorStore must be given it: as data, never as a pattern."""

import glob
import os
import pathlib
from collections.abc import Iterator

from etils import epath

_ORBAX_PATH = epath.gpath.WindowsGPath if os.name == "nt" else epath.gpath.PosixGPath


class LiteralPath(_ORBAX_PATH):
    """A path in which [, * and ? stand for themselves.

    Orbax collects what processes wrote by `glob`, which would read the folder's own path as a part
    of the pattern.
    """

    def glob(self, pattern: str) -> Iterator["LiteralPath"]:
        """Yields what a pattern matches below this folder."""
        for path in glob.glob(os.path.join(glob.escape(str(self)), pattern)):
            yield LiteralPath(path)


def check_name(folder: pathlib.Path) -> None:
    """Checks that TensorStore writes where it is told.

    Raises:
      ValueError: it would write elsewhere, or fail; names what the path has.
    """
    problem = ""
    if os.sep == "/" and "\\" in str(folder):
        problem = "a backslash, which would be taken for a slash"
    elif any(name.endswith(":") for name in folder.parts[1:]):
        problem = "a name that ends with ':', as a web address; mount the bucket (docs/scale.md)"
    elif not _is_utf8(folder):
        problem = "bytes that are no UTF-8"
    if problem:
        raise ValueError(
            f"checkpoints cannot be written into {str(folder)!r}: the path has {problem}. Choose "
            "another --workdir."
        )


def _is_utf8(path: pathlib.Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
