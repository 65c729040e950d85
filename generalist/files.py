"""Writing files so that nothing is ever half there."""

import os
import pathlib


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file: a reader, or a kill at any moment, sees the old one or the new one whole.

    Missing folders are created.

    Args:
      path: of the file.
      content: all of it.

    Raises:
      OSError: names the file, also where the system names none, as for a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)

    try:
        with open(temporary, "wb") as file:
            file.write(content)
            # On disk before it gets its name: a crash of the machine must not leave an empty file.
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
