"""`import generalist` is light, and its names are there when they are used."""

import subprocess
import sys

import pytest

import generalist


def test_importing_loads_neither_jax_nor_opencv():
    code = (
        "import sys, generalist; "
        "print([name for name in ('jax', 'cv2', 'flax', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_those_of_their_homes():
    from generalist.inference import Generalist, load
    from generalist.tasks import TASKS

    assert (generalist.load, generalist.Generalist, generalist.TASKS) == (load, Generalist, TASKS)
    assert generalist.tasks.TASKS is TASKS
    assert generalist.__version__ == "0.1.0"
    assert set(generalist.__all__) <= set(dir(generalist))


def test_unknown_name_lists_the_known():
    with pytest.raises(
        AttributeError, match="no attribute 'laod'; it has TASKS, Generalist, load, tasks and"
    ):
        generalist.laod  # noqa: B018
