"""Scalars to `metrics.jsonl` and to TensorBoard event files, without TensorFlow."""

import json
import pathlib
from collections.abc import Mapping

import tensorboardX

from generalist.devices import processes as distributed
from generalist.files import write_atomically


class Writer:
    """Appends scalars, on process 0. A resumed run first drops the lines of what it will do again: later steps, and the final evaluation.

    Args:
      workdir: of the run.
      first_step, total_steps: where it goes on, and where it ends.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int, total_steps: int):
        self._file = None
        if not distributed.is_first():
            return
        self._path = pathlib.Path(workdir) / "metrics.jsonl"
        self._drop_what_follows(first_step, total_steps)
        self._file = open(self._path, "a", buffering=1)
        # TensorBoard drops the points of earlier files from purge_step on.
        self._board = tensorboardX.SummaryWriter(
            str(workdir), purge_step=first_step + 1 if first_step else None
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line of JSON, one TensorBoard point a scalar."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        if self._file is not None:
            self._file.close()
            self._board.close()

    def _drop_what_follows(self, first_step: int, total_steps: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for text in self._path.read_bytes().splitlines():
            try:
                line = json.loads(text)
                step = line["step"]
            except (
                ValueError,
                KeyError,
                TypeError,
            ):  # a kill cut the line in half, or storage damaged it
                continue
            final = step == total_steps and any(name.startswith("eval/") for name in line)
            if step <= first_step and not final:
                kept.append(text)
        write_atomically(self._path, b"".join(text + b"\n" for text in kept))
