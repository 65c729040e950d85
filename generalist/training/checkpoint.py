"""Checkpoints of the whole state, with checksums and a fall-back to the one before.

One save holds parameters, EMA, optimizer and step; the position in the data and the RNG are
functions of (seed, step). What does not learn is saved once, in a file beside them. Two nets catch
what storage damages: a checksum of every array's values, the same however they are split, and one
of every file.
"""

import contextlib
import functools
import json
import logging
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from generalist.devices import processes
from generalist.devices.mesh import to_host
from generalist.files import write_atomically
from generalist.names import first_line
from generalist.training import frozen
from generalist.training.literal_path import LiteralPath, check_name
from generalist.training.state import State

logger = logging.getLogger("generalist")

SEAL = "files.json"  # in a checkpoint: size and CRC-32 of all its other files
PARTS = ("state", "meta", "_CHECKPOINT_METADATA")  # one of them is in every checkpoint
FOREIGN = ("Thumbs.db", "desktop.ini", "Icon\r")  # what Windows and macOS leave in folders


class CheckpointError(RuntimeError):
    """No checkpoint can be used, or one could not be written."""


class _Checkpoints(ocp.path.step.NameFormat):
    """Finds checkpoints by their step and content: a folder "2026" of the user's is none."""

    _by_name = ocp.path.step.standard_name_format()

    def build_name(self, step: int) -> str:
        """Returns the folder's name."""
        return str(step)

    def find_all(self, base_path) -> Iterator[ocp.path.step.Metadata]:
        """Yields what is known of every checkpoint."""
        for found in self._by_name.find_all(base_path):
            if any((found.path / name).exists() for name in PARTS):
                yield found

    def find_step(self, base_path, step: int) -> ocp.path.step.Metadata:
        """Returns what is known of a step; ValueError if it is not there."""
        return self._by_name.find_step(base_path, step)


class Checkpointer:
    """Saves asynchronously, and restores the newest checkpoint that is whole.

    Use it as a context manager: on exit it waits for the pending save. The folder is created by the
    first save.

    Args:
      folder: `<workdir>/checkpoints`.
      keep: how many are kept.

    Raises:
      ValueError: the folder cannot hold checkpoints, see `check_name`.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        self.folder = pathlib.Path(folder).absolute()
        check_name(self.folder)
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: tuple[int, Future] | None = None
        self._frozen: int | None = None  # checksum of the file of what does not learn
        self._frozen_paths: list[str] = []

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            enable_async_checkpointing=True,
            step_name_format=_Checkpoints(),
        )
        return ocp.CheckpointManager(LiteralPath(self.folder), options=options)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, error_type, *_) -> None:
        if error_type is None:
            self.close()
        elif jax.process_count() == 1:
            # The error that ends the run is the one to show; Orbax repeats that of a failed save.
            # Of several processes, each would wait for the one that failed.
            with contextlib.suppress(Exception):
                self.close()

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints that are there, the newest first."""
        if not self.folder.exists():
            return []
        return sorted(self._manager.all_steps(), reverse=True)

    def save_frozen(self, values: Mapping[str, np.ndarray]) -> None:
        """Writes what every later save leaves out: {path: array} of all that does not learn."""
        checksum = frozen.checksum_of(values)
        # A resumed run has just read it.
        if checksum != self._frozen:
            frozen.write(self.folder, values)
        self._frozen = checksum
        self._frozen_paths = list(values)

    def with_frozen(self, state: State) -> State:
        """Returns the state with all that does not learn, in host memory; on process 0 alone."""
        if not processes.is_first():
            return state._replace(frozen={})
        try:
            values = frozen.read(self.folder, self._frozen_paths, self._frozen)
        except frozen.FrozenError as error:
            raise CheckpointError(str(error)) from error
        return state._replace(frozen=values)

    def save(self, state: State, seed: int) -> None:
        """Starts a save of `state` without its frozen parameters, after the one before is done.

        Raises CheckpointError if either fails.
        """
        step = int(state.step)
        self.wait()
        # Not by `steps`, which asks for the folder: some processes may see it before others, and
        # Orbax's first look is one of all together.
        if step in self._manager.all_steps():
            return

        learned = state._replace(frozen={})
        meta = {
            "step": step,
            "seed": seed,
            "next_batch": step,
            "checksums": checksums(learned),
            "frozen": self._frozen,
        }
        content = ocp.args.Composite(
            state=ocp.args.StandardSave(_without_frozen(learned)), meta=ocp.args.JsonSave(meta)
        )
        try:
            self._manager.save(step, args=content)
        except Exception as error:
            raise self._failed(step, error) from error
        self._saving = step, self._thread.submit(self._finish, step)

    def _finish(self, step: int) -> None:
        self._manager.wait_until_finished()
        if processes.is_first():
            seal(self.folder / str(step))

    def wait(self) -> None:
        """Waits for the pending save. Raises CheckpointError if it failed."""
        if self._saving:
            step, done = self._saving
            self._saving = None
            try:
                done.result()
            except Exception as error:
                raise self._failed(step, error) from error

    def check(self) -> None:
        """Raises CheckpointError as soon as the pending save has failed; does not wait for it."""
        if self._saving and self._saving[1].done():
            self.wait()

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"checkpoint of step {step} in {self.folder} failed: {error}. "
            "Is the disk full or the folder gone? The checkpoints before it are untouched: "
            "make room, and the same command continues from the last one."
        )

    def restore(self, target: State, seed: int) -> State | None:
        """Returns the newest whole checkpoint, or None where there is none at all.

        A damaged one is named, and the one before it used. What does not learn is in host memory.

        Args:
          target: shapes and shardings of the state, see `abstract_state`.
          seed: of the run.

        Raises:
          CheckpointError: all are damaged, or of another seed, or what does not learn is.
        """
        steps = self.steps()
        for step in steps:
            try:
                return self._restore_step(step, target, seed)
            except frozen.FrozenError as error:
                # No checkpoint is whole without it: an older one is no way out.
                raise CheckpointError(str(error)) from error
            except Exception as error:  # whatever a damaged file makes Orbax raise
                reason = f"{type(error).__name__}: {first_line(error)[:300]}"
                logger.warning(
                    f"WARNING: checkpoint {self.folder / str(step)} cannot be used ({reason}); "
                    "trying the one before"
                )

        if steps:
            raise CheckpointError(
                f"none of the checkpoints {steps} in {self.folder} can be used. "
                "Move the folder away to start again, or restore it from a backup."
            )
        return None

    def _restore_step(self, step: int, target: State, seed: int) -> State:
        # Process 0 alone reads all files, and all go by what it finds: none may wait for another
        # that gave this step up.
        damaged = damaged_files(self.folder / str(step)) if processes.is_first() else []
        if processes.agree(bool(damaged)):
            raise CheckpointError(f"damaged: {', '.join(damaged) or 'files that process 0 names'}")

        content = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = self._manager.restore(step, args=content)["meta"]
        if meta["seed"] != seed:
            raise CheckpointError(f"it belongs to seed {meta['seed']}, this run has seed {seed}")

        # Earlier versions saved what does not learn with every checkpoint.
        shapes = shapes_of(target)
        has_frozen = "frozen" not in meta
        tree = shapes._asdict() if has_frozen else _without_frozen(shapes)
        content = ocp.args.Composite(state=ocp.args.StandardRestore(tree))
        restored = self._manager.restore(step, args=content)["state"]
        state = State(**{"frozen": {}, **restored})

        found = checksums(state)
        wrong = [path for path, value in meta["checksums"].items() if found.get(path) != value]
        if wrong:
            raise CheckpointError(
                f"checksum of {wrong[0]} and {len(wrong) - 1} others differs: the file is damaged"
            )
        if has_frozen:
            values = {path: to_host(x) for path, x in state.frozen.items()}
        else:
            values = frozen.read(self.folder, target.frozen, meta["frozen"])
            self._frozen = meta["frozen"]
        return state._replace(frozen=values)

    def forget_after(self, step: int) -> None:
        """Deletes later checkpoints: damaged ones, which the run will write again."""
        for later in self.steps():
            if later > step:
                self._manager.delete(later)

    def close(self) -> None:
        """Waits for the pending save. Raises CheckpointError if it failed."""
        self.wait()
        self._thread.shutdown()
        if "_manager" in self.__dict__:
            self._manager.close()


def seal(folder: pathlib.Path) -> None:
    """Writes size and CRC-32 of every file of a checkpoint beside them."""
    sums = json.dumps(_sums_of_files(folder), separators=(",", ":"))
    write_atomically(folder / SEAL, sums.encode())


def damaged_files(folder: pathlib.Path) -> list[str]:
    """Returns the files of a checkpoint that are not as they were sealed.

    Files that others put there (`.DS_Store`, an editor's, a conflicting copy) do not count. Where a
    kill came before the seal, there is nothing to compare with, and the list is empty.
    """
    if not (folder / SEAL).exists():
        return []
    try:
        sealed = json.loads((folder / SEAL).read_bytes())
    except ValueError:
        return [SEAL]
    found = _sums_of_files(folder)
    damaged = [name for name, sums in sealed.items() if sums != found.get(name)]
    return sorted(name for name in damaged if not _is_foreign(name.rpartition("/")[2]))


def _sums_of_files(folder: pathlib.Path) -> dict[str, list[int]]:
    """{relative path: [size in bytes, CRC-32]} of the files that are a checkpoint's own."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SEAL and not _is_foreign(path.name):
            sums[path.relative_to(folder).as_posix()] = [path.stat().st_size, _crc(path)]
    return sums


def _is_foreign(name: str) -> bool:
    """Whether a file manager, an editor or a file system leaves files of that name."""
    return name.startswith(".") or name.endswith("~") or name in FOREIGN


def _crc(path: pathlib.Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(2**24):
            value = zlib.crc32(chunk, value)
    return value


def checksums(state: State) -> dict[str, int]:
    """Returns a 32-bit sum of every array's bits, by its path.

    The sum is weighted by position, so that no single flipped bit leaves it as it was. It does not
    depend on how arrays are split: each process adds up what it holds, and integers add up in any
    order. All processes must call it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state._asdict())
    arrays = [jnp.asarray(x) for _, x in leaves]
    with ThreadPoolExecutor() as pool:
        own = np.asarray(list(pool.map(_sum_of_own_shards, arrays)), np.uint32)

    total = processes.gather_values(own).sum(0, dtype=np.uint32)
    paths = [jax.tree_util.keystr(path) for path, _ in leaves]
    return {path: int(value) for path, value in zip(paths, total, strict=True)}


def _sum_of_own_shards(x: jax.Array) -> np.uint32:
    """The sum over the shards that this process holds; the first of equal copies counts."""
    total = np.zeros(1, np.uint32)
    for shard in x.addressable_shards:
        if shard.replica_id == 0:
            values = np.asarray(shard.data)
            bits = values.view(f"uint{8 * x.dtype.itemsize}")
            total += np.sum(bits * _position_factors(x.shape, shard.index), dtype=np.uint32)
    return total[0]


def _position_factors(shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
    """1 + 2 * position of every element of a shard in the whole array, modulo 2**32.

    A factor is odd, so that multiplying by it loses no bit.
    """
    factors = np.ones((1,) * len(shape), np.uint32)
    for axis, part in enumerate(index):
        first, last, _ = part.indices(shape[axis])
        stride = np.uint32(2 * np.prod(shape[axis + 1 :]) % 2**32)
        positions = np.arange(first, last, dtype=np.uint32) * stride
        factors = factors + positions.reshape(-1, *(1,) * (len(shape) - axis - 1))
    return factors


def _without_frozen(state: State) -> dict[str, Any]:
    """What a checkpoint holds of a state, or of its shapes."""
    tree = state._asdict()
    del tree["frozen"]
    return tree


def shapes_of(tree):
    """Returns the tree with shape, dtype and sharding in place of every array."""

    def shape(x):
        sharding = getattr(x, "sharding", None)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(shape, tree)
