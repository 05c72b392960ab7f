"""Part B of notebook 07: what reading a neighbour is worth, and whether it must be a related one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from msnlib.files import CHECKOUT
from msnlib.lab.pooling import headline
from msnlib.lab.records import read_records
from msnlib.lab.statistics import interval

DECLARED = range(10, 13)  # the seeds that answer, in sweeps/related.toml; any others are exploration
MATTERS = 1.0  # points of accuracy: Fashion-MNIST's margin in sweeps/claim.toml
CONTRASTS = {  # what is asked -> two arms; the first answers the title's question
    "related instead of unrelated": ("after easy reading", "after unrelated reading"),
    "trained instead of untrained": ("after easy reading", "after untrained reading"),
    "read instead of not, trained": ("after easy reading", "after easy"),
    "read instead of not, untrained": ("after untrained reading", "after untrained"),
}
_COLUMNS = ["difference", "low", "high", "repeats_low", "repeats_high", "seeds", "repeats", "answer"]
_ARM = r"^(?P<of>.+), repeat (?P<repeat>\d+)$"


def repeat_arm(arm: str, repeat: int) -> str:
    """The name in records of one repeat of an arm."""
    return f"{arm}, repeat {repeat}"


def repeats(records: pd.DataFrame) -> pd.DataFrame:
    """The rows of single repeats, with columns ``of`` (the arm) and ``repeat``; runs made before they were kept have
    none.
    """
    rows = records[records["metric"] == "accuracy"]
    parts = rows["arm"].str.extract(_ARM)
    return rows.assign(**parts)[parts["repeat"].notna()]


def larger_repeats(notebook: str, reports: Path = CHECKOUT / "reports", declared: bool = False) -> pd.DataFrame:
    """`repeats` of the committed runs, perhaps none: of the profile that has most, as all have networks of one size;
    of the ``declared`` seeds alone, or of all.
    """
    rows = repeats(read_records(reports / notebook).query("profile != 'quick'"))
    shown = headline(rows, ("experiment", "profile"))
    shown = shown[shown["profile"] == shown["profile"].value_counts().index[0]] if len(shown) else shown
    return shown[shown["seed"].isin(DECLARED)] if declared else shown


def worth(rows: pd.DataFrame) -> pd.DataFrame:
    """Every contrast of `CONTRASTS`, repeat by repeat.

    What the repeats of a seed have in common, its split of the data, is a sample of one. So with several seeds the
    interval that decides is made of the seeds' means; that over all repeats, as if they were independent, stands
    beside. Neither covers another test set.

    Args:
        rows: as `repeats` gives them, of one pool.

    Returns:
        A row per contrast, in order: mean ``difference`` in points of accuracy, positive where the first arm is
        better; ``low`` and ``high``, its 90 % t interval over the seeds' means (over the repeats of a single seed);
        ``repeats_low`` and ``repeats_high``, that over all repeats; ``seeds``; ``repeats`` in all; ``answer``: as
        `answer` gives it, or that the cap on epochs ended a training of these two arms.
    """
    cells = rows.pivot(index=["seed", "repeat"], columns="of", values="value")
    capped = set(rows.loc[rows["capped"].eq(True), "of"]) if "capped" in rows else set()
    found = {}
    for contrast, (one, other) in CONTRASTS.items():
        if {one, other} <= set(cells):
            gap = (cells[one] - cells[other]).dropna()
            each = gap.groupby(level="seed").mean()
            all_low, mean, all_high = interval(gap)
            low, high = (all_low, all_high) if len(each) == 1 else interval(each)[::2]
            said = "ended by the cap" if capped & {one, other} else answer(low, high)
            found[contrast] = (mean, low, high, all_low, all_high, len(each), len(gap), said)
    return pd.DataFrame.from_dict(found, orient="index", columns=_COLUMNS)


def answer(low: float, high: float) -> str:
    """What an interval of a difference says: ``better``, ``worse``, or neither, and whether `MATTERS` is excluded."""
    sign = "better" if low > 0 else "worse" if high < 0 else ""
    within = -MATTERS < low and high < MATTERS
    if sign:
        return f"{sign}, by less than a point" if within else sign
    return "no difference of a point" if within else "open"
