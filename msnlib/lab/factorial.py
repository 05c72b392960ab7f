"""The factorial of notebook 15: what a mask's scores, its head and the values it starts from are each worth."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from msnlib.lab.differences import Difference, over_pairs
from msnlib.lab.records import ENDING

HEADS = ("cut", "evened", "whole")
VALUES = ("redrawn", "kept")
SCORES = "scores"  # stands in a contrast for the saliency that is compared with a random one


class Mask(NamedTuple):
    """One way to make a task's subnetwork.

    Attributes:
        saliency: how its weights are scored.
        head: ``cut``: chosen as in the paper. ``evened``: the outputs share the head's weights evenly. ``whole``: every
            weight of the head. ``constant``: all units of all layers share their layer's weights evenly.
        values: ``redrawn`` after scoring, or ``kept``: the noise that was scored.
    """

    saliency: str
    head: str = "cut"
    values: str = "redrawn"

    def arm(self, density: float) -> str:
        """Its name in records."""
        return f"density {density:g} {', '.join(self)}"


_ARM = r"^density (?P<density>\S+) (?P<saliency>\w+), (?P<head>\w+), (?P<values>\w+)" + f"{ENDING}$"


def _all(saliency: str, values: str) -> list[Mask]:
    return [Mask(saliency, head, values) for head in HEADS]


# What is asked -> the masks on one side and on the other; of several the mean counts.
CONTRASTS: dict[str, tuple[list[Mask], list[Mask]]] = {
    "random instead of scores": ([Mask("random")], [Mask(SCORES)]),
    "head evened out": ([Mask(SCORES, "evened")], [Mask(SCORES)]),
    "head whole instead of evened out": ([Mask(SCORES, "whole")], [Mask(SCORES, "evened")]),
    "all units evened out instead of the head": ([Mask(SCORES, "constant")], [Mask(SCORES, "evened")]),
    "random instead of scores, heads evened out": ([Mask("random", "evened")], [Mask(SCORES, "evened")]),
    "random instead of scores, heads whole": ([Mask("random", "whole")], [Mask(SCORES, "whole")]),
    "head evened out, random masks": ([Mask("random", "evened")], [Mask("random")]),
    "scored values kept": (_all(SCORES, "kept"), _all(SCORES, "redrawn")),
    "values kept, random masks (nothing to expect)": (_all("random", "kept"), _all("random", "redrawn")),
}


def effects(records: pd.DataFrame) -> pd.DataFrame:
    """Every contrast, for each task and density, over the seeds of one pool.

    Args:
        records: of this experiment; tasks, arms and values after training to convergence.

    Returns:
        A row per task, density and contrast: the mean ``difference`` in points of accuracy, positive where the first
        side is better; ``low`` and ``high``, its 90 % t interval over seeds (none for a single seed); ``seeds``; and
        ``capped``, of how many of the trainings compared a cap on epochs was the end. Such a row gives no verdict.
    """
    parts = records["arm"].str.extract(_ARM)
    rows = records.assign(**parts)[parts["density"].notna() & records["metric"].eq("accuracy")]
    rows = rows.assign(capped=rows["capped"].eq(True) if "capped" in rows else False)
    cells = rows.set_index(["task", "density", "seed", "saliency", "head", "values"])[["value", "capped"]]
    found = []
    for (task, density), group in cells.groupby(level=["task", "density"], sort=False):
        group = group.droplevel(["task", "density"]).unstack(["saliency", "head", "values"])
        table, capped = group["value"], group["capped"]
        scored = next((name for name in table.columns.unique("saliency") if name != "random"), "random")
        for contrast, sides in CONTRASTS.items():
            one, other = ([(scored if m.saliency == SCORES else m.saliency, *m[1:]) for m in side] for side in sides)
            if set(one + other) <= set(table.columns):
                difference = over_pairs(table[one].mean(axis=1), table[other].mean(axis=1))
                row = {"task": task, "density": float(density), "contrast": contrast, **difference._asdict()}
                found.append(row | {"capped": int(capped[one + other].eq(True).sum().sum())})
    return pd.DataFrame(found, columns=["task", "density", "contrast", *Difference._fields, "capped"])


def effects_table(found: pd.DataFrame) -> pd.DataFrame:
    """`effects` as texts: a row per task and contrast, a column per density, largest first; a star where a cap on
    epochs ended a training.
    """
    texts = [
        f"{Difference(row.difference, row.low, row.high, row.seeds)}{'*' * (row.capped > 0)}"
        for row in found.itertuples(index=False)
    ]
    cells = found.assign(text=texts)
    order = found[["task", "contrast"]].drop_duplicates()
    table = cells.pivot(index=["task", "contrast"], columns="density", values="text")
    return table.reindex(pd.MultiIndex.from_frame(order))[sorted(table.columns, reverse=True)]
