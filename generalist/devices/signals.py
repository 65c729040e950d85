"""SIGTERM: a flag between two steps, the end at once where nothing can be lost."""

import os
import signal
import sys
import threading

import jax
import numpy as np
from jax.sharding import Mesh

from generalist.devices import mesh as sharding

EXIT_PREEMPTED = 143  # 128 + SIGTERM: what schedulers restart on


class Interruption:
    """Listens to SIGTERM while a run goes on.

    At first, and after `release`, all there is to lose is saved: a signal ends the process at once with code 143, also in the middle of a
    compilation or a data set's scan, where Python itself would not look at signals. After `hold` it only raises a flag for `poll`.
    """

    def __init__(self):
        self._heard, self._held, self._said = threading.Event(), False, ""
        self._any, self._asked = None, None

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
                self._heard.set()
                self._leave_if_free()
        os.close(reader)

    def _leave_if_free(self) -> None:
        if self._heard.is_set() and not self._held:
            print(
                f"SIGTERM: {self._said or 'nothing to save yet'}; the same command resumes",
                flush=True,
            )
            sys.stderr.flush()
            os._exit(EXIT_PREEMPTED)

    def hold(self) -> None:
        """From here on a signal waits until `poll`."""
        self._held = True

    def release(self, said: str) -> None:
        """From here on a signal ends the process at once, with the message `said`; one that came before does so now."""
        self._held, self._said = False, said
        self._leave_if_free()

    def poll(self, mesh: Mesh) -> bool:
        """Whether to stop at this step: the same answer in all processes.

        Several processes ask each other behind the step that is under way and hear it at the next one, so that none waits.
        """
        if jax.process_count() == 1:
            return self._heard.is_set()
        if self._any is None:
            self._any = jax.jit(jax.numpy.any, out_shardings=sharding.replicated(mesh))
        split = sharding.batch_sharding(mesh)
        flags = jax.make_array_from_callback(
            (mesh.size,), split, lambda index: np.full(1, self._heard.is_set())
        )
        asked, self._asked = self._asked, self._any(flags)
        return asked is not None and bool(asked)
