"""Goes through a whole data set: evenly spaced examples, many threads, results in order."""

import collections
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from generalist.console import Progress

logger = logging.getLogger("generalist")

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # results waiting for each thread, which bounds the memory


def evenly_spaced(count: int, limit: int) -> list[int]:
    """Returns `limit` of the indices 0..count - 1, evenly spaced and ascending; 0 returns all."""
    chosen = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)
    return sorted(set(chosen.tolist()))


def log_damaged(sources: Mapping[str, Any]) -> None:
    """Logs how many files of each task were left out, where `data.on_error` is "skip".

    Args:
      sources: {task: source}; they count what this process and its workers left out.
    """
    counts = {name: len(source.damaged) for name, source in sources.items() if source.damaged}
    if counts:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        logger.info(f"damaged files left out of training: {listed}; each was named above")


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
