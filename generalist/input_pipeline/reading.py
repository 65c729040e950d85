"""Goes through a whole data set: evenly spaced examples, many threads, results in order."""

import collections
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from generalist.console import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # results waiting for each thread, which bounds the memory


def evenly_spaced(count: int, limit: int) -> list[int]:
    """Returns `limit` of the indices 0..count - 1, evenly spaced and ascending; 0 returns all."""
    chosen = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)
    return sorted(set(chosen.tolist()))


def in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    threads: int,
    what: str,
    unit: str = "examples",
) -> Iterator[Result]:
    """Yields `function(item)` of every item, in order, and logs progress and time left.

    An error is raised at the place of its item; the threads stop with the caller.

    Args:
      function: what to do; NumPy and OpenCV let the other threads run meanwhile.
      items: its arguments.
      threads: how many at a time.
      what: the work, for the progress lines.
      unit: what the items are, for the progress lines.
    """
    progress = Progress(what, len(items), unit)
    pool = ThreadPoolExecutor(threads)
    waiting = collections.deque()
    try:
        for done in range(len(items)):
            while len(waiting) < threads * AHEAD and done + len(waiting) < len(items):
                waiting.append(pool.submit(function, items[done + len(waiting)]))
            yield waiting.popleft().result()
            progress.add()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
