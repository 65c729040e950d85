"""Plain values as bytes and back, in a form that runs no code when it is read.

Arrays lie in a safetensors file, whose reader checks that each is as large as the file says; all
else is JSON, one more array of bytes in it.
"""

import json
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

MOST_JSON_BYTES = 2**28  # a small text can take some twenty times its size as Python objects

_JSON = "json"

# All that content which `pack` did not write may raise.
_FOREIGN = (
    safetensors.SafetensorError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    RecursionError,
)


def pack(value: Any) -> bytes:
    """Returns a value as bytes.

    Args:
      value: None, a bool, int, float or str, an array or a NumPy number of bools, integers or
        floats, or a list, tuple or dict with keys of str of such values.

    Raises:
      TypeError: it holds something else.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_without_arrays(value, arrays))
    arrays[_JSON] = np.frombuffer(text.encode(), np.uint8)
    return safetensors.numpy.save(arrays)


def unpack(content: bytes) -> Any:
    """Returns the value that `pack` made bytes of, with the same bits.

    Raises:
      ValueError: the content is damaged, or of another form.
    """
    try:
        arrays = safetensors.numpy.load(content)
        text = arrays.pop(_JSON)
        if text.dtype != np.uint8 or text.size > MOST_JSON_BYTES:
            raise ValueError(f"{text.size} bytes of JSON, at most {MOST_JSON_BYTES} are read")
        return _with_arrays(json.loads(text.tobytes()), arrays)
    except _FOREIGN as error:
        raise ValueError(f"no packed values: {type(error).__name__}: {error}") from error


# In JSON a list begins with what it stands for: a list, a tuple, or the name of an array.
_LIST = "list"
_TUPLE = "tuple"
_ARRAY = "array"


def _without_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Returns a value as JSON has it; its arrays are put into `arrays`."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"an array of {value.dtype} holds no bools, integers or floats")
        name = str(len(arrays))
        arrays[name] = np.asarray(value, order="C")
        return [_ARRAY, name]

    if isinstance(value, list | tuple):
        kind = _TUPLE if isinstance(value, tuple) else _LIST
        return [kind, *(_without_arrays(item, arrays) for item in value)]

    if isinstance(value, dict):
        # JSON would make a str of any other key.
        other = [key for key in value if not isinstance(key, str)]
        if other:
            raise TypeError(f"the key {other[0]!r} is no str")
        return {key: _without_arrays(item, arrays) for key, item in value.items()}
    return value


def _with_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Returns the value of which `_without_arrays` made this one."""
    if isinstance(value, dict):
        return {key: _with_arrays(item, arrays) for key, item in value.items()}
    if not isinstance(value, list):
        return value

    kind, *items = value
    if kind == _ARRAY:
        # A copy, since what safetensors returns cannot be written to; [()] makes a NumPy number of
        # an array without dimensions.
        return arrays[items[0]].copy()[()]
    if kind not in (_LIST, _TUPLE):
        raise ValueError(f"a list of the kind {kind!r}")
    values = [_with_arrays(item, arrays) for item in items]
    return tuple(values) if kind == _TUPLE else values
