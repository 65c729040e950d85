"""Trains and evaluates a generalist: `python main.py --config=configs/multitask.py`."""

import sys

from generalist.training.launch import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
