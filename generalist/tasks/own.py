"""Tasks on a user's own data: from their definitions in a config (docs/own_data.md) to codecs."""

import difflib
from collections.abc import Mapping

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
        return Instance(blocks=1, cells=16, block_step=0, cell_step=15, mode="vote", score_gate=0.5, **known)
    return Restoration(protocol="rgb-skimage", **known)


def check_definition(name: str, definition: Mapping) -> str:
    """The kind of a definition. ValueError for an unknown kind or field, one that is missing, or classes of another form."""
    kind = definition.get("kind")
    if kind not in FIELDS:
        raise ValueError(f"Task '{name}': kind is {kind!r}.{_closest(kind, FIELDS)} Allowed: {', '.join(FIELDS)}.")
    required, optional = FIELDS[kind]
    allowed = (*COMMON, *required, *optional)
    for field in definition:
        if field not in allowed:
            raise ValueError(f"Task '{name}': unknown field {field!r}.{_closest(field, allowed)} Allowed for kind '{kind}': {', '.join(allowed)}.")
    for field in required:
        if field not in definition:
            raise ValueError(f"Task '{name}': kind '{kind}' needs the field {field!r}.")
    if kind == "classes":
        _check_classes(name, definition["classes"])
    return kind


def _check_classes(name: str, classes) -> None:
    form = "give ((name, id), ...) or ((name, (red, green, blue)), ...), at least two classes"
    if len(classes) < 2 or any(len(pair) != 2 or not isinstance(pair[0], str) for pair in classes):
        raise ValueError(f"Task '{name}': classes are {classes!r}; {form}.")
    values = [value if isinstance(value, int) else tuple(value) for _, value in classes]
    ids, colours = ([value for value in values if isinstance(value, kind)] for kind in (int, tuple))
    if len(ids) not in (0, len(values)) or any(len(colour) != 3 or not all(0 <= level <= 255 for level in colour) for colour in colours):
        raise ValueError(f"Task '{name}': classes are {classes!r}; {form}, levels in 0..255.")
    for kind, found in (("name", [pair[0] for pair in classes]), ("id or colour", values)):
        twice = [value for value in found if found.count(value) > 1]
        if twice:
            raise ValueError(f"Task '{name}': two classes have the {kind} {twice[0]!r}; each must have its own.")


def _closest(word, known) -> str:
    found = difflib.get_close_matches(str(word), known, 1)
    return f" Did you mean {found[0]!r}?" if found else ""
