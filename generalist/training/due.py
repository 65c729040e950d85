"""When something is due that happens every so many steps, or minutes."""

import time

from generalist.devices import processes


def is_due(step: int, every_steps: int) -> bool:
    """Returns whether it happens after this step; every 0 steps is never."""
    return bool(every_steps) and step % every_steps == 0


class Clock:
    """Rings every so many minutes, on process 0 alone: clocks differ, and one decides.

    Args:
      minutes: between two rings; 0 is never.
    """

    def __init__(self, minutes: float):
        self._seconds = 60.0 * minutes
        self.restart()

    def restart(self) -> None:
        """Begins the time anew."""
        self._began = time.monotonic()

    def rings(self) -> bool:
        """Returns whether the time is over, and then begins it anew."""
        over = time.monotonic() - self._began >= self._seconds
        if not self._seconds or not over or not processes.is_first():
            return False
        self.restart()
        return True
