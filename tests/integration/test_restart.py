"""Promise: a run that is started again holds one state, and evaluates its last weights."""

import gc
import json
import shutil

import jax
import pytest

from generalist.devices.lock import InUseError, hold
from generalist.pretrained import weights
from generalist.training import loop


def bytes_held() -> int:
    """Returns the bytes of all arrays, each buffer once, however many arrays show it."""
    gc.collect()
    held = {}
    for array in jax.live_arrays():
        # Runs of earlier tests may have used several devices.
        for shard in array.addressable_shards:
            held[shard.data.unsafe_buffer_pointer()] = shard.data.nbytes
    return sum(held.values())


@pytest.fixture
def held(monkeypatch):
    """(bytes of all arrays on the devices, state), each time that a run has its state."""
    found = []
    compile_step = loop.compile_step

    def measured(step, state, *args):
        found.append((bytes_held(), state))
        return compile_step(step, state, *args)

    monkeypatch.setattr(loop, "compile_step", measured)
    return found


@pytest.fixture
def exported(monkeypatch):
    """The steps whose weights were written for use."""
    found = []
    save_model = loop.save_model

    def counted(workdir, recipe, state):
        found.append(int(state.step))
        save_model(workdir, recipe, state)

    monkeypatch.setattr(loop, "save_model", counted)
    return found


def test_a_resumed_run_holds_one_state_and_a_finished_one_exports_what_it_ended_with(
    tiny_config, tmp_path, held, exported
):
    tiny_config.eval.tasks = ("depth",)
    # Never by steps; these minutes are over after each. A log at its last step alone.
    tiny_config.checkpoint.every_steps = tiny_config.log.every_steps = 0
    tiny_config.checkpoint.every_minutes = 1e-9
    tiny_config.eval.every_steps = 1
    before = bytes_held()
    results = loop.train_and_evaluate(tiny_config, tmp_path)
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert left == {"1", "2", "frozen.safetensors"}
    assert exported == [1, 2]

    # A kill in the evaluation of step 1 leaves this; it is made when the run goes on.
    measured = tmp_path / "eval/1/metrics.json"
    first = json.loads(measured.read_text())["depth/rmse"]
    shutil.rmtree(tmp_path / "checkpoints/2")
    shutil.rmtree(tmp_path / "eval/1")
    loop.train_and_evaluate(tiny_config, tmp_path)
    assert json.loads(measured.read_text())["depth/rmse"] == first != results["depth/rmse"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval/depth/rmse" in line] == [1, 1]
    (fresh, state), (resumed, again) = held
    assert resumed - before < 1.1 * (fresh - before)

    # The text encoder is nowhere but in the export: the prompts are encoded.
    expected = sum(x.nbytes for x in jax.tree.leaves(again))
    assert expected <= resumed - before < 1.02 * expected
    assert state.frozen == again.frozen == {}

    old = weights.load_weights(tmp_path)[
        1
    ]  # as a kill between the last checkpoint and its export leaves it
    weights.save_weights(tmp_path, {path: 0 * x for path, x in old.items()}, {"step": "1"})
    again = loop.train_and_evaluate(tiny_config, tmp_path)
    assert weights.read_metadata(tmp_path)["step"] == "2"
    assert again["depth/rmse"] == results["depth/rmse"] and len(held) == 2


def test_a_second_run_is_refused_before_it_touches_the_workdir_of_the_first(tiny_config, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    with hold(tmp_path), pytest.raises(InUseError, match="is in use by process .* since "):
        loop.train_and_evaluate(tiny_config, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl"}
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'


def test_a_config_that_cannot_start_leaves_no_folder_and_no_lock(tiny_config, tmp_path):
    tiny_config.model.init_from = "scenes"  # a larger model
    with pytest.raises(weights.WeightsError, match="does not fit"):
        loop.train_and_evaluate(tiny_config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
