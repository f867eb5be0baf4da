"""Times of calls: in turn, medians, and the length at which one overtakes the other."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping

from ._cases import QUICK
from ._libraries import Call

__all__ = ["crossing", "medians", "seconds"]

ROUNDS = (1, 1, 0.0) if QUICK else (3, 9, 2.0)
"""Fewest and most rounds, and the seconds after which no round begins."""
BURST = 0.0 if QUICK else 0.02
"""Seconds for which a short call is repeated within a round."""
REST, LONGEST_REST = (0.0, 0.0) if QUICK else (0.3, 1.0)
"""Seconds of a pause for each second before it, and at most."""


def seconds(call: Call) -> float:
    """The time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def medians(calls: Mapping[str, Call]) -> dict[str, float]:
    """Median seconds of several calls, made in turn in this process, after one call of each.

    All of them thereby see the same state of the machine. After each there is a pause, so that none
    pays for what another leaves behind: XLA frees the gigabytes of exact attention afterwards.
    """
    for call in calls.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    fewest, most, limit = ROUNDS
    begin = time.perf_counter()
    done = 0
    while done < fewest or (done < most and time.perf_counter() - begin < limit):
        for name, call in calls.items():
            times = _burst(call)
            samples[name] += times
            time.sleep(min(REST * sum(times), LONGEST_REST))
        done += 1
    return {name: statistics.median(times) for name, times in samples.items()}


def _burst(call: Call) -> list[float]:
    times = [seconds(call)]
    while sum(times) < BURST:
        times.append(seconds(call))
    return times


def crossing(ratios: Mapping[int, float]) -> float:
    """The length at which a ratio, by length, falls below 1.

    Between the two lengths around it log(ratio) is taken as linear in log(length). The first length
    where the ratio is below 1 there already: the crossing is there or before. NaN where it is below
    1 at none.
    """
    before: tuple[int, float] | None = None
    for length, ratio in sorted(ratios.items()):
        if ratio < 1.0:
            if before is None:
                return float(length)
            share = math.log(before[1]) / (math.log(before[1]) - math.log(ratio))
            return float(before[0] * (length / before[0]) ** share)
        before = length, ratio
    return math.nan
