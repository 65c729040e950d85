"""One folder, one writer: a lock that process 0 holds as long as a run writes there."""

import contextlib
import datetime
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import IO

from generalist.devices import processes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger("generalist")

LOCK = "in_use.json"  # in the folder: who writes there, since when


class InUseError(ValueError):
    """Another run writes into the folder."""


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[None]:
    """Keeps all others out of a folder, which is created.

    The system drops the lock with the process that holds it, however that ends: nothing is left to
    be cleaned up. It is as good as the file system's: NFS and Lustre know locks of other hosts,
    gcsfuse only those of the same one. All processes of a run must call it.

    Raises:
      InUseError: another run holds it; process 0 names its host, process and start.
    """
    file = None
    taken = ""
    is_new = not folder.exists()
    if processes.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        file = _lock(folder / LOCK)
        taken = "" if file else _describe_holder(folder / LOCK)

    if processes.agree(bool(taken)):
        raise InUseError(
            f"{folder} is in use by {taken or 'a run that process 0 names'}. Wait for it, stop it, "
            "or choose another folder."
        )
    try:
        yield
    finally:
        if file:
            # Windows removes no open file.
            if fcntl is None:
                file.close()
            # Elsewhere it is removed while it is locked, so that no other can have begun to use it.
            (folder / LOCK).unlink(missing_ok=True)
            if is_new:
                # Only where nothing was written.
                with contextlib.suppress(OSError):
                    folder.rmdir()
            file.close()


def _lock(path: pathlib.Path) -> IO[str] | None:
    """Returns the locked file, which says who holds it, or None where another process does."""
    while True:
        file = open(path, "a", encoding="utf-8")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            logger.warning(f"WARNING: {path} cannot be locked ({error}): start no other run there")

        # Whoever held it before may have removed the file after it was opened here.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            break
        file.close()

    now = datetime.datetime.now().astimezone()
    holder = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": now.isoformat(" ", "seconds"),
    }
    file.truncate(0)
    file.write(json.dumps(holder))
    file.flush()
    return file


def _describe_holder(path: pathlib.Path) -> str:
    try:
        holder = json.loads(path.read_text("utf-8"))
        return "process {process} on {host} since {since}".format(**holder)
    except (OSError, ValueError, KeyError, TypeError):
        # It is just being written, or damaged.
        return "another process"
