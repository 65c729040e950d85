"""An evaluation that was interrupted goes on where it was: what it has measured so far, kept beside its results."""

import hashlib
import json
import logging
import pathlib
import pickle
import time
from collections.abc import Mapping
from typing import Any

from generalist.files import write_atomically

logger = logging.getLogger("generalist")

_SAVE_EVERY = 30.0  # seconds; what a kill costs at most


class Partial:
    """The state of an unfinished evaluation in one file.

    It belongs to an evaluation of the same weights, data and settings; any other starts from the beginning.

    Args:
      path: the file. It is a pickle: an evaluation reads only the one it wrote itself.
      settings: all that the figures depend on, as JSON takes it.
    """

    def __init__(self, path: pathlib.Path, settings: Any):
        self._path, self._saved = path, time.monotonic()
        self._identity = hashlib.sha256(
            json.dumps(settings, sort_keys=True, default=str).encode()
        ).hexdigest()

    def load(self) -> Mapping[str, Any]:
        """What was saved last; {} if there is nothing, or it is damaged or of other settings."""
        try:
            identity, state = pickle.loads(self._path.read_bytes())
        except (
            OSError,
            pickle.UnpicklingError,
            EOFError,
            AttributeError,
            ImportError,
            IndexError,
            TypeError,
            ValueError,
        ):
            return {}
        if identity != self._identity:
            logger.info(
                f"{self._path} is of other weights, data or settings: the evaluation starts from the beginning"
            )
            return {}
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes the state if the last one is old enough."""
        if time.monotonic() - self._saved >= _SAVE_EVERY:
            write_atomically(self._path, pickle.dumps((self._identity, state)))
            self._saved = time.monotonic()

    def remove(self) -> None:
        """The evaluation is complete."""
        self._path.unlink(missing_ok=True)
