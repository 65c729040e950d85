"""What panopticapi itself counts on random segmentations.

    python make_panoptic_values.py PANOPTICAPI_FOLDER [CASES]

PANOPTICAPI_FOLDER holds the package `panopticapi` of github.com/cocodataset/panopticapi, which is
run unchanged: images go through PNG and JSON files into its `pq_compute_single_core`. Only its sum
of IoUs is replaced by a list of them, so that what is compared does not depend on the order in
which a sum is rounded (panopticapi's own total depends on the number of cores).

Writes panoptic_values.json beside this file; with another number of CASES it compares with
generalist.metrics and writes nothing. Where GENERALIST_REAL_SAMPLES names a folder of samples, the
COCO annotations in it are cases too.
"""

import contextlib
import importlib
import io
import json
import math
import os
import pathlib
import sys
import tempfile

import numpy as np

STORED = 40
VALUES = pathlib.Path(__file__).with_name("panoptic_values.json")
CATEGORIES = [
    {"id": number, "name": f"c{number}", "isthing": int(number < 90)}
    for number in (1, 2, 44, 90, 118, 200)
]


def make_case(seed):
    """(prediction, label), each (id map int32 (h, w), segments_info).

    Small enough for hundreds a second. Among the cases: void, crowds and several of one category,
    empty predictions, labels of void alone, single pixels, classes that are never predicted,
    segments that miss, merge or split those of the label.
    """
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 25, 2)
    used = rng.choice(
        [c["id"] for c in CATEGORIES], rng.integers(1, len(CATEGORIES) + 1), replace=False
    )
    label = blobs(rng, height, width, rng.integers(0, 9))
    label[rng.random(label.shape) < rng.choice([0, 0, 0.05, 0.3])] = 0
    if label.any() and rng.random() < 0.5:
        label[rng.integers(height), rng.integers(width)] = label.max() + 1  # a segment of one pixel
    label, label_segments = describe(rng, label, used, crowd=rng.choice([0, 0.2, 0.6]))
    kind = rng.choice(["empty", "equal", "disturbed", "disturbed", "disturbed", "unrelated"])
    return guess(rng, kind, label, label_segments, used), (label, label_segments)


def blobs(rng, height, width, count):
    """Nearest-centre regions 0 .. count."""
    centres = rng.random((count + 1, 2)) * (height, width)
    grid = np.stack(np.mgrid[:height, :width], -1) + 0.5
    return ((grid[:, :, None] - centres) ** 2).sum(-1).argmin(-1)


def describe(rng, ids, used, crowd=0.0):
    """Numbers the regions anew, below 2^24, and gives each a category.

    The order of segments_info is random.
    """
    old = np.unique(ids[ids > 0])
    new = rng.choice(2**24 - 1, len(old), replace=False) + 1
    renamed = np.zeros(ids.shape, np.int32)
    for before, after in zip(old, new, strict=True):
        renamed[ids == before] = after
    segments = [
        {
            "id": int(number),
            "category_id": int(rng.choice(used)),
            "area": int((renamed == number).sum()),
            "iscrowd": int(rng.random() < crowd),
        }
        for number in new
    ]
    return renamed, segments


def guess(rng, kind, label, label_segments, used):
    if kind == "empty":
        return np.zeros_like(label), []
    if kind == "unrelated":
        return describe(
            rng, blobs(rng, *label.shape, rng.integers(0, 9)), [c["id"] for c in CATEGORIES]
        )
    ids, names = np.unique(label, return_inverse=True)
    disturbed = names.reshape(label.shape)
    if kind == "disturbed":
        disturbed = np.roll(disturbed, rng.integers(0, 3, 2), (0, 1))
        disturbed = np.where(
            rng.random(label.shape) < rng.choice([0, 0.1, 0.4]),
            rng.integers(0, len(ids) + 1, label.shape),
            disturbed,
        )
    renamed, segments = describe(rng, disturbed, used)
    category = {segment["id"]: segment["category_id"] for segment in label_segments}
    for segment in segments:  # mostly the category of the label
        before = disturbed[renamed == segment["id"]][0]
        if before < len(ids) and ids[before] in category and rng.random() < 0.85:
            segment["category_id"] = category[ids[before]]
    return renamed, segments


def real_case(folder):
    """(prediction, label, categories) of the one annotation in a folder.

    The folder is laid out as COCO's `annotations`. The prediction is the label moved by a few
    pixels, every seventh segment lost and every fifth of another category.
    """
    from PIL import Image

    data = json.loads((folder / "panoptic_val2017.json").read_text())
    (annotation,) = data["annotations"]
    red, green, blue = np.moveaxis(
        np.asarray(Image.open(folder / "panoptic_val2017" / annotation["file_name"])).astype(
            np.int32
        ),
        -1,
        0,
    )
    label, segments = red + 256 * green + 65536 * blue, annotation["segments_info"]
    prediction, kept = np.roll(label, (3, 5), (0, 1)), []
    for number, segment in enumerate(segments):
        if number % 7 == 3:
            prediction[prediction == segment["id"]] = 0
        else:
            other = data["categories"][number]["id"]
            kept.append(
                {
                    "id": segment["id"],
                    "category_id": other if number % 5 == 4 else segment["category_id"],
                }
            )
    return (prediction, kept), (label, segments), data["categories"]


def real_folders():
    """{name: folder of annotations} of the real samples; {} without them."""
    root = os.environ.get("GENERALIST_REAL_SAMPLES")
    return (
        {
            name: pathlib.Path(root) / name / "annotations"
            for name in ("coco", "coco_annotation_only")
        }
        if root
        else {}
    )


def count(metric):
    """What a PanopticQuality has seen, by category id.

    A row is [IoUs of the matches in ascending order, false positives, false negatives].
    """
    tally = metric._tally
    rows = {
        c: [sorted(tally.ious.get(c, [])), tally.false_positives[c], tally.false_negatives[c]]
        for c in metric.per_class()
    }
    return {str(category): row for category, row in rows.items() if row != [[], 0, 0]}


def peer_count(panoptic, cases, categories):
    """The same, counted by panopticapi for all `cases` together; and the results that it prints."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        annotations = [
            write(pathlib.Path(folder), number, case, panoptic.id2rgb)
            for number, case in enumerate(cases)
        ]
        by_id = {category["id"]: category for category in categories}
        stat = panoptic.pq_compute_single_core(
            0, annotations, f"{folder}/label", f"{folder}/prediction", by_id
        )
    counted = {
        str(c): [sorted(s.iou), s.fp, s.fn]
        for c, s in stat.pq_per_cat.items()
        if s.iou or s.fp or s.fn
    }
    assert all(s.tp == len(s.iou) for s in stat.pq_per_cat.values())
    for s in stat.pq_per_cat.values():
        s.iou = math.fsum(s.iou)
    printed = {}
    for suffix, kind in (("", None), ("_things", True), ("_stuff", False)):
        with contextlib.suppress(ZeroDivisionError):  # it cannot average over nothing
            printed |= {
                key + suffix: value for key, value in stat.pq_average(by_id, kind)[0].items()
            }
    return counted, printed


def write(folder, number, case, id2rgb):
    from PIL import Image

    annotations = []
    for name, (id_map, segments) in zip(("prediction", "label"), case, strict=True):
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(id2rgb(np.asarray(id_map).astype(np.int64))).save(
            folder / name / f"{number}.png"
        )
        annotations.append(
            {
                "image_id": number,
                "file_name": f"{number}.png",
                "segments_info": [dict(s) for s in segments],
            }
        )
    return annotations[1], annotations[0]


def load_panopticapi(folder):
    """Its evaluation module, keeping every IoU rather than their sum."""
    sys.path.insert(0, folder)
    module = importlib.import_module("panopticapi.evaluation")
    module.id2rgb = importlib.import_module("panopticapi.utils").id2rgb

    class All(list):
        def __iadd__(self, iou):
            self.append(float(iou))
            return self

    class Stat(module.PQStatCat):
        def __init__(self):
            super().__init__()
            self.iou = All()

    module.PQStatCat = Stat
    return module


def main(folder, cases=STORED):
    panoptic = load_panopticapi(folder)
    made = [make_case(seed) for seed in range(cases)]
    expected = {"images": [peer_count(panoptic, [case], CATEGORIES)[0] for case in made]}
    expected["counted"], expected["printed"] = peer_count(panoptic, made, CATEGORIES)
    expected["real"] = {}
    for name, samples in real_folders().items():
        *case, categories = real_case(samples)
        expected["real"][name] = peer_count(panoptic, [case], categories)
    if cases == STORED:
        # An image a line, so that a difference can be read.
        images = ",\n".join(json.dumps(image) for image in expected["images"])
        lines = [f'"images": [\n{images}]']
        for key in ("counted", "printed", "real"):
            lines.append(f'"{key}": {json.dumps(expected[key])}')
        VALUES.write_text("{" + ",\n".join(lines) + "}\n")
        return
    from generalist.metrics import PanopticQuality

    whole = PanopticQuality(CATEGORIES)
    for case, image in zip(made, expected["images"], strict=True):
        alone = PanopticQuality(CATEGORIES)
        alone.update(*case)
        assert count(alone) == image
        whole.update(*case)
    assert count(whole) == expected["counted"]
    ours = whole.compute()
    rows = expected["counted"].values()
    print(
        f"{cases} cases: {sum(len(row[0]) for row in rows)} matches, "
        f"{sum(row[1] for row in rows)} false positives, "
        f"{sum(row[2] for row in rows)} false negatives: all counts and IoUs equal bit for bit; "
        "largest difference of the printed figures "
        f"{max(abs(ours[key] - value) for key, value in expected['printed'].items()):.1e}"
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
