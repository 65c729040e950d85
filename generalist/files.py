"""Writing files so that nothing is ever half there."""

import os
import pathlib


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that a reader, or a kill at any moment, sees the old one or the new one, never a half.

    Raises OSError naming the file, also where the system names none: a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
