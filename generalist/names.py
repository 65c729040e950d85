"""Help with names: one "did you mean" for every name that a user can misspell."""

import difflib
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def one_of(value: T, allowed: Iterable[T], what: str) -> T:
    """Returns `value` if it is one of `allowed`.

    Args:
      value: what the user gave.
      allowed: the valid values.
      what: what the value is, for the message: "diffusion.sampler", "task of NYU-V2".

    Raises:
      ValueError: it is none of them; the message has the closest match and all valid values.
    """
    allowed = list(allowed)
    if value in allowed:
        return value
    names = ", ".join(map(str, allowed))
    raise ValueError(f"unknown {what} {value!r}.{did_you_mean(value, allowed)} Allowed: {names}.")


def did_you_mean(value: object, allowed: Collection[object]) -> str:
    """Returns " Did you mean 'x'?" with the closest of `allowed`, or "" if none is close."""
    closest = difflib.get_close_matches(
        str(value), [str(name) for name in allowed], n=1, cutoff=0.5
    )
    return f" Did you mean {closest[0]!r}?" if closest else ""


def some_of(names: Collection[object], most: int = 5) -> str:
    """Lists the first `most` names: "a, b, c and 4 more"."""
    shown = ", ".join(str(name) for name in list(names)[:most])
    hidden = len(names) - most
    return f"{shown} and {hidden} more" if hidden > 0 else shown


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message; that of a library may have hundreds."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def listed(lines: Sequence[str], most: int = 20) -> str:
    """Lists the first `most` lines for a message, indented, then "... and 4 more"."""
    shown = [f"  {line}" for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"  ... and {len(lines) - most} more")
    return "\n".join(shown)
