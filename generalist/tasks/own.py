"""Tasks on a user's own data: from their definitions in a config (docs/own_data.md) to codecs."""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from generalist.tasks.base import Task
from generalist.tasks.instance import Instance
from generalist.tasks.restoration import Restoration
from generalist.tasks.scalar import Scalar
from generalist.tasks.semantic import Semantic

COMMON = ("kind", "prompt", "folder")  # the only one that must be there is `kind`
FIELDS = {  # kind -> (fields that must be there, fields that may be)
    "classes": (("classes",), ("void",)),
    "scalar": (("range",), ("unit", "scale", "void")),
    "instances": ((), ()),
    "image": ((), ()),
}


def own_task(name: str, definition: Mapping) -> Task:
    """The codec of a definition. ValueError names the task, the field and what is allowed."""
    kind = check_definition(name, definition)
    known = {"name": name, "prompt": definition.get("prompt") or f"Performance {name}"}
    if kind == "classes":
        names, values = zip(*definition["classes"])
        colours = () if isinstance(values[0], int) else tuple(map(tuple, values))
        return Semantic(classes=names, colours=colours, upsample="distance", **known)
    if kind == "scalar":
        low, high = map(float, definition["range"])
        return Scalar(low=low, high=high, unit=definition.get("unit", ""), **known)
    if kind == "instances":
        return Instance(
            blocks=1, cells=16, block_step=0, cell_step=15, mode="vote", score_gate=0.5, **known
        )
    return Restoration(protocol="rgb-skimage", **known)


def check_definition(name: str, definition: Mapping) -> str:
    """The kind of a definition. ValueError for an unknown kind or field, one that is missing, or a value of another form."""
    if not hasattr(definition, "items"):
        raise ValueError(
            f"Task '{name}': its definition is {definition!r}. Allowed: a dict of fields such as {{'kind': 'classes', ...}}."
        )
    kind = definition.get("kind")
    if kind not in FIELDS:
        raise ValueError(
            f"Task '{name}': kind is {kind!r}.{_closest(kind, FIELDS)} Allowed: {', '.join(FIELDS)}."
        )
    required, optional = FIELDS[kind]
    allowed = (*COMMON, *required, *optional)
    for field in definition:
        if field not in allowed:
            raise ValueError(
                f"Task '{name}': unknown field {field!r}.{_closest(field, allowed)} Allowed for kind '{kind}': {', '.join(allowed)}."
            )
    for field in required:
        if field not in definition:
            raise ValueError(f"Task '{name}': kind '{kind}' needs the field {field!r}.")
    for field, (well, form) in VALUES.items():
        if field in definition and not well(definition[field]):
            raise ValueError(f"Task '{name}': {field} is {definition[field]!r}. Allowed: {form}.")
    if kind == "classes":
        _check_classes(name, definition["classes"], definition.get("void", ()))
    elif "void" in definition:
        _check_void(name, definition["void"], _is_number, "numbers as stored, such as (0,)")
    return kind


def _check_classes(name: str, classes, void) -> None:
    form = "give ((name, id), ...) with ids in 0..65535, or ((name, (red, green, blue)), ...) with levels in 0..255, at least two classes"
    pairs = _is_list(classes) and all(
        _is_list(pair) and len(pair) == 2 and isinstance(pair[0], str) for pair in classes
    )
    well = next(
        (
            well
            for well in (_is_id, _is_colour)
            if pairs and all(well(value) for _, value in classes)
        ),
        None,
    )
    if well is None or len(classes) < 2:
        raise ValueError(f"Task '{name}': classes are {classes!r}; {form}.")
    names, values = [label for label, _ in classes], [_hashable(value) for _, value in classes]
    for kind, found in (("name", names), ("id or colour", values)):
        twice = [value for value in found if found.count(value) > 1]
        if twice:
            raise ValueError(
                f"Task '{name}': two classes have the {kind} {twice[0]!r}; each must have its own."
            )
    _check_void(
        name,
        void,
        well,
        "ids in 0..65535, such as (255,)"
        if well is _is_id
        else "colours (red, green, blue), such as ((0, 0, 0),)",
    )
    for value in map(_hashable, void):
        if value in values:
            raise ValueError(
                f"Task '{name}': void has {value!r}, which is the class {names[values.index(value)]!r}; "
                "take it out of `void` or out of `classes`."
            )


def _check_void(name: str, void, well: Callable[[Any], bool], form: str) -> None:
    if not _is_list(void) or not all(map(well, void)):
        guess = f" Did you mean {(void,)!r}?" if well(void) else ""
        raise ValueError(f"Task '{name}': void is {void!r}.{guess} Allowed: a tuple of {form}.")


def _is_list(value) -> bool:
    return isinstance(value, list | tuple)


def _is_text(value) -> bool:
    return isinstance(value, str)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_range(value) -> bool:
    return (
        _is_list(value) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]
    )


def _is_id(value) -> bool:
    return isinstance(value, int) and 0 <= value < 2**16


def _is_colour(value) -> bool:
    return (
        _is_list(value)
        and len(value) == 3
        and all(isinstance(level, int) and 0 <= level <= 255 for level in value)
    )


VALUES = {  # field -> (whether a value is well, what is allowed); `classes` and `void` depend on each other
    "prompt": (_is_text, "a text"),
    "folder": (_is_text, "a text, the folder below the data directory"),
    "unit": (_is_text, "a text"),
    "range": (_is_range, "two numbers (low, high) with low < high"),
    "scale": (lambda value: _is_number(value) and value != 0, "a number other than 0"),
}


def _hashable(value):
    """A colour as JSON gives it back, a list -> the tuple that it was."""
    return tuple(value) if _is_list(value) else value


def _closest(word, known) -> str:
    found = difflib.get_close_matches(str(word), known, 1)
    return f" Did you mean {found[0]!r}?" if found else ""
