"""Which damaged files were left out, known to a source and to its copies in worker processes."""

import contextlib
import json
import os
import tempfile
import weakref


class LeftOut:
    """{file: what is wrong with it}, in a temporary file: worker processes share no memory with the process that counts in the end.

    The file goes with the process that made it; copies in others, by pickle or fork, only use it.
    """

    def __init__(self):
        handle, self._path = tempfile.mkstemp(prefix="generalist-left-out-")
        os.close(handle)
        weakref.finalize(self, _remove, self._path, os.getpid())
        self._known: set[str] = set()

    def add(self, path: str, problem: str) -> bool:
        """Notes a file; returns whether it is the first to do so, of all processes."""
        if path in self._known or path in self.read():
            self._known.add(path)
            return False
        self._known.add(path)
        with (
            contextlib.suppress(FileNotFoundError),
            open(os.open(self._path, os.O_WRONLY | os.O_APPEND), "wb", buffering=0) as file,
        ):
            file.write(
                (json.dumps([path, problem]) + "\n").encode()
            )  # a single write, so that lines of processes never mix
        return True

    def read(self) -> dict[str, str]:
        """All that were noted, in the order in which they were met; {} once the process that made this has ended."""
        try:
            with open(self._path, encoding="utf-8") as file:
                return dict(map(json.loads, file))
        except FileNotFoundError:
            return {}


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:
        with contextlib.suppress(OSError):
            os.unlink(path)
