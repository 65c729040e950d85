"""Questions that all processes answer alike, without waiting for one another."""

import jax
import numpy as np
from jax.sharding import Mesh

from generalist.devices.mesh import batch_sharding, replicated


class Votes:
    """Whether any process says yes, asked once a step.

    Several processes ask each other behind the step that is under way and get the answer at the
    next one, so that none waits.

    Args:
      mesh: of the devices of all processes.
    """

    def __init__(self, mesh: Mesh):
        self._devices = mesh.size
        self._split = batch_sharding(mesh)
        self._any = jax.jit(lambda flags: flags.any(0), out_shardings=replicated(mesh))
        self._asked = None

    def any(self, *own: bool) -> list[bool]:
        """Returns for each question whether a process says yes, the same in all processes.

        own: what this process says.
        """
        if jax.process_count() == 1:
            return list(own)

        # A row for each device of this process; all questions travel together.
        flags = jax.make_array_from_callback(
            (self._devices, len(own)), self._split, lambda index: np.asarray([own])
        )
        answers = self._asked
        self._asked = self._any(flags)
        return [False] * len(own) if answers is None else np.asarray(answers).tolist()
