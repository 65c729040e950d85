"""COCO 2017 panoptic: one file format, three tasks."""

import dataclasses
import functools
import json
from typing import Any, NamedTuple

import cv2
import numpy as np
from etils import epath

from generalist.input_pipeline.sources.base import Source, text_of
from generalist.input_pipeline.sources.files import (
    NO_FILE,
    DataError,
    File,
    LayoutError,
    Part,
    Stored,
    decode,
    png_or_jpeg,
    read_part,
    require_same_size,
)
from generalist.tasks import COCO_CATEGORIES
from generalist.tasks.base import find_runs

NUM_CATEGORIES = 133  # 80 things and 53 stuff
OBJECTS = (
    "panoptic_objects"  # the feature of the segments in the prepared form, as in the TFDS catalogue
)


class Segments(NamedTuple):
    """The segments of one image, arrays (n,): ids int32, class indices int32, whether a crowd, areas int32 in pixels."""

    ids: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray


@dataclasses.dataclass(frozen=True)
class Annotations:
    """panoptic_{split}2017.json packed into arrays: as Python dicts the train file takes gigabytes.

    The segments of image i are the rows offsets[i]:offsets[i + 1] of `ids`, `categories`, `crowd`, `areas`.
    """

    category_ids: (
        np.ndarray
    )  # int32 (133,), ascending: the class index is the position (COCO's own file order)
    is_thing: np.ndarray  # bool (133,)
    files: list[tuple[str, str]]  # (image, panoptic PNG) names
    offsets: np.ndarray  # int64 (n + 1,)
    ids: np.ndarray  # int32 (segments,)
    categories: np.ndarray  # int32 (segments,), category ids
    crowd: np.ndarray  # bool (segments,)
    areas: np.ndarray  # int32 (segments,), pixels

    def with_things(self) -> np.ndarray:
        """Bool (n,): does the image have a thing that is no crowd?"""
        countable = np.isin(self.categories, self.category_ids[self.is_thing]) & ~self.crowd
        before = np.concatenate([[0], np.cumsum(countable)])
        return before[self.offsets[1:]] > before[self.offsets[:-1]]


@functools.lru_cache(maxsize=4)
def read_annotations(path: str) -> Annotations:
    """Reads and packs the JSON once for the three tasks; LayoutError if it is damaged or of another form."""
    allowed = (
        f"It must be COCO's panoptic JSON: images, annotations, and {NUM_CATEGORIES} categories."
    )
    try:
        with epath.Path(path).open("rb") as file:
            annotations = pack(json.load(file))
    except FileNotFoundError as error:
        raise LayoutError(path, NO_FILE, COCO.expected_layout()) from error
    except (ValueError, KeyError, TypeError) as error:
        raise LayoutError(
            path, f"cannot be read ({type(error).__name__}: {error})", allowed
        ) from error
    if len(annotations.category_ids) != NUM_CATEGORIES:
        raise LayoutError(path, f"has {len(annotations.category_ids)} categories", allowed)
    return annotations


def column(rows: list[dict], name: str, dtype: type) -> np.ndarray:
    """One field of every row as an array: a hundred thousand dicts would cost gigabytes."""
    return np.array([row[name] for row in rows], dtype)


def pack(data: dict) -> Annotations:
    """The parsed JSON as arrays, in the order of its annotations."""
    categories = sorted(data["categories"], key=lambda category: category["id"])
    image_names = {image["id"]: image["file_name"] for image in data["images"]}
    segments = [
        segment for annotation in data["annotations"] for segment in annotation["segments_info"]
    ]
    counts = [len(annotation["segments_info"]) for annotation in data["annotations"]]
    return Annotations(
        category_ids=column(categories, "id", np.int32),
        is_thing=column(categories, "isthing", bool),
        files=[
            (image_names[annotation["image_id"]], annotation["file_name"])
            for annotation in data["annotations"]
        ],
        offsets=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        ids=column(segments, "id", np.int32),
        categories=column(segments, "category_id", np.int32),
        crowd=column(segments, "iscrowd", bool),
        areas=column(segments, "area", np.int32),
    )


def to_ids(bgr: np.ndarray) -> np.ndarray:
    """Pixels of a panoptic PNG, uint8 (h, w, 3) in OpenCV's order -> segment ids int32 (h, w): R + 256 G + 65536 B; 0 = void."""
    four = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA)
    return four.view("<u4")[..., 0].astype(np.int32) & 0xFFFFFF


def paint(
    id_map: np.ndarray, segments: Segments, values: np.ndarray, void: int, path: File, whole: bool
) -> np.ndarray:
    """For each pixel the value of its segment, `void` where it has none: int32 (h, w).

    An id that only one of PNG and JSON has is a DataError, as in the official evaluation; in a part of an image (not `whole`) segments
    of the JSON may be absent.
    """
    ids = np.append(segments.ids, 0)  # the void id 0 becomes the row behind the last
    order = np.argsort(ids)
    runs = find_runs(id_map)
    rows = order[np.minimum(np.searchsorted(ids[order], runs.values), len(ids) - 1)]
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
    return np.repeat(np.append(values, void).astype(np.int32)[rows], runs.lengths).reshape(
        id_map.shape
    )


class COCO(Source):
    """COCO 2017 panoptic, for three tasks. The label is, by task:

    coco_semantic: int32 (h, w), class 0..132 = position in the category list; -1 = void. Crowds are painted.
    instance: int32 (h, w), 1..N the things of any class in the order of the JSON; 0 = the rest, crowds too.
      Images of train without such a thing are left out: an all-black target teaches nothing.
    panoptic: (int32 (h, w) segment ids, 0 = void, [{"id", "category_id", "iscrowd", "area"}, ...]).
    """

    NAME = "coco"
    TASKS = ("coco_semantic", "instance", "panoptic")
    SPLITS = {"train": "train2017", "val": "val2017"}
    EVAL_SPLIT = "val"
    FOLDERS = ("coco",)
    WHERE = (
        "cocodataset.org, 2017 train and val images, and the panoptic train/val annotations of 2017"
    )
    LICENCE = "annotations: CC BY 4.0; each image has its own licence, named in the JSON, and Flickr's terms"
    LAYOUT = """\
  coco/{train2017,val2017}/<n>.jpg
  coco/annotations/panoptic_{train2017,val2017}.json
  coco/annotations/panoptic_{train2017,val2017}/<n>.png     8-bit RGB, id = R + 256 G + 65536 B"""
    NEEDED = tuple(
        (part.format(split),)
        for split in ("train2017", "val2017")
        for part in ("{}", "annotations/panoptic_{}.json", "annotations/panoptic_{}")
    )
    LABEL, CATALOGUE = "panoptic_image", "coco/2017_panoptic"
    USUAL = {"train": 118_287, "val": 5_000}

    def index(self) -> list[int]:
        """The rows of `annotations` in use."""
        split = self.SPLITS[self.split]
        self.annotations = read_annotations(f"{self.root}/annotations/panoptic_{split}.json")
        return self.subsets().get(self.task, list(range(len(self.annotations.files))))

    def paths(self) -> list[str]:
        json_path = f"{self.root}/annotations/panoptic_{self.SPLITS[self.split]}.json"
        return [json_path, *(part for index in range(len(self)) for part in self._paths(index))]

    def _report_count(self, split: str, count: int) -> None:
        everything = len(self.annotations.files) if self.prepared is None else len(self.prepared)
        super()._report_count(split, everything if count else 0)

    def locate(self, index: int) -> tuple:
        key, image_path, label_path = self._paths(index)
        return key, image_path, label_path, self._segments(index, label_path)

    def record(self, index: int) -> dict[str, Any]:
        key, image_path, label_path = self._paths(index)
        official = [category["id"] for category in COCO_CATEGORIES]
        if self.annotations.category_ids.tolist() != official:
            raise LayoutError(
                label_path,
                "its JSON has other category ids than COCO",
                f"The prepared form has COCO's: {official}.",
            )
        ids, classes, crowd, areas = self._segments(index, label_path)
        objects = {"id": ids, "label": classes, "is_crowd": crowd, "area": areas}
        return {
            "key": key,
            "image": png_or_jpeg(image_path),
            self.LABEL: png_or_jpeg(label_path),
            OBJECTS: objects,
        }

    def locate_in(self, record: dict[str, Any], where: str) -> tuple:
        key = text_of(record, "key", "image/filename").removesuffix(".jpg")
        kinds = {"id": np.int32, "label": np.int32, "is_crowd": bool, "area": np.int32}
        segments = Segments(
            *(np.array(record[OBJECTS][name], kind) for name, kind in kinds.items())
        )
        return (
            key,
            Stored(f"{where}, image", record["image"]),
            Stored(f"{where}, {self.LABEL}", record[self.LABEL]),
            segments,
        )

    def subsets(self) -> dict[str, list[int]]:
        return (
            {"instance": np.flatnonzero(self.annotations.with_things()).tolist()}
            if self.split == "train"
            else {}
        )

    def _paths(self, index: int) -> tuple[str, str, str]:
        split = self.SPLITS[self.split]
        image, label = self.annotations.files[self.items[index]]
        return (
            image.rsplit(".", 1)[0],
            f"{self.root}/{split}/{image}",
            f"{self.root}/annotations/panoptic_{split}/{label}",
        )

    def _segments(self, index: int, path: str) -> Segments:
        data, row = self.annotations, self.items[index]
        rows = slice(data.offsets[row], data.offsets[row + 1])
        ids, categories = data.ids[rows], data.categories[rows]
        wrong = ~np.isin(categories, data.category_ids)
        if wrong.any():
            raise DataError(
                path,
                f"segment {ids[wrong][0]} has the category id {categories[wrong][0]}",
                f"Allowed are the {NUM_CATEGORIES} ids of the JSON's categories.",
            )
        classes = np.searchsorted(data.category_ids, categories).astype(np.int32)
        return Segments(ids, classes, data.crowd[rows], data.areas[rows])

    def decode_label(self, label: File) -> np.ndarray:
        bgr = decode(label, cv2.IMREAD_UNCHANGED)
        if bgr.dtype != np.uint8 or bgr.shape[2:] != (3,):
            raise DataError(
                label,
                f"{bgr.dtype} image of shape {bgr.shape}",
                "A panoptic PNG must be 8-bit RGB.",
            )
        return bgr

    def example(
        self, key: str, image: File, label: File, segments: Segments, part: Part | None = None
    ) -> dict:
        pixels, window, size = read_part(image, part)
        stored = self.decode_label(label)
        require_same_size(size, image, stored.shape[:2], label)
        return {
            "image": pixels,
            "label": self._label(to_ids(stored[window]), segments, label, part is None),
            "key": key,
        }

    def _label(self, id_map: np.ndarray, segments: Segments, path: File, whole: bool):
        ids, classes, crowd, areas = segments
        if self.task == "coco_semantic":
            return paint(id_map, segments, classes, -1, path, whole)
        category_ids, is_thing = self._categories()
        if self.task == "instance":
            countable = is_thing[classes] & ~crowd
            return paint(
                id_map, segments, np.where(countable, np.cumsum(countable), 0), 0, path, whole
            )
        columns = zip(
            ids.tolist(), category_ids[classes].tolist(), crowd.astype(int).tolist(), areas.tolist()
        )
        id_map = paint(id_map, segments, ids, 0, path, whole)
        return id_map, [
            dict(zip(("id", "category_id", "iscrowd", "area"), values)) for values in columns
        ]

    def _categories(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 (133,) and whether each is a thing, bool (133,)."""
        if self.prepared is None:
            return self.annotations.category_ids, self.annotations.is_thing
        return column(COCO_CATEGORIES, "id", np.int32), column(COCO_CATEGORIES, "isthing", bool)
