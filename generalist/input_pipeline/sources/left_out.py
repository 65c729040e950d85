"""Which damaged files were left out, shared by a source and its copies in worker processes."""

import contextlib
import json
import os
import tempfile
import weakref


class LeftOut:
    """{file: what is wrong with it}, in a temporary file.

    Worker processes share no memory with the process that counts in the end. The file is removed
    with the process that made it; copies in others, by pickle or fork, only use it.
    """

    def __init__(self):
        handle, self._path = tempfile.mkstemp(prefix="generalist-left-out-")
        os.close(handle)
        weakref.finalize(self, _remove, self._path, os.getpid())
        self._known: set[str] = set()

    def add(self, path: str, problem: str) -> bool:
        """Notes a file; returns whether it is the first of all processes to do so."""
        if path in self._known or path in self.read():
            self._known.add(path)
            return False

        self._known.add(path)
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            # A single unbuffered write, so that lines of several processes never mix.
            with open(handle, "wb", buffering=0) as file:
                file.write((json.dumps([path, problem]) + "\n").encode())
        return True

    def read(self) -> dict[str, str]:
        """Returns all files in the order of their notes; {} after the process that made this."""
        try:
            with open(self._path, encoding="utf-8") as file:
                return dict(map(json.loads, file))
        except FileNotFoundError:
            return {}


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:
        with contextlib.suppress(OSError):
            os.unlink(path)
