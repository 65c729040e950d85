"""Opens MATLAB's files: version 5 by SciPy, version 7.3, which is HDF5, by h5py.

Both libraries are imported only when needed.
"""

import functools
import os
from typing import Any

from etils import epath

from generalist.input_pipeline.sources.files import LayoutError


def scipy_io():
    """Returns the module scipy.io; ImportError with the command that installs it."""
    try:
        import scipy.io
    except ImportError as error:
        raise ImportError("version 5 .mat files are read by SciPy: pip install scipy") from error
    return scipy.io


def open_hdf5(path: str) -> Any:
    """Returns the h5py.File of a version 7.3 .mat file.

    Every process opens its own, so that copies in forked or spawned workers are independent; h5py
    serializes the calls of threads itself.

    Raises:
      LayoutError: the file is absent, cut short or of another version.
      ImportError: h5py is not installed; the message has the command that installs it.
    """
    return _open_hdf5(path, os.getpid())


@functools.lru_cache(maxsize=4)
def _open_hdf5(path: str, process: int):
    try:
        import h5py
    except ImportError as error:
        raise ImportError("version 7.3 .mat files are read by h5py: pip install h5py") from error

    try:
        return h5py.File(epath.Path(path).open("rb") if "://" in path else path, "r")
    except OSError as error:
        raise LayoutError(
            path,
            f"cannot be read ({error})",
            "It must be a whole version 7.3 .mat file: get it again.",
        ) from error
