"""How far one arm is from another, over seeds: exploration beside the test of the claim (`msnlib.lab.claim`)."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from msnlib.lab.statistics import interval


class Difference(NamedTuple):
    """A mean difference in the metric's unit.

    Attributes:
        difference: the mean over seeds.
        low, high: its 90 % t interval over seeds; NaN for a single seed.
        seeds: how many.
    """

    difference: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        interval = f" ({self.low:+.2f} to {self.high:+.2f})" if self.seeds > 1 else ""
        return f"{self.difference:+.2f}{interval}"


def over_pairs(one: pd.Series, other: pd.Series) -> Difference:
    """The first less the second, seed by seed; both indexed by seed, and only seeds with both count.

    Raises:
        ValueError: no seed has both.
    """
    difference = (one - other).dropna()
    if difference.empty:
        raise ValueError("no seed has both arms")
    low, mean, high = interval(difference)
    return Difference(mean, low, high, len(difference))


def between(records: pd.DataFrame, task: str, one: str, other: str, metric: str = "accuracy") -> Difference:
    """`over_pairs` of two arms of a task, from the rows of one pool of runs.

    Raises:
        ValueError: no seed has both arms.
    """
    rows = records[records["task"].eq(task) & records["metric"].eq(metric)]
    return over_pairs(*(rows[rows["arm"] == arm].set_index("seed")["value"] for arm in (one, other)))
