"""A specialist: the generalist's recipe on one task, `--config=configs/single_task.py:depth`.

The argument is a task, then whatever multitask.py takes: `single_task.py:semantic,scenes,scratch`.
"""

from generalist.configs import common


def get_config(arg: str = "depth"):
    """The configuration of one task; ValueError names the tasks there are."""
    return common.get_config(arg)
