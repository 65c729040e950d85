"""Writing files so that nothing is ever half there, and reading what others wrote."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

MOST_JSON = 64 * 2**20  # bytes; the largest that is meant, the index of a sharded model, has a few


class DamagedFileError(ValueError):
    """A file is not what its name says; the message names the file."""


def read_text(path: pathlib.Path, most_bytes: int = MOST_JSON) -> str:
    """Reads a text file of at most `most_bytes`, in UTF-8.

    Raises:
      DamagedFileError: it is longer, or holds other bytes.
      OSError: it cannot be read.
    """
    # Not by its size in the folder: a pipe has none.
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise DamagedFileError(f"{path}: longer than {most_bytes >> 20} MiB, which no such file is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path}: damaged, no UTF-8 ({error})") from error


def read_json(path: pathlib.Path, object_hook: Callable | None = None) -> dict[str, Any]:
    """Reads a JSON file that holds an object of fields; `object_hook` is that of `json.loads`.

    Raises:
      DamagedFileError: it holds anything else, or is longer than MOST_JSON bytes.
      OSError: it cannot be read.
    """
    text = read_text(path)
    try:
        content = json.loads(text, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path}: damaged ({error})") from error
    if not isinstance(content, dict):
        raise DamagedFileError(
            f"{path}: damaged, it holds {type(content).__name__} where an object of fields belongs"
        )
    return content


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
