"""Submission files: read back, they are the prediction, in the numbers that the benchmarks want."""

import json

import numpy as np
import pytest
from PIL import Image

from generalist.evaluation import EvaluationSettings, evaluate
from generalist.evaluation.submission import Submission
from generalist.metrics import PanopticQuality
from generalist.tasks import (
    SCENES_TASKS,
    TASKS,
    DepthPrediction,
    PanopticPrediction,
    SemanticPrediction,
)

SIZE, COUNT = 32, 3  # as in conftest.py


def read(path):
    return np.asarray(Image.open(path))


def test_depth_is_16_bit_millimetres(tmp_path):
    depth = np.array([[0.0015, 1.2344, 9.9996]], np.float32)
    Submission(tmp_path, TASKS["depth"]).add(
        ["bedroom/00007"],
        [DepthPrediction(decoded_by=TASKS["depth"], depth=depth, confidence=depth)],
    )
    pixels = read(tmp_path / "depth" / "bedroom" / "00007.png")
    assert pixels.dtype == np.uint16 and pixels.tolist() == [[2, 1234, 10000]]


def a_semantic_prediction(classes):
    confidence = np.ones(classes.shape, np.float32)
    return SemanticPrediction(decoded_by=TASKS["semantic"], classes=classes, confidence=confidence)


def test_ade20k_is_8_bit_1_to_150(tmp_path):
    classes = np.array([[0, 149], [7, 7]], np.int32)
    Submission(tmp_path, TASKS["semantic"], "_distance").add(
        ["ADE_val_00000001"], [a_semantic_prediction(classes)]
    )
    pixels = read(tmp_path / "semantic_distance" / "ADE_val_00000001.png")
    assert pixels.dtype == np.uint8 and pixels.tolist() == [[1, 150], [8, 8]]


def test_what_does_not_fit_is_refused(tmp_path):
    wrong = np.full((2, 2), 300, np.int32)
    with pytest.raises(ValueError, match="class indices . 1 301..301 do not fit 8 bits"):
        Submission(tmp_path, TASKS["semantic"]).add(["a"], [a_semantic_prediction(wrong)])


def test_panoptic_is_cocos_form(tmp_path):
    id_map = np.array([[0, 1, 1, 300]], np.int32)
    segments = [
        {"id": 1, "category_id": 1, "area": 2, "iscrowd": 0},
        {"id": 300, "category_id": 200, "area": 1, "iscrowd": 0},
    ]
    files = Submission(tmp_path, TASKS["panoptic"])
    (tmp_path / "panoptic").mkdir()
    (tmp_path / "panoptic" / ".000000142238.png.77.tmp").write_bytes(
        b"half a file of a run that was killed"
    )
    prediction = PanopticPrediction(
        decoded_by=TASKS["panoptic"],
        id_map=id_map,
        segments_info=segments,
        confidence=np.ones(id_map.shape, np.float32),
    )
    files.add(["000000142238"], [prediction])
    files.finish()
    assert [path.name for path in (tmp_path / "panoptic").iterdir()] == ["000000142238.png"]
    content = json.loads((tmp_path / "panoptic.json").read_text())
    (annotation,) = content["annotations"]
    assert (annotation["image_id"], annotation["file_name"], annotation["segments_info"]) == (
        142238,
        "000000142238.png",
        segments,
    )
    assert len(content["categories"]) == 133
    pixels = read(tmp_path / "panoptic" / annotation["file_name"]).astype(int)
    assert (pixels @ [1, 256, 65536]).tolist() == id_map.tolist() and pixels[0, 3].tolist() == [
        44,
        1,
        0,
    ]


def test_an_evaluation_writes_what_it_measured(make_oracle, sources, tmp_path):
    tasks = {name: SCENES_TASKS[name] for name in ("denoise", "semantic", "instance", "panoptic")}
    metrics = evaluate(
        make_oracle(sources, noise=0.1),
        tasks,
        sources,
        EvaluationSettings(target_size=SIZE, panels=0, submission=True),
        out_dir=tmp_path / "0",
    )
    folder = tmp_path / "0" / "submission"
    assert {path.name for path in folder.iterdir()} == {
        "denoise",
        "semantic",
        "semantic_painter",
        "instance",
        "panoptic",
        "panoptic.json",
    }
    quality, correct, pixels = PanopticQuality(SCENES_TASKS["panoptic"].categories), 0, 0
    for i, annotation in enumerate(
        json.loads((folder / "panoptic.json").read_text())["annotations"]
    ):
        ids = read(folder / "panoptic" / annotation["file_name"]).astype(int) @ [1, 256, 65536]
        quality.update((ids, annotation["segments_info"]), sources["panoptic"][i]["label"])
        label = sources["semantic"][i]["label"]
        correct += (
            (read(folder / "semantic" / f"scenes/0/val/{i:08d}.png").astype(int) - 1 == label)
            & (label >= 0)
        ).sum()
        pixels += (label >= 0).sum()
    assert (
        quality.compute()["pq"] == metrics["panoptic/pq"]
        and correct / pixels == metrics["semantic/aacc"]
    )
    psnr = [
        10
        * np.log10(
            255**2
            / np.mean(
                (
                    read(folder / "denoise" / f"scenes/0/val/{i:08d}.png")
                    - sources["denoise"][i]["label"].astype(float)
                )
                ** 2
            )
        )
        for i in range(COUNT)
    ]
    assert metrics["denoise/psnr"] == pytest.approx(np.mean(psnr), rel=1e-12)
