"""What the status line says: losses by task, speed, time left."""

import contextlib
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np


class Meters:
    """Averages the metrics of the steps since the last report.

    The metrics of a step are read while the device works on the next one, so that it never waits
    for the host.

    Args:
      tasks: names, in the order of the step's `task_loss`.
      batch_size: of all devices together.
      total_steps: of the run.
      first_step: the steps that were done before.
      flops_per_image: of one training step, for the achieved TFLOP/s.
      started: `time.monotonic()` when the process started; what came before the first step counts
        as overhead.
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
        self.tasks = list(tasks)
        self.batch_size = batch_size
        self.total_steps = total_steps
        self.flops_per_image = flops_per_image

        self._started = started
        self._began = time.monotonic()
        self._overhead = self._began - started
        self._first_step = first_step
        self._unread: tuple[int, Mapping[str, jax.Array]] | None = None
        self._reset(first_step)

    def _reset(self, step: int) -> None:
        self._since = time.monotonic()
        self._since_step = step
        self._losses = []
        self._norms = []
        self._ratios = []
        self._sums = np.zeros(len(self.tasks))
        self._counts = np.zeros(len(self.tasks))

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics of a step, still on the device, and reads those of the step before.

        Raises FloatingPointError as `read` does.
        """
        self.read()
        self._unread = step, metrics

    def read(self) -> None:
        """Waits for the last step and reads its metrics.

        Raises:
          FloatingPointError: they are not finite; names the step and the tasks in the batch.
        """
        if self._unread is None:
            return
        step, metrics = self._unread
        self._unread = None

        metrics = jax.device_get(metrics)
        check_finite(metrics, step, self.tasks)
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
        """Returns scalars and status line since the last report, the last step included."""
        self.read()
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
        }

        task_losses = {}
        for name, total, count in zip(self.tasks, self._sums, self._counts, strict=True):
            if count:
                task_losses[name] = total / count
        scalars |= {f"loss/{name}": value for name, value in task_losses.items()}

        seconds_per_step = (now - self._began) / max(step - self._first_step, 1)
        eta = duration((self.total_steps - step) * seconds_per_step)
        losses = " ".join(f"{name} {value:.3f}" for name, value in task_losses.items())
        line = (
            f"step {step}/{self.total_steps} | loss {scalars['loss']:.4f} | {losses} | "
            f"{images:.1f} img/s {scalars['tflops']:.3f} TFLOP/s | "
            f"goodput {goodput:.0%} | ETA {eta}"
        )
        self._reset(step)
        return scalars, line


def check_finite(metrics: Mapping[str, np.ndarray], step: int, tasks: Sequence[str]) -> None:
    """Raises FloatingPointError if a metric is nan or inf; names the step and the tasks."""
    if np.isfinite([metrics[name] for name in ("loss", "grad_norm", "update_ratio")]).all():
        return

    present = []
    not_finite = []
    for name, loss, count in zip(tasks, metrics["task_loss"], metrics["task_count"], strict=True):
        if count:
            present.append(name)
        if not np.isfinite(loss):
            not_finite.append(name)
    raise FloatingPointError(
        f"loss {metrics['loss']}, gradient norm {metrics['grad_norm']} and update "
        f"{metrics['update_ratio']} at step {step}; tasks in the batch: {', '.join(present)}; "
        f"not finite: {', '.join(not_finite) or 'the gradient or the update'}. "
        "The checkpoints before it are good: lower optimizer.lr or optimizer.clip, or look at the "
        "data of these tasks, and start the same command with another --workdir."
    )


def duration(seconds: float) -> str:
    """Formats seconds as "1:02:03" or "02:03"."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"
