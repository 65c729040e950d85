"""One generalist on all tasks.

    python main.py --config=configs/multitask.py

Data decide. With a data directory (GENERALIST_DATA_DIR or --config.data_dir) it trains the
full-size model on the paper's data sets, without one a small model on the built-in scenes. Words
behind the file choose otherwise, in any order:

    multitask.py:scenes or :paper            force either
    multitask.py:paper,small                 the paper's data with the small model, for a laptop
    multitask.py:paper,small,depth,semantic  only these tasks: no other data set is needed
    multitask.py:scenes,scratch              a small model that does not start from shipped weights
    multitask.py:scenes,scratch,128          that paints 128x128, the paper's size, instead of 64x64
    multitask.py:tiny                        trained and evaluated in about a minute
    multitask.py:scenes,twin                 a regressor: pure noise alone, zeros, one step
    multitask.py:scenes,all_levels           all noise levels, gaussian noise, four steps of DDIM

What to expect on two CPU cores, evaluation on 200 held-out scenes included (one run each; the
figures and their logs are in results/README.md):

    scenes           4 to 6 minutes   depth RMSE 0.472 m, mIoU 71.2 %, panoptic PQ 54.4 %
    scenes,scratch   10 to 12 minutes depth RMSE 0.685 m, mIoU 43.4 %, panoptic PQ 29.3 %
    paper            meant for a TPU pod or a host of GPUs; not measured yet
"""

from ml_collections import ConfigDict

from generalist.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; every field is described in common.py."""
    return common.get_config(arg)
