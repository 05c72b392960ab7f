"""How far one arm is from another, over seeds: exploration beside the test of the claim (`msnlib.lab.claim`)."""

from __future__ import annotations

import json
from typing import NamedTuple

import pandas as pd

from msnlib.lab.pooling import POOL, pooled
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

    def answer(self) -> str:
        """What the interval says of the two arms: one is ahead, or neither is shown to be."""
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "open"

    def short(self) -> str:
        """With one digit after the point, for a wide table."""
        interval = f" ({self.low:+.1f} to {self.high:+.1f})" if self.seeds > 1 else ""
        return f"{self.difference:+.1f}{interval}"


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


def precisions(records: pd.DataFrame) -> pd.DataFrame:
    """What training in bfloat16 changes, seed by seed: a result less that of a run alike in all but the precision.

    Args:
        records: as `msnlib.lab.records.read_records` gives them.

    Returns:
        A row per notebook, profile, task, arm and metric of which some seed has both: ``float32``, its mean over these
        seeds; ``sd``, its standard deviation over them, against which to read a difference; and the fields of
        :class:`Difference`.
    """
    shown = pooled(records)
    found = {text: json.loads(text) for text in shown["fixed"].unique()}
    halved = {text: values.pop("precision", None) == "bfloat16" for text, values in found.items()}
    alike = {text: json.dumps(values, sort_keys=True) for text, values in found.items()}
    shown = shown.assign(half=shown["fixed"].map(halved), fixed=shown["fixed"].map(alike))
    rows = []
    for key, same in shown.groupby([*POOL, "task", "arm", "metric"], sort=False):
        half, whole = (same[same["half"] == which].set_index("seed")["value"] for which in (True, False))
        whole = whole[whole.index.isin(half.index)]
        if len(whole):
            named = dict(zip((*POOL, "task", "arm", "metric"), key, strict=True))
            rows.append(named | {"float32": whole.mean(), "sd": whole.std()} | over_pairs(half, whole)._asdict())
    columns = ["notebook", "profile", "task", "arm", "metric", "float32", "sd", *Difference._fields]
    return pd.DataFrame(rows, columns=columns)
