import json

import numpy as np
import pytest

from generalist.evaluation import EvaluationSettings, evaluate
from generalist.evaluation.baselines import Cache, Trivial, cache_key
from generalist.metrics import DepthMetric, ImageQuality, SegmentationMetric
from generalist.tasks import SCENES_TASKS
from generalist.tasks.semantic import majority_map

SIZE, COUNT = 32, 3  # as in conftest.py


@pytest.mark.parametrize("name", ["denoise", "derain", "light"])
def test_trivial_restoration_is_the_degraded_image(finished, sources, name):
    metric = ImageQuality(protocol="rgb-skimage")
    for i in range(COUNT):
        metric.update(sources[name][i]["image"], sources[name][i]["label"])
    expected = metric.compute()
    assert {key: finished.metrics[f"trivial/{name}/{key}"] for key in expected} == expected


def test_trivial_depth_is_the_mean_map_of_the_training_labels(finished, sources, train_sources):
    depths = np.stack(
        [train_sources["depth"][i]["label"] for i in range(len(train_sources["depth"]))]
    ).astype(np.float64)
    known = (depths > 0).sum(0)
    mean = np.where(known, depths.sum(0) / np.maximum(known, 1), depths[depths > 0].mean())
    metric = DepthMetric()
    for i in range(COUNT):
        metric.update(mean, sources["depth"][i]["label"])
    assert finished.metrics["trivial/depth/rmse"] == pytest.approx(
        metric.compute()["rmse"], rel=1e-5
    )


def test_trivial_semantic_is_the_most_frequent_class(finished, sources, train_sources):
    labels = np.stack(
        [train_sources["semantic"][i]["label"] for i in range(len(train_sources["semantic"]))]
    )
    counts = np.stack([(labels == k).sum(0) for k in range(16)])
    majority = np.where(counts.any(0), counts.argmax(0), counts.sum((1, 2)).argmax())
    metric = SegmentationMetric(16)
    for i in range(COUNT):
        metric.update(majority, sources["semantic"][i]["label"])
    assert finished.metrics["trivial/semantic/miou"] == metric.compute()["miou"]


def test_trivial_panoptic_has_stuff_and_no_things(finished, sources, train_sources):
    (prediction,) = Trivial(train_sources, SIZE)(SCENES_TASKS["panoptic"], [sources["panoptic"][0]])
    things = {c["id"] for c in SCENES_TASKS["panoptic"].categories if c["isthing"]}
    assert prediction.segments_info and not things & {
        s["category_id"] for s in prediction.segments_info
    }
    assert (
        finished.metrics["trivial/panoptic/pq_things"]
        == finished.metrics["trivial/instance/pq"]
        == 0.0
    )


def test_trivial_panoptic_follows_from_panoptic_labels_too(sources, train_sources):
    task, example = SCENES_TASKS["panoptic"], sources["panoptic"][0]
    (both,) = Trivial(train_sources, SIZE)(task, [example])
    (alone,) = Trivial({"panoptic": train_sources["panoptic"]}, SIZE)(task, [example])
    np.testing.assert_array_equal(both.id_map, alone.id_map)


def test_the_majority_of_labels_worked_out_by_hand():
    labels = [np.array([[0, 1, -1, -1]]), np.array([[2, 1, -1, 2]]), np.array([[2, 0, -1, 2]])]
    # Class 2 has most pixels of all, so it fills the pixel that is void everywhere.
    np.testing.assert_array_equal(majority_map(labels, 3, (1, 4)), [[2, 1, 2, 2]])


def test_the_mean_of_depths_worked_out_by_hand():
    depth = SCENES_TASKS["depth"]
    labels = [np.array([[2.0, 0.0, 0.0]]), np.array([[4.0, 6.0, 0.0]])]
    # 2 and 4 average to 3, 6 is alone, and where nothing is known it is the mean of 2, 4 and 6.
    np.testing.assert_allclose(
        depth.decode(depth.trivial_rgb(labels, (1, 3))).depth, [[3.0, 6.0, 4.0]], rtol=1e-6
    )


def test_without_training_sources_only_what_needs_none_has_trivial_figures(
    make_oracle, sources, tmp_path
):
    metrics = evaluate(
        make_oracle(sources),
        SCENES_TASKS,
        sources,
        EvaluationSettings(target_size=SIZE, panels=0),
        out_dir=tmp_path / "0",
    )
    found = {name.split("/")[1] for name in metrics if name.startswith("trivial/")}
    assert found == {"instance", "denoise", "derain", "light"}


def test_baselines_are_computed_once(make_oracle, sources, train_sources, tmp_path, monkeypatch):
    settings = EvaluationSettings(target_size=SIZE, panels=0)
    first = evaluate(
        make_oracle(sources), SCENES_TASKS, sources, settings, tmp_path / "1", train_sources
    )
    for name in ("Ceiling", "Trivial"):
        monkeypatch.setattr(
            f"generalist.evaluation.baselines.{name}.__call__",
            lambda *_: pytest.fail("computed again"),
        )
    second = evaluate(
        make_oracle(sources, noise=0.1),
        SCENES_TASKS,
        sources,
        settings,
        tmp_path / "2",
        train_sources,
    )
    baselines = [name for name in first if name.startswith(("trivial/", "ceiling/"))]
    assert {name: second[name] for name in baselines} == {name: first[name] for name in baselines}
    assert second["depth/rmse"] > first["depth/rmse"]


def test_the_key_changes_with_all_it_depends_on(sources, train_sources):
    depth, train = SCENES_TASKS["depth"], [train_sources["depth"]]
    keys = [
        cache_key(depth, SIZE, sources["depth"], range(COUNT), train),
        cache_key(depth, 64, sources["depth"], range(COUNT), train),
        cache_key(depth, SIZE, sources["depth"], range(2), train),
        cache_key(depth, SIZE, sources["depth"], range(COUNT), None),
        cache_key(depth, SIZE, train_sources["depth"], range(COUNT), train),
        cache_key(SCENES_TASKS["light"], SIZE, sources["light"], range(COUNT), []),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == cache_key(depth, SIZE, sources["depth"], range(COUNT), train)


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": {"ceiling"',
        b"[]",
        b'{"a": 1}',
        b'{"a": {"ceiling": {"rmse": "0"}}}',
        b"\xff",
        b"[" * 9999,
    ],
)
def test_a_damaged_cache_is_computed_anew(tmp_path, content):
    path = tmp_path / "baselines.json"
    path.write_bytes(content)
    cache = Cache(path)
    assert cache.get("a") == {}
    cache.put({"a": {"ceiling": {"rmse": 0.5}}})
    assert (
        json.loads(path.read_text())
        == {"a": {"ceiling": {"rmse": 0.5}}}
        == {"a": Cache(path).get("a")}
    )
