"""Checkpoints: what is restored is what was saved, or it is not used."""

import concurrent.futures
import inspect
import logging
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save_file

from generalist.training import checkpoint, frozen
from generalist.training.checkpoint import (
    SEAL,
    Checkpointer,
    CheckpointError,
    checksums,
    damaged_files,
)
from generalist.training.state import State

SEED = 5


def make_state(step: int) -> State:
    rng = np.random.default_rng(step)
    parameters = {
        name: jnp.asarray(rng.standard_normal((64, 64), np.float32))
        for name in ("unet.a", "unet.b")
    }
    return State(
        jnp.int32(step),
        parameters,
        {name: x + 1 for name, x in parameters.items()},
        {"text": jnp.arange(3.0)},
        optax.adam(0.1).init(parameters),
    )


@pytest.fixture
def folder(tmp_path):
    """A folder with the checkpoints of steps 1 and 2."""
    checkpointer = Checkpointer(tmp_path / "checkpoints", keep=2)
    checkpointer.save_frozen(make_state(0).frozen)
    checkpointer.save(make_state(1), SEED)
    checkpointer.save(make_state(2), SEED)
    checkpointer.close()
    return tmp_path / "checkpoints"


class Log(logging.Handler):
    """What is logged, line by line."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def restore(folder, seed=SEED):
    """(what is restored, the log) by a checkpointer that has not seen the folder before."""
    checkpointer = Checkpointer(folder, keep=2)
    log = Log()
    logger = logging.getLogger("generalist")
    logger.addHandler(log)
    try:
        return checkpointer.restore(make_state(0), seed), log.lines
    finally:
        logger.removeHandler(log)
        checkpointer.close()


def assert_is_step(state: State, step: int):
    jax.tree.map(np.testing.assert_array_equal, state, make_state(step))


def data_files(folder, step) -> list[pathlib.Path]:
    """The files of a checkpoint's arrays, largest last."""
    return sorted(
        (p for p in (folder / str(step) / "state").rglob("*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )


def flip_a_bit(folder, step):
    file = data_files(folder, step)[-1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0b100
    file.write_bytes(content)


def test_the_newest_is_restored_bit_for_bit(folder):
    state, log = restore(folder)
    assert_is_step(state, 2)
    assert log == []


def test_none_where_there_is_none(tmp_path):
    assert restore(tmp_path / "nothing") == (None, [])


def test_a_flipped_bit_is_noticed_and_the_one_before_used(folder):
    flip_a_bit(folder, 2)
    state, log = restore(folder)
    assert_is_step(state, 1)
    assert len(log) == 1 and log[0].startswith(f"WARNING: checkpoint {folder / '2'} cannot be used")


def test_a_truncated_file_is_noticed_and_the_one_before_used(folder):
    file = data_files(folder, 2)[-1]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    state, log = restore(folder)
    assert_is_step(state, 1)
    assert len(log) == 1


def test_changed_values_are_noticed_by_the_checksum(folder):
    """What storage returns without an error but with other values: here, the arrays of step 1 under
    the name of step 2.

    As after a kill between the save and its seal, which would name the files.
    """
    (folder / "2" / SEAL).unlink()
    for file in data_files(folder, 2):
        file.unlink()
    for file in data_files(folder, 1):
        target = folder / "2" / file.relative_to(folder / "1")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    state, log = restore(folder)
    assert_is_step(state, 1)
    assert re.search(r"checksum of \S+ and \d+ others differs", log[0])


def test_a_flipped_bit_in_any_file_is_named_and_the_one_before_used(folder):
    """Also in those that Orbax restores from without a look, in its metadata, and in the seal
    itself; nothing is lost by any.
    """
    files = [path for path in (folder / "2").rglob("*") if path.is_file()]
    assert len(files) > 8 and folder / "2" / SEAL in files
    for file in files:
        whole = file.read_bytes()
        if not whole:
            continue  # nothing that could flip
        file.write_bytes(
            whole[: len(whole) // 2]
            + bytes([whole[len(whole) // 2] ^ 1])
            + whole[len(whole) // 2 + 1 :]
        )
        state, log = restore(folder)
        assert_is_step(state, 1)
        assert len(log) == 1 and (
            f"damaged: {file.relative_to(folder / '2')}" in log[0] or file.name == SEAL
        ), log
        file.write_bytes(whole)
    assert_is_step(restore(folder)[0], 2)
    file.write_bytes(whole[:-1])
    assert damaged_files(folder / "2") == [str(file.relative_to(folder / "2"))]


def test_what_does_not_learn_is_in_no_checkpoint_and_written_once(folder):
    trees = [(folder / step / "state" / "_METADATA").read_text() for step in ("1", "2")]
    assert all("unet.a" in tree and "text" not in tree for tree in trees)
    (folder / frozen.FILE).touch()
    before = (folder / frozen.FILE).stat()
    checkpointer = Checkpointer(folder, keep=2)
    state = checkpointer.restore(make_state(0), SEED)
    checkpointer.save_frozen(state.frozen)
    checkpointer.save(make_state(3), SEED)
    checkpointer.close()
    assert (folder / frozen.FILE).stat().st_mtime_ns == before.st_mtime_ns
    assert_is_step(restore(folder)[0], 3)


def test_a_checkpoint_of_the_former_layout_is_restored_and_goes_on_in_the_new_one(tmp_path):
    """With what does not learn inside, and no file beside it."""
    state = make_state(1)
    meta = {"step": 1, "seed": SEED, "next_batch": 1, "checksums": checksums(state)}
    with ocp.CheckpointManager(tmp_path) as manager:
        content = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()), meta=ocp.args.JsonSave(meta)
        )
        manager.save(1, args=content)
    checkpointer = Checkpointer(tmp_path, keep=2)
    restored = checkpointer.restore(make_state(0), SEED)
    assert_is_step(restored, 1)
    checkpointer.save_frozen(restored.frozen)
    checkpointer.save(make_state(2), SEED)
    checkpointer.close()
    assert_is_step(restore(tmp_path)[0], 2)
    shutil.rmtree(tmp_path / "2")
    assert_is_step(restore(tmp_path)[0], 1)


def flip_a_value(file):
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_value, "its values are not those that the run began with"),
        (lambda file: file.write_bytes(file.read_bytes()[:-4]), "DamagedFileError"),
        (lambda file: file.unlink(), "FileNotFoundError"),
        (lambda file: save_file({"other": np.ones(3, np.float32)}, file), "KeyError: 'text'"),
    ],
)
def test_a_damaged_file_of_what_does_not_learn_is_named_and_the_runs_model_replaces_it(
    folder, damage, reason, caplog
):
    file = folder / frozen.FILE
    damage(file)
    with pytest.raises(CheckpointError) as error:
        restore(folder)
    assert f"{file}, the parameters that do not learn, cannot be used ({reason}" in str(error.value)
    assert "or copy the run's own model.safetensors to frozen.safetensors" in str(error.value)
    assert caplog.messages == [] and {"1", "2"} <= {path.name for path in folder.iterdir()}

    # As the message says: a model holds all parameters.
    save_file({"text": np.arange(3, dtype=np.float32), "unet.a": np.ones(5, np.float32)}, file)
    assert_is_step(restore(folder)[0], 2)


FOREIGN = (".DS_Store", "._x", "Thumbs.db", ".manifest.swp", "manifest~", "_METADATA (conflict)")


def test_what_others_leave_in_and_between_checkpoints_changes_nothing(folder):
    for place in (folder, folder / "2", folder / "2" / "state", folder / "2" / "meta"):
        for name in FOREIGN:
            (place / name).write_bytes(b"\0")
    for name in ("2 (copy)", "2.sync-conflict-20261128-101500", "copy of 2", "２"):
        shutil.copytree(folder / "2", folder / name)
    state, log = restore(folder)
    assert_is_step(state, 2)
    assert log == []

    # Nor when it was there before the seal, and changes after it.
    checkpoint.seal(folder / "2")
    for name in FOREIGN[:-1]:
        (folder / "2" / name).write_bytes(b"other")
    assert damaged_files(folder / "2") == []

    checkpointer = Checkpointer(folder, keep=2)
    checkpointer.forget_after(2)
    checkpointer.save(make_state(3), SEED)
    checkpointer.close()
    left = {path.name for path in folder.iterdir()}
    assert left >= {"2", "3", "2 (copy)", ".DS_Store"} and "1" not in left


def test_a_folder_of_a_number_is_no_checkpoint(folder):
    (folder / "2026" / "notes").mkdir(parents=True)
    (folder / "2026" / "notes" / "a.txt").write_text("mine", encoding="utf-8")
    state, log = restore(folder)
    assert_is_step(state, 2)
    assert log == []

    # It counts for nothing: later steps are saved, the last two kept, and it stays.
    checkpointer = Checkpointer(folder, keep=2)
    assert checkpointer.steps() == [2, 1]
    checkpointer.forget_after(2)
    checkpointer.save(make_state(3), SEED)
    checkpointer.close()
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"2", "3", "2026"}
    assert (folder / "2026" / "notes" / "a.txt").read_text(encoding="utf-8") == "mine"
    assert Checkpointer(folder, keep=2).steps() == [3, 2]


@pytest.mark.parametrize("name", ["run [1]", "[a-z]*", "**", "wörk #2?", "%20 {b}\n", "[", "]"])
def test_a_path_is_never_a_pattern(tmp_path, name):
    with Checkpointer(tmp_path / name / "checkpoints", keep=2) as checkpointer:
        checkpointer.save_frozen(make_state(0).frozen)
        checkpointer.save(make_state(1), SEED)
    state, log = restore(tmp_path / name / "checkpoints")
    assert_is_step(state, 1)
    assert log == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("back\\slash", "a backslash, which would be taken for a slash"),
        ("gs:/bucket", "a name that ends with ':', as a web address; mount the bucket"),
        (os.fsdecode(b"\xff"), "bytes that are no UTF-8"),
    ],
)
def test_a_path_where_nothing_could_be_restored_is_refused_before_anything_is_there(
    tmp_path, name, problem
):
    with pytest.raises(ValueError, match=f"the path has {problem}.*another --workdir"):
        Checkpointer(tmp_path / name / "checkpoints", keep=2)
    assert list(tmp_path.iterdir()) == []


SAVING = f"""
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from generalist.training.checkpoint import Checkpointer
from generalist.training.state import State
{inspect.getsource(make_state)}
checkpointer = Checkpointer(sys.argv[1] + "/checkpoints", keep=2)
checkpointer.save_frozen(make_state(0).frozen)
for step in range(1, 10_000):
    checkpointer.save(make_state(step), {SEED})
    if step % 3:  # as a run that goes on, and as one that waits
        checkpointer.wait()
        open(sys.argv[1] + "/whole", "w").write(str(step))
"""


def is_unfinished(process, folder, moment: int) -> bool:
    """Stops the process at a random moment, checks what lies there, and says whether a save was
    under way.
    """
    while not (folder / "run/whole").exists():
        time.sleep(0.01)
        assert process.poll() is None
    time.sleep(random.Random(moment).uniform(0, 0.1))
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)  # until it has stopped
    left = shutil.copytree(folder / "run", folder / str(moment))
    process.send_signal(signal.SIGCONT)
    unfinished = any("tmp" in path.name for path in (left / "checkpoints").iterdir())
    state, log = restore(left / "checkpoints")
    assert_is_step(state, int(state.step))
    assert int(state.step) >= int((left / "whole").read_text() or 0) and log == []
    return unfinished


def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    """A process that saves all the time is stopped at 20 moments: what lies there is what a kill
    would leave.
    """
    (tmp_path / "run").mkdir()
    process = subprocess.Popen([sys.executable, "-c", SAVING, tmp_path / "run"])
    try:
        unfinished = [moment for moment in range(20) if is_unfinished(process, tmp_path, moment)]
    finally:
        process.kill()
        process.wait()
    assert len(unfinished) > 3  # these lay within a save


def test_checksum_by_hand_and_every_bit_counts():
    """The sum of bits times 1, 3, 5, ... in 32 bits, of float32 and of bfloat16."""

    def sums(x):
        return checksums(State(jnp.int32(0), {"x": x}, {}, {}, ()))["['parameters']['x']"]

    x = np.linspace(-3, 3, 6, dtype=np.float32).reshape(2, 3)
    expected = (
        sum(int(bits) * (2 * i + 1) for i, bits in enumerate(x.view(np.uint32).ravel())) % 2**32
    )
    assert sums(x) == expected
    assert (
        sums(jnp.asarray(x, jnp.bfloat16))
        == sum(
            int(bits) * (2 * i + 1)
            for i, bits in enumerate(
                np.asarray(jnp.asarray(x, jnp.bfloat16)).view(np.uint16).ravel()
            )
        )
        % 2**32
    )
    for bit in range(32):
        flipped = x.view(np.uint32).copy()
        flipped[1, 2] ^= np.uint32(1 << bit)
        assert sums(flipped.view(np.float32)) != expected


def test_a_save_that_fails_in_the_background_stops_the_run_at_the_next_look(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path, keep=2)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", full)  # of the seal, after the arrays
    checkpointer.save(make_state(1), SEED)
    concurrent.futures.wait([checkpointer._saving[1]])
    with pytest.raises(
        CheckpointError,
        match="checkpoint of step 1 in .* failed: .*No space left on device.*make room",
    ):
        checkpointer.check()


def test_what_ends_a_run_is_not_hidden_by_a_save_that_fails_too(tmp_path, monkeypatch):
    def full():
        raise ValueError(
            "RESOURCE_EXHAUSTED: No space left on device"
        )  # what Orbax does in such a case

    with (
        pytest.raises(FloatingPointError, match="loss nan"),
        Checkpointer(tmp_path, keep=2) as checkpointer,
    ):
        monkeypatch.setattr(checkpointer._manager, "close", full)
        raise FloatingPointError("loss nan")


def test_all_damaged_is_an_error(folder):
    flip_a_bit(folder, 1)
    flip_a_bit(folder, 2)
    with pytest.raises(
        CheckpointError, match=r"none of the checkpoints \[2, 1\] in .* can be used"
    ):
        restore(folder)


def test_another_seed_is_an_error(folder, caplog):
    checkpointer = Checkpointer(folder, keep=2)
    with pytest.raises(CheckpointError, match="none of the checkpoints"):
        checkpointer.restore(make_state(0), SEED + 1)
    checkpointer.close()
    assert "it belongs to seed 5, this run has seed 6" in caplog.messages[0]


def test_a_save_is_a_snapshot_even_when_the_next_step_reuses_its_memory(tmp_path):
    """Saves are asynchronous and steps donate the state: what is saved is what was there at the
    call.
    """
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    checkpointer = Checkpointer(tmp_path, keep=2)
    state = make_state(1)
    checkpointer.save_frozen(state.frozen)
    checkpointer.save(state, SEED)
    for _ in range(3):
        state = step(state)
    checkpointer.close()
    assert_is_step(restore(tmp_path)[0], 1)


def test_only_the_last_are_kept_and_the_same_step_is_saved_once(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in (1, 2, 3, 3):
        checkpointer.save(make_state(step), SEED)
    checkpointer.close()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["2", "3"]


def test_later_checkpoints_are_forgotten(folder):
    checkpointer = Checkpointer(folder, keep=2)
    checkpointer.forget_after(1)
    checkpointer.save_frozen(make_state(0).frozen)
    checkpointer.save(make_state(2), SEED)  # the one forgotten can be written again
    checkpointer.close()
    assert_is_step(restore(folder)[0], 2)


def test_a_failing_save_says_what_may_be_wrong(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path, keep=2)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpointer._manager, "save", full)
    with pytest.raises(
        CheckpointError,
        match="checkpoint of step 1 in .* failed: No space left on device. Is the disk full",
    ):
        checkpointer.save(make_state(1), SEED)
    checkpointer.close()
