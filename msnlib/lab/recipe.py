"""What each ingredient of the released recipe is worth (notebook 18): arms beside ours."""

from __future__ import annotations

import pandas as pd

from msnlib.lab.differences import between
from msnlib.lab.looks import title
from msnlib.lab.records import ENDING

OURS = "multitask"
# What differs from ours, one thing at a time -> in words; the controls are other networks.
ARMS = {
    "values kept": "the values that were scored are kept",
    "authors values": "initial values as released",
    "released rule": "threshold as released",
    "as released": "both as released",
    "outputs evened": "outputs share the head evenly",
    "random": "weights at random",
    "dedicated": "control: a network for each task",
    "dedicated glorot": "control: the same, initial values as released",
    "pruned": "control: alone in as many weights",
    "small": "control: a small dense network",
}


def recipe_table(records: pd.DataFrame, ending: str = ENDING) -> pd.DataFrame:
    """How far each arm is ahead of ours, in points of accuracy with its 90 % t interval over seeds, as texts.

    Args:
        records: of this experiment and one pool, as `msnlib.lab.pooling.headline` gives them.
        ending: of the arms' names, which tells the stopping rule.

    Returns:
        A row per arm that was run, in words. For each task a column of differences and one of how many outputs of its
        head own no weight, a number for each seed in order.
    """
    tasks, rows = list(records["task"].unique()), {}
    there = records[records["metric"].eq("accuracy")].sort_values("seed")
    for arm, words in ARMS.items():
        own = there[there["arm"] == arm + ending].groupby("task")["dead_outputs"]
        if len(own):
            differences = {title(task): str(between(there, task, arm + ending, OURS + ending)) for task in tasks}
            dead = {f"dead, {title(task)}": " ".join(f"{count:.0f}" for count in own.get_group(task)) for task in tasks}
            rows[words] = differences | dead
    return pd.DataFrame.from_dict(rows, orient="index")
