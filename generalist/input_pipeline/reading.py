"""Going through a whole data set: many threads, results in order, a line every few seconds on where it is."""

import collections
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

SAY_EVERY = 5.0  # seconds
AHEAD = 4  # results waiting for each thread, which bounds the memory


def evenly_spaced(count: int, limit: int) -> list[int]:
    """Returns `limit` of the indices 0..count - 1, evenly spaced and ascending; 0 returns them all."""
    chosen = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)
    return sorted(set(chosen.tolist()))


def in_threads(
    function: Callable[[Any], Any],
    items: Sequence,
    threads: int,
    what: str,
    log: Callable[[str], object],
) -> Iterator:
    """`function(item)` of every item, in order; an error of one comes up at its place, the threads stop with the caller.

    Args:
      function: what to do; NumPy and OpenCV let the other threads run meanwhile.
      items: its arguments.
      threads: how many at a time.
      what: begins the lines about progress and time left.
      log: takes those lines.
    """
    began = said = time.monotonic()
    pool, waiting = ThreadPoolExecutor(threads), collections.deque()
    try:
        for done in range(len(items)):
            while len(waiting) < threads * AHEAD and done + len(waiting) < len(items):
                waiting.append(pool.submit(function, items[done + len(waiting)]))
            yield waiting.popleft().result()
            now = time.monotonic()
            if now - said >= SAY_EVERY:
                rate = (done + 1) / (now - began)
                log(
                    f"{what}: {done + 1} of {len(items)} | {rate:.1f}/s | ETA {(len(items) - done - 1) / rate:.0f} s"
                )
                said = now
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
