"""What a run prints: the logger "generalist" on standard output, progress lines with an ETA."""

import logging
import sys
import time

logger = logging.getLogger("generalist")


class _Stdout(logging.Handler):
    """Prints to `sys.stdout` as it is when the message comes; tests and notebooks replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stdout, flush=True)


def show_log(level: int = logging.INFO) -> None:
    """Prints what the package logs, one plain line a message. Later calls change only the level.

    `main.py` and the command line call it at their start. A program that uses the package as a
    library calls it too, or configures the logger "generalist" as it likes.
    """
    # A line as soon as it is whole; of a path that is no Unicode, its bytes as escapes.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    logger.setLevel(level)
    # Libraries add handlers to the root logger (absl does), which would print every line again.
    logger.propagate = False
    if not any(isinstance(handler, _Stdout) for handler in logger.handlers):
        logger.addHandler(_Stdout())


class Progress:
    """Logs every few seconds how far a long piece of work is and when it ends.

    Args:
      what: the work, such as "eval".
      total: how many items there are.
      unit: what the items are, in the plural.
      done: how many items an earlier run has done; they do not count for the rate.
    """

    EVERY_SECONDS = 5.0

    def __init__(self, what: str, total: int, unit: str = "examples", done: int = 0):
        self._what = what
        self._total = total
        self._unit = unit
        self._done = done
        self._resumed_at = done
        self._began = time.monotonic()
        self._last_line = self._began

    def add(self, count: int = 1, detail: str = "") -> None:
        """Counts `count` more items. `detail` is shown in the line: the task, say."""
        self._done += count
        now = time.monotonic()
        if now - self._last_line < self.EVERY_SECONDS:
            return

        rate = (self._done - self._resumed_at) / (now - self._began)
        remaining = (self._total - self._done) / rate
        shown = f" ({detail})" if detail else ""
        logger.info(
            f"{self._what} {self._done}/{self._total} {self._unit}{shown} | "
            f"{rate:.1f}/s | ETA {remaining:.0f} s"
        )
        self._last_line = now
