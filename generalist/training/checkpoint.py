"""Checkpoints of the whole state, with checksums and a fall-back to the one before.

One save holds parameters, EMA, optimizer and step; the position in the data and the RNG are functions of (seed, step).
Two nets catch what storage damages: a checksum of every array's values, the same however they are split, and of every file.
"""

import contextlib
import json
import pathlib
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from generalist.devices import processes as distributed
from generalist.files import write_atomically
from generalist.training.step import State

SEAL = "files.json"  # in a checkpoint: size and CRC-32 of all its other files


class CheckpointError(RuntimeError):
    """No checkpoint can be used, or one could not be written."""


class Checkpointer:
    """Saves asynchronously, restores the newest checkpoint that is whole. A context: what ends it, the save under way is finished.

    Args:
      folder: `<workdir>/checkpoints`.
      keep: how many are kept.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        self.folder = pathlib.Path(folder).absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True),
        )
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: tuple[int, Future] | None = None

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.close()
        elif jax.process_count() == 1:  # of several, each would wait for the one that failed
            with contextlib.suppress(
                Exception
            ):  # the error that ends the run is the one to show; Orbax repeats that of a failed save
                self.close()

    def save(self, state: State, seed: int) -> None:
        """Starts a save of `state`, after the one before is done. CheckpointError if either fails."""
        step = int(state.step)
        self.wait()
        if step in self.steps():
            return
        meta = {"step": step, "seed": seed, "next_batch": step, "checksums": checksums(state)}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state._asdict()), meta=ocp.args.JsonSave(meta)
                ),
            )
        except Exception as error:
            raise self._failed(step, error) from error
        self._saving = step, self._thread.submit(self._finish, step)

    def _finish(self, step: int) -> None:
        self._manager.wait_until_finished()
        if distributed.is_first():
            seal(self.folder / str(step))

    def wait(self) -> None:
        """Waits for the save under way. CheckpointError if it failed."""
        if self._saving:
            step, done = self._saving
            self._saving = None
            try:
                done.result()
            except Exception as error:
                raise self._failed(step, error) from error

    def check(self) -> None:
        """Raises CheckpointError as soon as the save under way has failed; does not wait for it."""
        if self._saving and self._saving[1].done():
            self.wait()

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"checkpoint of step {step} in {self.folder} failed: {error}. "
            "Is the disk full or the folder gone? The checkpoints before it are untouched: "
            "make room, and the same command continues from the last one."
        )

    def steps(self) -> list[int]:
        """Of the checkpoints that are there, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def restore(self, target: State, seed: int, log: Callable[[str], None]) -> State | None:
        """The newest whole checkpoint, with the shapes and shardings of `target`; None where there is none at all.

        A damaged one is named and the one before it used. CheckpointError if all are damaged or of another seed.
        """
        steps = self.steps()
        for step in steps:
            try:
                return self._restore_step(step, target, seed)
            except Exception as error:  # whatever a damaged file makes Orbax raise
                log(
                    f"WARNING: checkpoint {self.folder / str(step)} cannot be used ({_first_line(error)}); trying the one before"
                )
        if steps:
            raise CheckpointError(
                f"none of the checkpoints {steps} in {self.folder} can be used. "
                "Move the folder away to start again, or restore it from a backup."
            )
        return None

    def _restore_step(self, step: int, target: State, seed: int) -> State:
        # Process 0 alone reads all files, and all go by what it finds: none may wait for another that gave this step up.
        damaged = damaged_files(self.folder / str(step)) if distributed.is_first() else []
        if distributed.agree(bool(damaged)):
            raise CheckpointError(f"damaged: {', '.join(damaged) or 'files that process 0 names'}")
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes_of(target)._asdict()),
                meta=ocp.args.JsonRestore(),
            ),
        )
        state, meta = State(**restored["state"]), restored["meta"]
        if meta["seed"] != seed:
            raise CheckpointError(f"it belongs to seed {meta['seed']}, this run has seed {seed}")
        found = checksums(state)
        wrong = [path for path, value in meta["checksums"].items() if found.get(path) != value]
        if wrong:
            raise CheckpointError(
                f"checksum of {wrong[0]} and {len(wrong) - 1} others differs: the file is damaged"
            )
        return state

    def forget_after(self, step: int) -> None:
        """Deletes checkpoints later than `step`: damaged ones that were passed over and will be written again."""
        for later in [s for s in self.steps() if s > step]:
            self._manager.delete(later)

    def close(self) -> None:
        """Waits for the save under way. CheckpointError if it failed."""
        self.wait()
        self._thread.shutdown()
        self._manager.close()


def seal(folder: pathlib.Path) -> None:
    """Writes size and CRC-32 of every file of a checkpoint beside them."""
    write_atomically(folder / SEAL, json.dumps(_sums(folder), separators=(",", ":")).encode())


def damaged_files(folder: pathlib.Path) -> list[str]:
    """The files of a checkpoint that are not as they were sealed; none where a kill came before the seal."""
    if not (folder / SEAL).exists():
        return []
    try:
        sealed = json.loads((folder / SEAL).read_bytes())
    except ValueError:
        return [SEAL]
    found = _sums(folder)
    return sorted(
        name for name in sealed.keys() | found.keys() if sealed.get(name) != found.get(name)
    )


def _sums(folder: pathlib.Path) -> dict[str, list[int]]:
    def crc(path: pathlib.Path) -> int:
        value = 0
        with open(path, "rb") as file:
            while part := file.read(2**24):
                value = zlib.crc32(part, value)
        return value

    files = (path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, crc(path)]
        for path in sorted(files)
    }


def checksums(state: State) -> dict[str, int]:
    """A 32-bit sum of every array's bits, weighted by position: no single flipped bit leaves it as it was.

    It does not depend on how arrays are split: each process adds up what it holds, and integers add up in any order. All must call it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state._asdict())
    with ThreadPoolExecutor() as pool:
        sums = np.asarray(
            list(pool.map(lambda leaf: _sum_of_own(jnp.asarray(leaf[1])), leaves)), np.uint32
        )
    sums = distributed.gather(sums).sum(0, dtype=np.uint32)
    return {jax.tree_util.keystr(path): int(value) for (path, _), value in zip(leaves, sums)}


def _sum_of_own(x: jax.Array) -> np.uint32:
    """Of the parts of an array that this process holds; of equal copies the first counts."""
    total = np.zeros(1, np.uint32)
    for shard in x.addressable_shards:
        if shard.replica_id == 0:
            values = np.asarray(shard.data)
            factor = np.ones((1,) * x.ndim, np.uint32)  # odd, 1 + 2 * position: it loses no bit
            for axis, part in enumerate(shard.index):
                positions = np.arange(
                    *part.indices(x.shape[axis])[:2], dtype=np.uint32
                ) * np.uint32(2 * np.prod(x.shape[axis + 1 :]) % 2**32)
                factor = factor + positions.reshape(-1, *(1,) * (x.ndim - axis - 1))
            total += np.sum(values.view(f"uint{8 * x.dtype.itemsize}") * factor, dtype=np.uint32)
    return total[0]


def shapes_of(tree):
    """Arrays -> their shapes, dtypes and shardings."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)),
        tree,
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def read_json(path: pathlib.Path) -> dict:
    """A JSON file of the workdir. CheckpointError naming it if it is damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}). Choose another --workdir, or move this one away."
        ) from error
