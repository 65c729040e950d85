"""A specialist: the generalist's recipe on one task, `--config=configs/single_task.py:depth`.

The argument is a task, then whatever multitask.py takes: `single_task.py:semantic,scenes,scratch`.
"""

import difflib

from generalist.configs import common


def get_config(arg: str = "depth"):
    """The configuration of one task; ValueError names the tasks there are."""
    name, _, rest = arg.partition(",")
    c = common.get_config(rest)
    if name not in c.tasks.weights:
        close = difflib.get_close_matches(name, c.tasks.weights, 1)
        raise ValueError(f"unknown task {name!r}." + (f" Did you mean {close[0]!r}?" if close else "")
                         + f" Choose one of {', '.join(c.tasks.weights)}.")
    for group in ("weights", "loss_weights", "timesteps"):
        for other in [n for n in c.tasks[group] if n != name]:
            del c.tasks[group][other]
    c.eval.tasks = (name,)
    return c
