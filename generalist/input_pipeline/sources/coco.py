"""COCO 2017 panoptic: one file format, three tasks."""

import dataclasses
import functools
import json

import cv2
from etils import epath
import numpy as np

from generalist.input_pipeline.sources.base import (
    DataError, LayoutError, Source, decode, read_image, require_same_size)

NUM_CATEGORIES = 133  # 80 things and 53 stuff


@dataclasses.dataclass(frozen=True)
class Annotations:
    """panoptic_{split}2017.json packed into arrays: as Python dicts the train file takes gigabytes.

    The segments of image i are the rows offsets[i]:offsets[i + 1] of `ids`, `categories`, `crowd`, `areas`.
    """

    category_ids: np.ndarray  # int32 (133,), ascending: the class index is the position (COCO's own file order)
    is_thing: np.ndarray  # bool (133,)
    files: list[tuple[str, str]]  # (image, panoptic PNG) names
    offsets: np.ndarray  # int64 (n + 1,)
    ids: np.ndarray  # int32 (segments,)
    categories: np.ndarray  # int32 (segments,), category ids
    crowd: np.ndarray  # bool (segments,)
    areas: np.ndarray  # int32 (segments,), pixels

    def with_things(self) -> np.ndarray:
        """bool (n,): does the image have a thing that is no crowd?"""
        countable = np.isin(self.categories, self.category_ids[self.is_thing]) & ~self.crowd
        before = np.concatenate([[0], np.cumsum(countable)])
        return before[self.offsets[1:]] > before[self.offsets[:-1]]


@functools.lru_cache(maxsize=4)
def read_annotations(path: str) -> Annotations:
    """Reads and packs the JSON once for the three tasks; LayoutError if it is damaged or of another form."""
    allowed = f"It must be COCO's panoptic JSON: images, annotations, and {NUM_CATEGORIES} categories."
    try:
        with epath.Path(path).open("rb") as file:
            annotations = pack(json.load(file))
    except FileNotFoundError as error:
        raise LayoutError(path, "no such file", COCO.expected_layout()) from error
    except (ValueError, KeyError, TypeError) as error:
        raise LayoutError(path, f"cannot be read ({type(error).__name__}: {error})", allowed) from error
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
    segments = [segment for annotation in data["annotations"] for segment in annotation["segments_info"]]
    counts = [len(annotation["segments_info"]) for annotation in data["annotations"]]
    return Annotations(
        category_ids=column(categories, "id", np.int32),
        is_thing=column(categories, "isthing", bool),
        files=[(image_names[annotation["image_id"]], annotation["file_name"]) for annotation in data["annotations"]],
        offsets=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        ids=column(segments, "id", np.int32),
        categories=column(segments, "category_id", np.int32),
        crowd=column(segments, "iscrowd", bool),
        areas=column(segments, "area", np.int32))


def read_ids(path: str) -> np.ndarray:
    """Segment ids int32 (h, w) of a panoptic PNG: R + 256 G + 65536 B; 0 = void."""
    bgr = decode(path, cv2.IMREAD_UNCHANGED)
    if bgr.dtype != np.uint8 or bgr.shape[2:] != (3,):
        raise DataError(path, f"{bgr.dtype} image of shape {bgr.shape}", "A panoptic PNG must be 8-bit RGB.")
    blue, green, red = (bgr[..., channel].astype(np.int32) for channel in range(3))
    return red + 256 * green + 65536 * blue


def segment_rows(id_map: np.ndarray, ids: np.ndarray, path: str) -> np.ndarray:
    """For each pixel the row of its segment in `ids`, -1 = void: int32 (h, w).

    An id that only one of PNG and JSON has is a DataError, as in the official evaluation.
    """
    order = np.argsort(np.append(ids, 0))  # the void id 0 becomes the row len(ids)
    known = np.append(ids, 0)[order]
    position = np.minimum(np.searchsorted(known, id_map), len(known) - 1)
    strange = known[position] != id_map
    if strange.any():
        raise DataError(path, f"segment id {id_map[strange][0]} is not in the JSON",
                        f"Allowed are 0 (void) and {ids.tolist()}.")
    rows = order[position]
    empty = np.bincount(rows.ravel(), minlength=len(known))[:len(ids)] == 0
    if empty.any():
        raise DataError(path, f"no pixel has the segment id {ids[empty][0]} of the JSON",
                        "PNG and JSON must hold the same ids.")
    return np.where(rows == len(ids), -1, rows).astype(np.int32)


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
    WHERE = "cocodataset.org, 2017 train and val images, and the panoptic train/val annotations of 2017"
    LICENCE = "annotations: CC BY 4.0; each image has its own Flickr licence, named in the JSON"
    LAYOUT = """\
  coco/{train2017,val2017}/<n>.jpg
  coco/annotations/panoptic_{train2017,val2017}.json
  coco/annotations/panoptic_{train2017,val2017}/<n>.png     8-bit RGB, id = R + 256 G + 65536 B"""
    NEEDED = tuple((part.format(split),) for split in ("train2017", "val2017")
                   for part in ("{}", "annotations/panoptic_{}.json", "annotations/panoptic_{}"))
    USUAL = {"train": 118_287, "val": 5_000}

    def index(self) -> list[int]:
        """The rows of `annotations` in use."""
        split = self.SPLITS[self.split]
        self.annotations = read_annotations(f"{self.root}/annotations/panoptic_{split}.json")
        rows = np.arange(len(self.annotations.files))
        if self.task == "instance" and self.split == "train":
            rows = rows[self.annotations.with_things()]
        return rows.tolist()

    def _report_count(self, split: str, count: int) -> None:
        super()._report_count(split, len(self.annotations.files) if count else 0)

    def read(self, index: int) -> dict:
        row, split = self.items[index], self.SPLITS[self.split]
        image_name, label_name = self.annotations.files[row]
        image_path = f"{self.root}/{split}/{image_name}"
        label_path = f"{self.root}/annotations/panoptic_{split}/{label_name}"
        image, id_map = read_image(image_path), read_ids(label_path)
        require_same_size(image, image_path, id_map, label_path)
        return {"image": image, "label": self._label(row, id_map, label_path), "key": image_name.rsplit(".", 1)[0]}

    def _label(self, row: int, id_map: np.ndarray, path: str):
        data = self.annotations
        segments = slice(data.offsets[row], data.offsets[row + 1])
        ids, categories, crowd = data.ids[segments], data.categories[segments], data.crowd[segments]
        wrong = ~np.isin(categories, data.category_ids)
        if wrong.any():
            raise DataError(path, f"segment {ids[wrong][0]} has the category id {categories[wrong][0]}",
                            f"Allowed are the {NUM_CATEGORIES} ids of the JSON's categories.")
        rows = segment_rows(id_map, ids, path)
        classes = np.searchsorted(data.category_ids, categories).astype(np.int32)
        if self.task == "coco_semantic":
            return np.append(classes, np.int32(-1))[rows]  # row -1, void, reads the appended value
        if self.task == "instance":
            countable = data.is_thing[classes] & ~crowd
            return np.append(np.where(countable, np.cumsum(countable), 0), 0).astype(np.int32)[rows]
        columns = zip(ids.tolist(), categories.tolist(), crowd.astype(int).tolist(), data.areas[segments].tolist())
        return id_map, [dict(zip(("id", "category_id", "iscrowd", "area"), values)) for values in columns]
