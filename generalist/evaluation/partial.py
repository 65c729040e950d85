"""Keeps what an unfinished evaluation has measured, so that the same call resumes it."""

import hashlib
import json
import logging
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from generalist.evaluation import plain
from generalist.files import write_atomically

logger = logging.getLogger("generalist")

MOST_BYTES = 2**30  # a larger file is neither written nor read

_SAVE_EVERY_SECONDS = 30.0  # what a kill costs at most
_OLD = "partial.pkl"  # of version 0.1.0: a pickle, which can run code when it is read
_DIGEST = hashlib.sha256().digest_size


class Partial:
    """The state of an unfinished evaluation, in one file beside its results.

    It belongs to one set of weights, data and settings; an evaluation of any other starts from the
    beginning. The file is the digest of those, the digest of the rest, and the rest: plain values,
    which run no code when they are read.

    Args:
      path: the file.
      settings: all that the figures depend on, as JSON takes it.
    """

    def __init__(self, path: pathlib.Path, settings: Any):
        content = json.dumps(settings, sort_keys=True, default=str)
        self._identity = hashlib.sha256(content.encode()).digest()
        self._path = path
        self._saved_at = time.monotonic()

    def load(self) -> Mapping[str, Any]:
        """Returns what was saved last; {} if that is nothing, damaged, or of other settings."""
        self._path.with_name(_OLD).unlink(missing_ok=True)
        # A pipe or a device would never end.
        if not self._path.is_file():
            return {}
        with self._path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)

        problem = self._problem(content)
        if not problem:
            try:
                return plain.unpack(content[2 * _DIGEST :])
            except ValueError as error:
                problem = f"is damaged ({error})"
        logger.info(f"{self._path} {problem}: the evaluation starts from the beginning")
        return {}

    def _problem(self, content: bytes) -> str:
        """Returns why a file's content is not used; "" if it is what `save` wrote."""
        if len(content) > MOST_BYTES:
            return f"has more than {MOST_BYTES} bytes"
        if content[:_DIGEST] != self._identity:
            return "is of other weights, data or settings"
        if content[_DIGEST : 2 * _DIGEST] != hashlib.sha256(content[2 * _DIGEST :]).digest():
            return "is damaged"
        return ""

    def is_due(self) -> bool:
        """Returns whether the last state is old enough to write another."""
        return time.monotonic() - self._saved_at >= _SAVE_EVERY_SECONDS

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes the state; one that is too large is not kept, and the last one stays."""
        packed = plain.pack(state)
        if len(packed) + 2 * _DIGEST > MOST_BYTES:
            logger.warning(
                f"{len(packed)} bytes have been measured: too many to keep in {self._path}"
            )
        else:
            digest = hashlib.sha256(packed).digest()
            write_atomically(self._path, self._identity + digest + packed)
        self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Removes the file, once the evaluation is complete."""
        self._path.unlink(missing_ok=True)
