"""Checkpoints of the whole state, with checksums and a fall-back to the one before.

One save holds parameters, EMA, optimizer and step; the position in the data and the RNG are functions of (seed, step).
"""

import json
import pathlib
import zlib
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp

from generalist.training.step import State


class CheckpointError(RuntimeError):
    """No checkpoint can be used, or one could not be written."""


class Checkpointer:
    """Saves asynchronously, restores the newest checkpoint that is whole.

    Args:
      folder: `<workdir>/checkpoints`.
      keep: how many are kept.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        self.folder = pathlib.Path(folder).absolute()
        self._manager = ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True))

    def save(self, state: State, seed: int) -> None:
        """Starts a save of `state`; a failure of the save before it is raised here as CheckpointError."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        meta = {"step": step, "seed": seed, "next_batch": step, "checksums": checksums(state)}
        try:
            self._manager.wait_until_finished()
            self._manager.save(step, args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()), meta=ocp.args.JsonSave(meta)))
        except Exception as error:
            raise CheckpointError(f"checkpoint of step {step} in {self.folder} failed: {error}. "
                                  "Is the disk full or the folder gone? The checkpoints before it are untouched.") from error

    def restore(self, target: State, seed: int, log: Callable[[str], None]) -> State | None:
        """The newest whole checkpoint, with the shapes and shardings of `target`; None where there is none at all.

        A damaged one is named and the one before it used. CheckpointError if all are damaged or of another seed.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self._restore_step(step, target, seed)
            except Exception as error:  # whatever a damaged file makes Orbax raise
                log(f"WARNING: checkpoint {self.folder / str(step)} cannot be used ({_first_line(error)}); trying the one before")
        if steps:
            raise CheckpointError(f"none of the checkpoints {steps} in {self.folder} can be used. "
                                  "Move the folder away to start again, or restore it from a backup.")
        return None

    def _restore_step(self, step: int, target: State, seed: int) -> State:
        restored = self._manager.restore(step, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(_abstract(target._asdict())), meta=ocp.args.JsonRestore()))
        state, meta = State(**restored["state"]), restored["meta"]
        if meta["seed"] != seed:
            raise CheckpointError(f"it belongs to seed {meta['seed']}, this run has seed {seed}")
        found = checksums(state)
        wrong = [path for path, value in meta["checksums"].items() if found.get(path) != value]
        if wrong:
            raise CheckpointError(f"checksum of {wrong[0]} and {len(wrong) - 1} others differs: the file is damaged")
        return state

    def forget_after(self, step: int) -> None:
        """Deletes checkpoints later than `step`: damaged ones that were passed over and will be written again."""
        for later in [s for s in self._manager.all_steps() if s > step]:
            self._manager.delete(later)

    def close(self) -> None:
        """Waits for the save under way. CheckpointError if it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise CheckpointError(f"the last checkpoint in {self.folder} failed: {error}") from error
        self._manager.close()


def checksums(state: State) -> dict[str, int]:
    """CRC-32 of every array this process can see whole; catches the flipped bits that storage lets through."""
    leaves = jax.tree_util.tree_leaves_with_path(state._asdict())
    return {jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(np.asarray(leaf)).data)
            for path, leaf in leaves if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable}


def _abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), tree)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def read_json(path: pathlib.Path) -> dict:
    """A JSON file of the workdir. CheckpointError naming it if it is damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Choose another --workdir, or move this one away.") from error
