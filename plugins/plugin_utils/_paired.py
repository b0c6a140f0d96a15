# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Is one of two placements faster? Paired rounds → ratio, interval and verdict. Nothing but arithmetic.

Both are measured once in every round, so what disturbs a whole round cancels out in its ratio. The interval is that of
Hodges and Lehmann: the middle of all pairwise means of the rounds' log ratios, and the exact bounds of Wilcoxon's
signed-rank test. It asks for no normal distribution, one wild round hardly moves it, and it needs no random numbers, so
the same measurements always give the same verdict.
"""

from __future__ import annotations

import math
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

# With five, not even all rounds on one side reach 95 %.
FEWEST_ROUNDS = 6
CONFIDENCE_PERCENT = 95

FASTER, SLOWER, EQUAL, UNDECIDED = "faster", "slower", "equal", "undecided"
HIGHER, LOWER = "higher", "lower"


class PairedError(NumapinError):
    """Measurements that cannot be compared."""


class Comparison(t.NamedTuple):
    """``ratio`` above 1: the first is that many times as fast as the second; ``low`` to ``high`` is its interval."""

    ratio: float
    low: float
    high: float
    verdict: str
    rounds: int


def compare(
    first: t.Sequence[float], second: t.Sequence[float], better: str, smallest_effect_percent: float
) -> Comparison:
    """Hold the rounds of ``first`` against the same rounds of ``second``.

    ``better`` says whether ``higher`` or ``lower`` values are. It is ``faster`` (``slower``) where the whole interval
    is above (below) 1 and the ratio at least ``smallest_effect_percent`` away from it; ``equal`` where the whole
    interval is closer to 1 than that, or the effect is sure and smaller; ``undecided`` otherwise. Raises PairedError.
    """
    if len(first) != len(second) or len(first) < FEWEST_ROUNDS:
        raise PairedError(
            f"{len(first)} and {len(second)} rounds cannot be compared: both need the same number,"
            f" {FEWEST_ROUNDS} or more"
        )
    if better not in (HIGHER, LOWER):
        raise PairedError(f"better is {better!r}; it must be {HIGHER} or {LOWER}")
    if not 0 <= smallest_effect_percent < 100:
        raise PairedError(f"the smallest effect is {smallest_effect_percent:g} %; it must be from 0 to less than 100")
    if not all(math.isfinite(value) and value > 0 for value in (*first, *second)):
        raise PairedError("a measurement is not a positive number: something was not measured")
    sign = 1 if better == HIGHER else -1
    logs = [sign * math.log(one / other) for one, other in zip(first, second)]
    ratio, low, high = (math.exp(value) for value in _hodges_lehmann(logs))
    edge = 1 + smallest_effect_percent / 100
    if low > 1 or high < 1:
        large = ratio >= edge or ratio <= 1 / edge
        verdict = EQUAL if not large else FASTER if low > 1 else SLOWER
    else:
        verdict = EQUAL if high < edge and low > 1 / edge else UNDECIDED
    return Comparison(round(ratio, 4), round(low, 4), round(high, 4), verdict, len(first))


def _hodges_lehmann(values: t.Sequence[float]) -> tuple[float, float, float]:
    """Middle, lower and upper bound."""
    means = sorted((one + other) / 2 for i, one in enumerate(values) for other in values[i:])
    skipped = _outside(len(values))
    middle = len(means) // 2
    estimate = means[middle] if len(means) % 2 else (means[middle - 1] + means[middle]) / 2
    return estimate, means[skipped], means[-1 - skipped]


def _outside(count: int) -> int:
    """How many of the sorted pairwise means are outside the interval on either side."""
    # ways[s]: how many of the 2 ** count choices of signs make the positive ranks sum up to s.
    ways = [1]
    for rank in range(1, count + 1):
        longer = ways + [0] * rank
        for total, number in enumerate(ways):
            longer[total + rank] += number
        ways = longer
    allowed = (1 - CONFIDENCE_PERCENT / 100) / 2 * 2**count
    below, skipped = 0, 0
    for number in ways:
        below += number
        if below > allowed:
            break
        skipped += 1
    # At `skipped` sums the tail is used up: the interval begins at that many means, counted from one.
    return max(skipped - 1, 0)
