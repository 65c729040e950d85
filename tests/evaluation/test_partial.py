"""An evaluation that is killed goes on by the same call and ends in the same figures and files."""

import pytest

from generalist.evaluation import EvaluationSettings, evaluate
from generalist.evaluation import partial as partial_lib
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
    assert not (folder / "partial.pkl").exists()


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.write_bytes(b"cut"), lambda path: None],
    ids=["damaged", "other weights"],
)
def test_what_does_not_belong_to_it_is_not_used(
    make_oracle, sources, tmp_path, monkeypatch, damage
):
    monkeypatch.setattr(partial_lib, "_SAVE_EVERY_SECONDS", 0.0)
    oracle = make_oracle(sources)

    def dies(images, name):
        if len(oracle.calls) == 2:
            raise Killed
        return oracle(images, name)

    with pytest.raises(Killed):
        run(dies, sources, tmp_path / "1")
    damage(tmp_path / "1" / "partial.pkl")
    run(oracle, sources, tmp_path / "1", weights="b")
    assert len(oracle.calls) == 2 + 12
