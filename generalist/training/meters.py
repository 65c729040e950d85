"""What the status line says: losses by task, speed, time left."""

import contextlib
import time
from collections.abc import Mapping, Sequence

import numpy as np


class Meters:
    """Averages over the steps since the last report.

    Args:
      tasks: names, in the order of the step's `task_loss`.
      batch_size, total_steps, first_step: of the run.
      flops_per_image: of one training step, for the achieved TFLOP/s.
      started: `time.monotonic()` at the start of the process; what came before the first step is no training.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        batch_size: int,
        total_steps: int,
        first_step: int,
        flops_per_image: float,
        started: float,
    ):
        self.tasks, self.batch_size, self.total_steps = list(tasks), batch_size, total_steps
        self.flops_per_image = flops_per_image
        self._began, self._first_step = time.monotonic(), first_step
        self._started, self._overhead = started, self._began - started
        self._reset(first_step)

    def _reset(self, step: int) -> None:
        self._since, self._since_step = time.monotonic(), step
        self._losses, self._norms, self._ratios = [], [], []
        self._sums, self._counts = np.zeros(len(self.tasks)), np.zeros(len(self.tasks))

    def add(self, metrics: Mapping[str, np.ndarray]) -> None:
        """The metrics of one step."""
        self._losses.append(float(metrics["loss"]))
        self._norms.append(float(metrics["grad_norm"]))
        self._ratios.append(float(metrics["update_ratio"]))
        self._sums += metrics["task_loss"]
        self._counts += metrics["task_count"]

    @contextlib.contextmanager
    def overhead(self):
        """Time in here is not training: checkpoints, evaluations."""
        began = time.monotonic()
        yield
        self._overhead += time.monotonic() - began

    def report(self, step: int, learning_rate: float) -> tuple[dict[str, float], str]:
        """Scalars and status line since the last report."""
        now = time.monotonic()
        goodput = 1.0 - self._overhead / max(now - self._started, 1e-9)
        images = (step - self._since_step) * self.batch_size / max(now - self._since, 1e-9)
        scalars = {
            "loss": float(np.mean(self._losses)),
            "grad_norm": float(np.mean(self._norms)),
            "update_ratio": float(np.mean(self._ratios)),
            "learning_rate": learning_rate,
            "images_per_second": images,
            "tflops": images * self.flops_per_image / 1e12,
            "goodput": goodput,
            **{
                f"loss/{name}": s / n
                for name, s, n in zip(self.tasks, self._sums, self._counts)
                if n
            },
        }
        pace = (now - self._began) / max(step - self._first_step, 1)
        losses = " ".join(
            f"{name[5:]} {value:.3f}" for name, value in scalars.items() if name.startswith("loss/")
        )
        line = (
            f"step {step}/{self.total_steps} | loss {scalars['loss']:.4f} | {losses} | {images:.1f} img/s "
            f"{scalars['tflops']:.3f} TFLOP/s | goodput {goodput:.0%} | ETA {duration((self.total_steps - step) * pace)}"
        )
        self._reset(step)
        return scalars, line


def duration(seconds: float) -> str:
    """Seconds -> "1:02:03" or "02:03"."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"
