"""Keeps what an unfinished evaluation has measured, so that the same call resumes it."""

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

_SAVE_EVERY_SECONDS = 30.0  # what a kill costs at most

# All that reading a damaged pickle may raise.
_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    TypeError,
    ValueError,
)


class Partial:
    """The state of an unfinished evaluation, in one file beside its results.

    It belongs to one set of weights, data and settings; an evaluation of any other starts from the
    beginning.

    Args:
      path: the file. It is a pickle: an evaluation reads only the one it wrote itself.
      settings: all that the figures depend on, as JSON takes it.
    """

    def __init__(self, path: pathlib.Path, settings: Any):
        content = json.dumps(settings, sort_keys=True, default=str)
        self._identity = hashlib.sha256(content.encode()).hexdigest()
        self._path = path
        self._saved_at = time.monotonic()

    def load(self) -> Mapping[str, Any]:
        """Returns what was saved last; {} if that is nothing, damaged, or of other settings."""
        try:
            identity, state = pickle.loads(self._path.read_bytes())
        except (OSError, *_DAMAGED):
            return {}

        if identity != self._identity:
            logger.info(
                f"{self._path} is of other weights, data or settings: "
                "the evaluation starts from the beginning"
            )
            return {}
        return state

    def is_due(self) -> bool:
        """Returns whether the last state is old enough to write another."""
        return time.monotonic() - self._saved_at >= _SAVE_EVERY_SECONDS

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes the state."""
        write_atomically(self._path, pickle.dumps((self._identity, state)))
        self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Removes the file, once the evaluation is complete."""
        self._path.unlink(missing_ok=True)
