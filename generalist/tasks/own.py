"""Tasks on a user's own data: from their definitions in a config (docs/own_data.md) to tasks."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from generalist.names import did_you_mean, one_of
from generalist.tasks.base import Task
from generalist.tasks.instance import Instance
from generalist.tasks.restoration import Restoration
from generalist.tasks.scalar import Scalar
from generalist.tasks.semantic import Semantic
from generalist.tasks.text_to_image import TextToImage


class _Field(NamedTuple):
    """What a field of a definition, or an element of it, may hold.

    Attributes:
      is_valid: value -> whether it is allowed.
      allowed: what is, for people.
    """

    is_valid: Callable[[Any], bool]
    allowed: str


class _Kind(NamedTuple):
    """A kind of own task.

    Attributes:
      make: (name, prompt, definition that was checked) -> task.
      required: fields that a definition must have.
      optional: fields that it may have, besides `_COMMON`.
    """

    make: Callable[[str, str, Mapping[str, Any]], Task]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


def own_task(name: str, definition: Any) -> Task:
    """Makes a task.

    Args:
      name: of the task.
      definition: its fields; a mapping, as a config holds it.

    Raises:
      ValueError: the definition is wrong; the message names the task, the field and what is
        allowed.
    """
    kind = _check_definition(name, definition)
    prompt = definition.get("prompt") or f"Performance {name}"
    task = kind.make(name, prompt, definition)
    captions = task.own_prompts or definition.get("captions", False)
    return dataclasses.replace(task, own_prompts=captions)


# Definitions that were checked -> tasks -----------------------------------------------------------


def _classes(name: str, prompt: str, definition: Mapping[str, Any]) -> Task:
    names = tuple(label for label, _ in definition["classes"])
    values = [value for _, value in definition["classes"]]

    # Classes that are stored as colors are shown in them too.
    colors = ()
    if not isinstance(values[0], int):
        colors = tuple(tuple(color) for color in values)
    return Semantic(name=name, prompt=prompt, classes=names, colors=colors, upsample="distance")


def _scalar(name: str, prompt: str, definition: Mapping[str, Any]) -> Task:
    low, high = definition["range"]
    unit = definition.get("unit", "")
    return Scalar(name=name, prompt=prompt, low=float(low), high=float(high), unit=unit)


def _instances(name: str, prompt: str, definition: Mapping[str, Any]) -> Task:
    # The code of the scenes, see `instance_decoders`.
    return Instance(
        name=name,
        prompt=prompt,
        blocks=1,
        cells=16,
        block_step=0,
        cell_step=15,
        mode="vote",
        score_gate=0.5,
    )


def _image(name: str, prompt: str, definition: Mapping[str, Any]) -> Task:
    tiles = definition.get("tiles", True)
    return Restoration(name=name, prompt=prompt, protocol="rgb-skimage", tiles=tiles)


def _text_to_image(name: str, prompt: str, definition: Mapping[str, Any]) -> Task:
    return TextToImage(name=name, prompt=prompt)


# Checks -------------------------------------------------------------------------------------------


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_scale(value: Any) -> bool:
    return _is_number(value) and value != 0


def _is_range(value: Any) -> bool:
    if not _is_list(value) or len(value) != 2:
        return False
    low, high = value
    return _is_number(low) and _is_number(high) and low < high


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**16


def _is_color(value: Any) -> bool:
    if not _is_list(value) or len(value) != 3:
        return False
    return all(isinstance(level, int) and 0 <= level <= 255 for level in value)


_KINDS = {
    "classes": _Kind(_classes, required=("classes",), optional=("void",)),
    "scalar": _Kind(_scalar, required=("range",), optional=("unit", "scale", "void")),
    "instances": _Kind(_instances),
    "image": _Kind(_image, optional=("tiles",)),
    "text_to_image": _Kind(_text_to_image),
}

# Fields of every kind; only `kind` is required.
_COMMON = ("kind", "prompt", "captions", "folder")

# `classes` and `void` depend on each other and are checked apart.
_FIELDS = {
    "prompt": _Field(_is_text, "a text"),
    "captions": _Field(_is_bool, "True or False"),
    "folder": _Field(_is_text, "a text, the folder below the data directory"),
    "unit": _Field(_is_text, "a text"),
    "range": _Field(_is_range, "two numbers (low, high) with low < high"),
    "scale": _Field(_is_scale, "a number other than 0"),
    "tiles": _Field(_is_bool, "True or False"),
}

# What an element of `void` may be.
_ID = _Field(_is_id, "ids in 0..65535, such as (255,)")
_COLOR = _Field(_is_color, "colors (red, green, blue), such as ((0, 0, 0),)")
_STORED_NUMBER = _Field(_is_number, "numbers as stored, such as (0,)")


def _check_definition(name: str, definition: Any) -> _Kind:
    """Returns the kind of a definition; raises ValueError unless it is complete and valid."""
    if not hasattr(definition, "items"):
        raise ValueError(
            f"Task '{name}': its definition is {definition!r}. Allowed: a dict of fields such as "
            "{'kind': 'classes', ...}."
        )

    kind_name = one_of(definition.get("kind"), _KINDS, f"kind of task '{name}':")
    kind = _KINDS[kind_name]

    # A misspelled field would otherwise be as if it were not there.
    allowed = (*_COMMON, *kind.required, *kind.optional)
    for field in definition:
        if field not in allowed:
            raise ValueError(
                f"Task '{name}': unknown field {field!r}.{did_you_mean(field, allowed)} Allowed "
                f"for kind '{kind_name}': {', '.join(allowed)}."
            )
    for field in kind.required:
        if field not in definition:
            raise ValueError(f"Task '{name}': kind '{kind_name}' needs the field {field!r}.")

    # Values: first what stands alone, then classes and void together.
    for field, form in _FIELDS.items():
        if field in definition and not form.is_valid(definition[field]):
            raise ValueError(
                f"Task '{name}': {field} is {definition[field]!r}. Allowed: {form.allowed}."
            )
    if "classes" in definition:
        _check_classes(name, definition["classes"], definition.get("void", ()))
    elif "void" in definition:
        _check_void(name, definition["void"], _STORED_NUMBER)
    return kind


def _check_classes(name: str, classes: Any, void: Any) -> None:
    form = _form_of_classes(classes)
    if form is None:
        raise ValueError(
            f"Task '{name}': classes are {classes!r}; give ((name, id), ...) with ids in 0..65535, "
            "or ((name, (red, green, blue)), ...) with levels in 0..255, at least two classes."
        )

    # Two classes of one value could not be told apart, two of one name not be reported.
    names = [label for label, _ in classes]
    values = [_hashable(value) for _, value in classes]
    _check_distinct(name, "name", names)
    _check_distinct(name, "id or color", values)

    # What is void must not be a class too.
    _check_void(name, void, form)
    for value in void:
        value = _hashable(value)
        if value in values:
            class_name = names[values.index(value)]
            raise ValueError(
                f"Task '{name}': void has {value!r}, which is the class {class_name!r}; take it "
                "out of `void` or out of `classes`."
            )


def _form_of_classes(classes: Any) -> _Field | None:
    """Returns whether all classes are ids or all are colors; None if they are neither."""
    if not _is_list(classes) or len(classes) < 2:
        return None
    for pair in classes:
        if not _is_list(pair) or len(pair) != 2 or not isinstance(pair[0], str):
            return None

    # Never a mixture: label files hold either one channel or three.
    for form in (_ID, _COLOR):
        if all(form.is_valid(value) for _, value in classes):
            return form
    return None


def _check_distinct(name: str, what: str, values: Sequence[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(
                f"Task '{name}': two classes have the {what} {value!r}; each must have its own."
            )


def _check_void(name: str, void: Any, form: _Field) -> None:
    if not _is_list(void) or not all(form.is_valid(value) for value in void):
        # A single value where a tuple of them is needed.
        guess = f" Did you mean {(void,)!r}?" if form.is_valid(void) else ""
        raise ValueError(
            f"Task '{name}': void is {void!r}.{guess} Allowed: a tuple of {form.allowed}."
        )


def _hashable(value: Any) -> Any:
    """Returns a color as a tuple; JSON makes it a list."""
    return tuple(value) if _is_list(value) else value
