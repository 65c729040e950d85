"""An evaluation that is killed goes on by the same call and ends in the same figures and files."""

import hashlib
import os
import pickle

import numpy as np
import pytest

from generalist.evaluation import EvaluationSettings, evaluate, plain
from generalist.evaluation import partial as partial_lib
from generalist.evaluation.evaluate import PARTIAL
from generalist.tasks import SCENES_TASKS

SIZE, COUNT = 32, 3  # as in conftest.py
NAMES = ("depth", "derain", "semantic", "instance", "panoptic")


class Killed(Exception):
    pass


def run(predict, sources, out_dir, **settings):
    tasks = {name: SCENES_TASKS[name] for name in NAMES}
    return evaluate(
        predict,
        tasks,
        sources,
        EvaluationSettings(
            target_size=SIZE,
            batch_size=1,
            panels=2,
            submission=True,
            facts={"weights": "a"} | settings,
        ),
        out_dir=out_dir,
    )


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("card.json", "card.md", "metrics.json")
    }


def figures(metrics):
    return {key: value for key, value in metrics.items() if not key.endswith("seconds_per_image")}


@pytest.mark.parametrize(
    "calls", [1, 4, 7, 9]
)  # in depth, derain, and twice among semantic, instance and panoptic
def test_a_killed_evaluation_ends_as_one_that_was_not(
    make_oracle, sources, tmp_path, monkeypatch, calls, log
):
    monkeypatch.setattr(partial_lib, "_SAVE_EVERY_SECONDS", 0.0)
    undisturbed = run(make_oracle(sources, noise=0.1), sources, tmp_path / "a" / "1")
    oracle = make_oracle(sources, noise=0.1)

    def dies(images, name):
        if len(oracle.calls) == calls:
            raise Killed
        return oracle(images, name)

    folder = tmp_path / "b" / "1"
    with pytest.raises(Killed):
        run(dies, sources, folder)
    assert not (folder / "metrics.json").exists()
    resumed = run(oracle, sources, folder)
    assert figures(resumed) == figures(undisturbed) and files(folder) == files(tmp_path / "a" / "1")
    # 4 painted tasks of 3 batches; only a batch of which a part was missing is painted again.
    assert len(oracle.calls) == 12 + (calls - 6) % 2 * (calls > 6)
    assert sum(line.startswith("eval resumes after ") for line in log()) == 1
    assert not (folder / PARTIAL).exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    """One bit of a saved array."""
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def crafted(path):
    """Right digests, and in them what no evaluation has measured."""
    packed = plain.pack({"tasks": {name: {"model": {"rows": 1}} for name in NAMES}})
    path.write_bytes(path.read_bytes()[:32] + hashlib.sha256(packed).digest() + packed)


def endless(path):
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "damage, weights",
    [
        (lambda path: path.write_bytes(b"foreign"), "a"),
        (cut, "a"),
        (flip, "a"),
        (crafted, "a"),
        (endless, "a"),
        (lambda path: None, "b"),
    ],
    ids=["foreign", "cut short", "a flipped bit", "crafted", "a device", "other weights"],
)
def test_what_does_not_belong_to_it_is_not_used(
    make_oracle, sources, tmp_path, monkeypatch, damage, weights
):
    monkeypatch.setattr(partial_lib, "_SAVE_EVERY_SECONDS", 0.0)
    oracle = make_oracle(sources)

    def dies(images, name):
        if len(oracle.calls) == 2:
            raise Killed
        return oracle(images, name)

    with pytest.raises(Killed):
        run(dies, sources, tmp_path / "1")
    damage(tmp_path / "1" / PARTIAL)
    run(oracle, sources, tmp_path / "1", weights=weights)
    assert len(oracle.calls) == 2 + 12


class Exploit:
    """Creates a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_state_that_was_put_there_runs_no_code(make_oracle, sources, tmp_path):
    """As a model folder from a stranger has it, under the name of 0.1.0 and that of today."""
    folder = tmp_path / "eval" / "1"
    folder.mkdir(parents=True)
    for name in ("partial.pkl", PARTIAL):
        (folder / name).write_bytes(pickle.dumps(Exploit(str(tmp_path / "executed"))))
    run(make_oracle(sources), sources, folder)
    assert not (tmp_path / "executed").exists()
    assert not (folder / "partial.pkl").exists() and not (folder / PARTIAL).exists()


def test_a_state_that_is_too_large_is_neither_written_nor_read(
    make_oracle, sources, tmp_path, monkeypatch, log
):
    kept = partial_lib.Partial(tmp_path / PARTIAL, "a")
    kept.save({"rows": [0] * 100})
    assert kept.load() == {"rows": [0] * 100}
    monkeypatch.setattr(partial_lib, "MOST_BYTES", 200)
    kept.save({"rows": [1] * 100})
    assert kept.load() == {}
    assert [line.split(str(tmp_path / PARTIAL))[0] for line in log()] == [
        "390 bytes have been measured: too many to keep in ",
        "",
    ]
    assert log()[1].endswith("has more than 200 bytes: the evaluation starts from the beginning")


def test_plain_values_come_back_as_they_were():
    value = {
        "numbers": [1, -0.0, 1e-320, float("inf"), True, None, "ü"],
        "pair": (np.arange(6, dtype=np.int64).reshape(2, 3).T, [{"id": 7}]),
        "array": "0",
        "bits": np.array([np.nan, 0.1], np.float32),
        "number": np.float32(0.1),
        "none": np.zeros((0, 3), bool),
    }
    back = plain.unpack(plain.pack(value))
    assert repr(back) == repr(value) and type(back["number"]) is np.float32
    assert back["pair"][0].dtype == np.int64 and back["none"].shape == (0, 3)
    back["bits"] += 1  # what was measured goes on


@pytest.mark.parametrize("value", [{"a": object()}, {1: 2}, {"a": {1, 2}}, np.array(["text"])])
def test_what_is_not_plain_is_refused(value):
    with pytest.raises(TypeError):
        plain.pack(value)


def test_damaged_values_are_one_error(monkeypatch):
    packed = plain.pack({"a": np.arange(3), "b": [1, (2, 3)]})
    cases = [packed[:cut] for cut in range(len(packed))]
    cases += [
        plain.safetensors.numpy.save({"json": np.frombuffer(text, np.uint8)})
        for text in (
            b'["array", "0"]',
            b"[]",
            b"[" * 100_000,
            b'["array", []]',
            b"\xff",
            b"9" * 10_000,
            b'[["list"]]',
        )
    ]
    cases += [plain.safetensors.numpy.save({"json": np.zeros(3)}), plain.safetensors.numpy.save({})]
    for content in cases:
        with pytest.raises(ValueError, match="no packed values"):
            plain.unpack(content)
    monkeypatch.setattr(plain, "MOST_JSON_BYTES", 10)
    with pytest.raises(ValueError, match="bytes of JSON, at most 10 are read"):
        plain.unpack(packed)
