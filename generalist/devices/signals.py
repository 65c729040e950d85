"""Handles SIGTERM: finish the current step and save; exit at once when there is nothing to save."""

import os
import signal
import sys
import threading

EXIT_PREEMPTED = 143  # 128 + SIGTERM: what schedulers restart on


class Interruption:
    """Listens to SIGTERM during a run; a context manager.

    At first, and after `release`, everything is saved: a signal ends the process at once with code
    143, also in the middle of a compilation or a data set's scan, where Python itself would not
    look at signals. After `hold` it only raises a flag, `received`.
    """

    def __init__(self):
        self._received = threading.Event()
        self._held = False
        self._message = ""

    def __enter__(self) -> "Interruption":
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._handler = signal.signal(signal.SIGTERM, lambda signum, frame: None)
        self._wakeup = signal.set_wakeup_fd(self._writer)
        self._thread = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGTERM, self._handler)
        os.close(self._writer)
        self._thread.join()

    def _listen(self, reader: int) -> None:
        while received := os.read(reader, 1):
            if received[0] == signal.SIGTERM:
                self._received.set()
                self._exit_if_free()
        os.close(reader)

    def _exit_if_free(self) -> None:
        if self.received and not self._held:
            message = self._message or "nothing to save yet"
            print(f"SIGTERM: {message}; the same command resumes", flush=True)
            sys.stderr.flush()
            os._exit(EXIT_PREEMPTED)

    @property
    def received(self) -> bool:
        """Whether a signal came to this process."""
        return self._received.is_set()

    def hold(self) -> None:
        """From here on a signal only shows in `received`."""
        self._held = True

    def release(self, message: str) -> None:
        """From here on a signal ends the process at once, and so does one that came before.

        message: what it prints then: what is saved.
        """
        self._held = False
        self._message = message
        self._exit_if_free()
