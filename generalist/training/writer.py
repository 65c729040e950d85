"""Scalars to `metrics.jsonl` and to TensorBoard event files, without TensorFlow."""

import json
import pathlib
from collections.abc import Mapping

import tensorboardX

from generalist.devices import processes
from generalist.files import write_atomically


class Writer:
    """Appends scalars, on process 0.

    A resumed run first drops the lines of what it will do again: later steps, and the final
    evaluation.

    Args:
      workdir: of the run.
      first_step: the steps that were done before.
      total_steps: of the run.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int, total_steps: int):
        self._file = None
        if not processes.is_first():
            return
        self._path = pathlib.Path(workdir) / "metrics.jsonl"
        self._drop_what_is_repeated(first_step, total_steps)
        self._file = open(self._path, "a", buffering=1, encoding="utf-8")
        # TensorBoard drops the points of earlier files from purge_step on.
        purge_step = first_step + 1 if first_step else None
        self._board = tensorboardX.SummaryWriter(str(workdir), purge_step=purge_step)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line of JSON, and one TensorBoard point a scalar."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both files."""
        if self._file is not None:
            self._file.close()
            self._board.close()

    def _drop_what_is_repeated(self, first_step: int, total_steps: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for text in self._path.read_bytes().splitlines():
            try:
                line = json.loads(text)
                step = line["step"]
            except (ValueError, KeyError, TypeError):
                # A kill cut the line in half, or storage damaged it.
                continue
            is_evaluation = any(name.startswith(("eval/", "final/")) for name in line)
            is_final = step == total_steps and is_evaluation
            if step <= first_step and not is_final:
                kept.append(text)
        write_atomically(self._path, b"".join(text + b"\n" for text in kept))
