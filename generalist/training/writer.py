"""Scalars to `metrics.jsonl` and to TensorBoard event files, without TensorFlow."""

import json
import pathlib
from collections.abc import Mapping

import tensorboardX

from generalist.files import write_atomically
from generalist.training import distributed


class Writer:
    """Appends scalars, on process 0. A resumed run first drops the lines of steps it will do again."""

    def __init__(self, workdir: pathlib.Path, first_step: int):
        self._file = None
        if not distributed.is_first():
            return
        self._path = pathlib.Path(workdir) / "metrics.jsonl"
        self._drop_after(first_step)
        self._file = open(self._path, "a", buffering=1)
        self._board = tensorboardX.SummaryWriter(str(workdir), purge_step=first_step or None)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line of JSON, one TensorBoard point a scalar."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes both."""
        if self._file is not None:
            self._file.close()
            self._board.close()

    def _drop_after(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except json.JSONDecodeError:  # the line a kill cut in half
                continue
        write_atomically(self._path, "".join(line + "\n" for line in kept).encode())
