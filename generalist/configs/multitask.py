"""One generalist on all tasks: `python main.py --config=configs/multitask.py`.

Data decide: with a data directory (GENERALIST_DATA_DIR or --config.data_dir) the paper's data sets and the full-size
model, without one the built-in scenes and a small model. Words behind the file choose otherwise, in any order:

    multitask.py:scenes or :paper            force either
    multitask.py:paper,small                 the paper's data with the small model, for a laptop
    multitask.py:paper,small,depth,semantic  only these tasks: no other data set is needed
    multitask.py:scenes,scratch              a small model that does not start from the shipped weights
    multitask.py:tiny                        trained and evaluated in well under a minute: a first look
"""

from generalist.configs import common


def get_config(arg: str = ""):
    """The configuration; every field is described in common.py."""
    return common.get_config(arg)
