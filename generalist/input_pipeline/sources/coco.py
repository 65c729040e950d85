"""COCO 2017 panoptic: one file format, three tasks."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
from etils import epath

from generalist.input_pipeline.source import Decoded, ReadWindow
from generalist.input_pipeline.sources.base import Dataset
from generalist.input_pipeline.sources.examples import Examples, Location
from generalist.input_pipeline.sources.files import (
    NO_FILE,
    DataError,
    File,
    ImageWindow,
    LayoutError,
    decode,
    require_lossless,
)
from generalist.tasks import COCO_CATEGORIES
from generalist.tasks.arrays import find_runs

LARGEST_ID = 2**24 - 1  # that three bytes of a pixel hold
MOST_BYTES = 2**31  # of the JSON; that of train2017 has a quarter of it
NUM_CATEGORIES = 133  # 80 things and 53 stuff
OBJECTS = "panoptic_objects"  # feature of the segments in the prepared form, as in the TFDS catalog


class Segments(NamedTuple):
    """The segments of one image, one in each row of the arrays."""

    ids: np.ndarray  # int32 (n,), as in the PNG
    classes: np.ndarray  # int32 (n,), 0..132
    crowd: np.ndarray  # bool (n,)
    areas: np.ndarray  # int32 (n,), pixels


@dataclasses.dataclass(frozen=True)
class Annotations:
    """panoptic_{split}2017.json packed into arrays: as Python dicts the train file takes gigabytes.

    The segments of image i are the rows offsets[i]:offsets[i + 1] of `ids`, `categories`, `crowd`
    and `areas`.
    """

    # The position in this ascending list is the class index (COCO's own file order).
    category_ids: np.ndarray  # int32 (133,)
    is_thing: np.ndarray  # bool (133,)
    files: list[tuple[str, str]]  # (image, panoptic PNG) names
    offsets: np.ndarray  # int64 (n + 1,)
    ids: np.ndarray  # int64 (segments,)
    categories: np.ndarray  # int64 (segments,), category ids
    crowd: np.ndarray  # bool (segments,)
    areas: np.ndarray  # int64 (segments,), pixels

    def with_things(self) -> np.ndarray:
        """Returns whether each image has a thing that is no crowd, bool (n,)."""
        things = self.category_ids[self.is_thing]
        countable = np.isin(self.categories, things) & ~self.crowd
        before = np.concatenate([[0], np.cumsum(countable)])
        return before[self.offsets[1:]] > before[self.offsets[:-1]]

    def segments(self, row: int, path: str) -> Segments:
        """Returns the segments of an image.

        Args:
          row: index of the image.
          path: path of its panoptic PNG, for errors.

        Raises:
          DataError: a segment has a category id that the JSON does not list, or an id that no
            pixel can have, or that another one has.
        """
        rows = slice(self.offsets[row], self.offsets[row + 1])
        ids = self.ids[rows]
        categories = self.categories[rows]
        wrong = ~np.isin(categories, self.category_ids)
        if wrong.any():
            raise DataError(
                path,
                f"segment {ids[wrong][0]} has the category id {categories[wrong][0]}",
                f"Allowed are the {NUM_CATEGORIES} ids of the JSON's categories.",
            )
        _check_ids(ids, path)
        classes = np.searchsorted(self.category_ids, categories).astype(np.int32)
        areas = self.areas[rows].astype(np.int32)
        return Segments(ids.astype(np.int32), classes, self.crowd[rows], areas)


def _check_ids(ids: np.ndarray, path: str) -> None:
    """Raises DataError unless the segment ids of an image can be told apart in its PNG."""
    values, counts = np.unique(ids, return_counts=True)

    # A pixel has three bytes.
    impossible = values[(values < 1) | (values > LARGEST_ID)]
    if len(impossible):
        raise DataError(
            path,
            f"the JSON has the segment id {impossible[0]}",
            f"Allowed are 1..{LARGEST_ID}, R + 256 G + 65536 B of a pixel.",
        )

    # One of two segments with the same id would get the pixels of both.
    if (counts > 1).any():
        twice = values[counts > 1][0]
        raise DataError(
            path,
            f"the JSON has the segment id {twice} {counts.max()} times",
            "Each segment of an image must have an id of its own.",
        )


@functools.lru_cache(maxsize=4)
def read_annotations(path: str) -> Annotations:
    """Reads and packs the JSON, once for the three tasks.

    Raises:
      FileNotFoundError: there is no such file.
      LayoutError: it is damaged or of another form.
    """
    allowed = (
        f"It must be COCO's panoptic JSON: images, annotations, and {NUM_CATEGORIES} categories."
    )
    try:
        with epath.Path(path).open("rb") as file:
            if file.seek(0, os.SEEK_END) > MOST_BYTES:
                raise ValueError(f"longer than {MOST_BYTES >> 20} MiB")
            file.seek(0)
            annotations = pack(json.load(file))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
        raise LayoutError(path, problem, allowed) from error

    # Another list of categories, such as that of COCO's boxes, has other classes.
    count = len(annotations.category_ids)
    if count != NUM_CATEGORIES:
        raise LayoutError(path, f"has {count} categories", allowed)
    return annotations


def column(rows: Sequence[Mapping], name: str, dtype: type) -> np.ndarray:
    """Returns one field of every row as an array: a hundred thousand dicts would cost gigabytes."""
    return np.array([row[name] for row in rows], dtype)


def pack(data: Mapping[str, Any]) -> Annotations:
    """Packs the parsed JSON into arrays, in the order of its annotations."""
    categories = sorted(data["categories"], key=lambda category: category["id"])
    image_names = {image["id"]: image["file_name"] for image in data["images"]}

    # The segments of all images one after the other; `counts` says where one image ends.
    files = []
    counts = []
    segments = []
    for annotation in data["annotations"]:
        files.append((image_names[annotation["image_id"]], annotation["file_name"]))
        counts.append(len(annotation["segments_info"]))
        segments += annotation["segments_info"]

    return Annotations(
        category_ids=column(categories, "id", np.int32),
        is_thing=column(categories, "isthing", bool),
        files=files,
        offsets=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        # Numbers that are too large are found where their image is read.
        ids=column(segments, "id", np.int64),
        categories=column(segments, "category_id", np.int64),
        crowd=column(segments, "iscrowd", bool),
        areas=column(segments, "area", np.int64),
    )


class PanopticFiles(Examples):
    """Images of a split, their panoptic PNGs, and the segments that the JSON has of them.

    Args:
      root: the data set's folder.
      split: name of the split on disk, "val2017".
      annotations: its JSON.
      rows: the images that are used.
    """

    def __init__(self, root: str, split: str, annotations: Annotations, rows: Sequence[int]):
        self.annotations = annotations
        self._root = root
        self._split = split
        self._images = f"{root}/{split}"
        self._labels = f"{root}/annotations/panoptic_{split}"
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def names(self) -> list[str]:
        """Returns the key of every image."""
        return [self._paths(row)[0] for row in self._rows]

    def part(self, rows: Sequence[int]) -> "PanopticFiles":
        """Returns only the images at `rows`, so that `paths` has only their files."""
        rows = [self._rows[row] for row in rows]
        return PanopticFiles(self._root, self._split, self.annotations, rows)

    def locate(self, index: int) -> Location:
        """Returns the paths of example `index`, and its `Segments`."""
        row = self._rows[index]
        key, image, label = self._paths(row)
        return Location(key, image, label, self.annotations.segments(row, label))

    def paths(self) -> Iterable[str]:
        """Returns the paths of the JSON, and of all images and PNGs."""
        yield f"{self._labels}.json"
        for row in self._rows:
            _, image, label = self._paths(row)
            yield image
            yield label

    def _paths(self, row: int) -> tuple[str, str, str]:
        image, label = self.annotations.files[row]
        key = image.rsplit(".", 1)[0]
        return key, f"{self._images}/{image}", f"{self._labels}/{label}"


class COCO(Dataset):
    """COCO 2017 panoptic, for three tasks.

    The label is, by task:

    coco_semantic: int32 (h, w), class 0..132 = position in the category list; -1 = void. Crowds
      are painted.
    instance: int32 (h, w), 1..N the things of any class in the order of the JSON; 0 = stuff;
      -1 = void and crowds. Images of train without such a thing are left out: an all-black target
      teaches nothing.
    panoptic: (int32 (h, w) segment ids, 0 = void, [{"id", "category_id", "iscrowd", "area"}]).
    """

    NAME = "coco"
    TASKS = ("coco_semantic", "instance", "panoptic")
    SPLITS: ClassVar = {"train": "train2017", "val": "val2017"}
    EVAL_SPLIT = "val"
    FOLDERS = ("coco",)
    WHERE = (
        "cocodataset.org, 2017 train and val images, and the panoptic train/val annotations of 2017"
    )
    LICENSE = (
        "annotations: CC BY 4.0; each image has its own license, named in the JSON, "
        "and Flickr's terms"
    )
    LAYOUT = """\
  coco/{train2017,val2017}/<n>.jpg
  coco/annotations/panoptic_{train2017,val2017}.json
  coco/annotations/panoptic_{train2017,val2017}/<n>.png     8-bit RGB, id = R + 256 G + 65536 B"""
    NEEDED = (
        ("train2017",),
        ("annotations/panoptic_train2017.json",),
        ("annotations/panoptic_train2017",),
        ("val2017",),
        ("annotations/panoptic_val2017.json",),
        ("annotations/panoptic_val2017",),
    )
    LABEL = "panoptic_image"
    CATALOG = "coco/2017_panoptic"
    USUAL: ClassVar = {"train": 118_287, "val": 5_000}

    # The categories of the classes, by class index: COCO's, until a JSON lists its own.
    category_ids = column(COCO_CATEGORIES, "id", np.int32)
    is_thing = column(COCO_CATEGORIES, "isthing", bool)

    def index(self) -> PanopticFiles:
        """Reads the JSON of the split."""
        folder = self.SPLITS[self.official_split]
        path = f"{self.root}/annotations/panoptic_{folder}.json"
        try:
            self.annotations = read_annotations(path)
        except FileNotFoundError as error:
            raise LayoutError(path, NO_FILE, self.expected_layout()) from error

        self.category_ids = self.annotations.category_ids
        self.is_thing = self.annotations.is_thing
        every_row = range(len(self.annotations.files))
        return PanopticFiles(self.root, folder, self.annotations, every_row)

    def choose(self, examples: Examples) -> dict[str, list[int]]:
        """Adds the images with a countable thing, on which instances are trained."""
        subsets = super().choose(examples)
        # The records of a prepared form do not say it before they are read.
        if self.official_split == "train" and isinstance(examples, PanopticFiles):
            with_things = examples.annotations.with_things()
            subsets["instance"] = np.flatnonzero(with_things).tolist()
        return subsets

    def decode_label(self, label: File) -> np.ndarray:
        """Reads a panoptic PNG, uint8 (h, w, 3) in OpenCV's order."""
        require_lossless(label)
        bgr = decode(label, cv2.IMREAD_UNCHANGED)
        if bgr.dtype != np.uint8 or bgr.shape[2:] != (3,):
            problem = f"{bgr.dtype} image of shape {bgr.shape}"
            raise DataError(label, problem, "A panoptic PNG must be 8-bit RGB.")
        return bgr

    def decode_files(
        self, location: Location, window: ReadWindow | None, decoded: Decoded | None
    ) -> tuple[ImageWindow, np.ndarray]:
        """Decodes image and PNG once for the three tasks, which have the same."""
        if decoded is None:
            return super().decode_files(location, window, decoded)
        files = (location.image, location.label)
        if files not in decoded:
            decoded[files] = super().decode_files(location, window, decoded)
        return decoded[files]

    def to_label(self, stored: np.ndarray, location: Location, whole: bool) -> Any:
        """Paints each segment as the task does: with its class, a number, or its id."""
        id_map = to_ids(stored)
        segments = location.segments
        if self.task == "coco_semantic":
            return paint(id_map, segments, segments.classes, -1, location.label, whole)

        if self.task == "instance":
            countable = self.is_thing[segments.classes] & ~segments.crowd
            numbers = np.where(countable, np.cumsum(countable), 0)
            numbers[segments.crowd] = -1
            return paint(id_map, segments, numbers, -1, location.label, whole)

        id_map = paint(id_map, segments, segments.ids, 0, location.label, whole)
        return id_map, segments_info(segments, self.category_ids)

    def record(self, index: int) -> dict[str, Any]:
        """Adds the segments; their classes are COCO's, since the prepared form has no JSON."""
        # The record has the class index of each segment, which means COCO's order of categories.
        location = self.examples.locate(index)
        official = [category["id"] for category in COCO_CATEGORIES]
        if self.category_ids.tolist() != official:
            raise LayoutError(
                location.label,
                "its JSON has other category ids than COCO",
                f"The prepared form has COCO's: {official}.",
            )

        segments = location.segments
        objects = {
            "id": segments.ids,
            "label": segments.classes,
            "is_crowd": segments.crowd,
            "area": segments.areas,
        }
        return super().record(index) | {OBJECTS: objects}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str) -> Location:
        """Adds the segments of the record; the catalog's keys end in .jpg."""
        location = super().from_record(record, where)
        objects = record[OBJECTS]
        segments = Segments(
            ids=np.array(objects["id"], np.int32),
            classes=np.array(objects["label"], np.int32),
            crowd=np.array(objects["is_crowd"], bool),
            areas=np.array(objects["area"], np.int32),
        )
        return location._replace(key=location.key.removesuffix(".jpg"), segments=segments)


def to_ids(bgr: np.ndarray) -> np.ndarray:
    """Converts the pixels of a panoptic PNG to segment ids.

    Args:
      bgr: uint8 (h, w, 3) in OpenCV's order.

    Returns:
      int32 (h, w): R + 256 G + 65536 B; 0 = void.
    """
    # Four bytes a pixel are one number, of which the opaque fourth is masked.
    rgba = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA)
    return rgba.view("<u4")[..., 0].astype(np.int32) & 0xFFFFFF


def paint(
    id_map: np.ndarray,
    segments: Segments,
    values: np.ndarray,
    void: int,
    path: File,
    whole: bool,
) -> np.ndarray:
    """Gives each pixel the value of its segment.

    Args:
      id_map: int32 (h, w) segment ids, 0 = void.
      segments: what the JSON has of the image.
      values: (n,) value of each segment.
      void: value of the pixels without a segment.
      path: the PNG, for errors.
      whole: whether `id_map` is the whole image; in a window of it segments may be absent.

    Returns:
      int32 (h, w).

    Raises:
      DataError: only one of PNG and JSON has an id, as in the official evaluation.
    """
    ids = np.append(segments.ids, 0)  # the void id 0 becomes the row behind the last

    # Look each run of equal pixels up in the sorted ids, not each pixel.
    order = np.argsort(ids)
    runs = find_runs(id_map)
    nearest = np.minimum(np.searchsorted(ids[order], runs.values), len(ids) - 1)
    rows = order[nearest]

    strange = ids[rows] != runs.values
    if strange.any():
        raise DataError(
            path,
            f"segment id {runs.values[strange][0]} is not in the JSON",
            f"Allowed are 0 (void) and {segments.ids.tolist()}.",
        )
    empty = np.bincount(rows, minlength=len(ids))[:-1] == 0
    if whole and empty.any():
        raise DataError(
            path,
            f"no pixel has the segment id {segments.ids[empty][0]} of the JSON",
            "PNG and JSON must hold the same ids.",
        )

    painted = np.append(values, void).astype(np.int32)[rows]
    return np.repeat(painted, runs.lengths).reshape(id_map.shape)


def segments_info(segments: Segments, category_ids: np.ndarray) -> list[dict[str, int]]:
    """Returns the segments in the official form, plain integers in the order of the JSON."""
    categories = category_ids[segments.classes].tolist()
    columns = zip(
        segments.ids.tolist(),
        categories,
        segments.crowd.astype(int).tolist(),
        segments.areas.tolist(),
        strict=True,
    )
    return [
        {"id": id_, "category_id": category, "iscrowd": crowd, "area": area}
        for id_, category, crowd, area in columns
    ]
