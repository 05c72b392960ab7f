"""The paper's claim, "no loss on any task", tested on records: each task's subnetwork against its control."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from msnlib.lab.parameters import ParameterError
from msnlib.lab.published import published_table
from msnlib.lab.records import read_examples, read_records
from msnlib.lab.report import headline
from msnlib.lab.statistics import BOOTSTRAP_SEEDS, Margin, compare, intersection

CLAIM_COLUMNS = (
    *("experiment", "profile", "task", "metric", "seeds", "subnetwork", "control", "difference", "low", "high"),
    *("boot_low", "boot_high", "boot_seeds", "margin", "p_noninferior", "p_equivalent", "verdict"),
)

# What is compared is "multitask" with "dedicated", but for
ARMS = {
    "E5": ("multitask scaled", "dedicated scaled"),  # arms on raw pixels are not trained to convergence
    "E10": ("told", "dedicated"),  # E10's "multitask" must also find out the task, which its control is told
}
# Whose dedicated networks serve where an experiment trained none of its own (the paper profile's images). E3's would be
# the same network, to the last bit: same builder, sizes, data, batches and initial noise (notebook 03). E4's would have
# the same six layers, data and batches (notebook 05), but other initial noise, as its first layer is the task's own:
# pairs of independent draws, for which the test holds as well.
LENDERS = {"E3": "E1", "E4": "E1"}


def read_margins(path: Path | str) -> dict[str, Margin]:
    """Return task -> margin from the ``[margins]`` table of a TOML file.

    Raises `ParameterError` when the file is no TOML or has no such table, or a margin is none; `OSError` when it cannot
    be read.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("margins")
    except ValueError as error:
        raise ParameterError(f"{path}: {error}") from None
    if not isinstance(table, dict) or not table:
        raise ParameterError(f"{path}: must have a table [margins] with a margin per task, like mnist = 0.5")
    margins = {}
    for task, value in table.items():
        try:
            margins[task] = Margin.parse(value)
        except ValueError as error:
            raise ParameterError(f"{path}: {task}: {error}") from None
    return margins


def claim_table(folder: Path | str, margins: Mapping[str, Margin], rule: str = "converged") -> pd.DataFrame:
    """Return one row per experiment of the paper and task: the comparison over all seeds that have both networks.

    The runs are those of `msnlib.lab.report.headline`, never ``quick``; of several runs of one seed one counts.
    ``subnetwork`` and ``control`` are means of the metric; ``difference``, ``low``, ``high``, ``boot_low``,
    ``boot_high`` and ``margin`` are points of accuracy, or per cent of the control's squared error, positive is better
    (`msnlib.lab.statistics.Comparison`). The bootstrap is over those ``boot_seeds`` whose records hold the outcomes of
    the test examples, if they are at least three.

    Args:
        folder: of records, as for `read_records`.
        margins: task -> margin. Tasks without one are not tested; ``attrs["untested"]`` of the table names them and
            those without a control, as pairs of experiment and task.
        rule: the stopping rule of both networks; "" is the first, as published.

    Raises `ParameterError` when a margin is not in its task's metric.
    """
    folder = Path(folder)
    rows, untested = [], []
    for experiment, profile, task, metric, pairs in _pairs(read_records(folder), folder, rule):
        if task not in margins or not pairs:
            untested.append((experiment, task))
            continue
        margin = margins[task]
        if margin.metric != metric:
            raise ParameterError(f"margin of {task} is {margin}, but its metric is {metric}")
        values = np.array([[own["value"], control["value"]] for own, control in pairs]).T
        examples = _examples(folder, task, pairs)
        found = compare(*values, margin, examples=examples)
        row = {name: getattr(found, name) for name in CLAIM_COLUMNS if hasattr(found, name)}
        row |= {"experiment": experiment, "profile": profile, "task": task, "metric": metric, "margin": margin.value}
        row |= {"subnetwork": values[0].mean(), "control": values[1].mean()}
        rows.append(row | {"boot_seeds": 0 if examples is None else len(examples[0])})
    table = pd.DataFrame(rows, columns=list(CLAIM_COLUMNS))
    numbers = [*CLAIM_COLUMNS[5:12], *CLAIM_COLUMNS[13:16]]
    table = table.astype(dict.fromkeys(numbers, float))  # None is NaN
    table.attrs["untested"] = untested
    return table


def claim_verdicts(table: pd.DataFrame, by: str = "experiment") -> dict[str, str]:
    """Return the verdict on "no loss on any task" for each value of a column of `claim_table`: an experiment, or a
    ``"profile"``. There is none on all: what smaller networks than the paper's lose says nothing of the paper's.
    """
    return {name: intersection(rows["verdict"]) for name, rows in table.groupby(by, sort=False)}


def _pairs(
    records: pd.DataFrame, folder: Path, rule: str
) -> Iterator[tuple[str, str, str, str, list[tuple[Any, Any]]]]:
    """Yield experiment, profile, task, metric, and per shared seed the rows of the subnetwork and of its control."""
    plain = records[(records["overrides"] == "{}") & (records["profile"] != "quick")]
    plain = plain[plain["metric"].isin(["accuracy", "mse"]) & plain["experiment"].isin(published_table()["id"])]
    stored = plain["file"].map({name: (folder / name).with_suffix(".npz").exists() for name in plain["file"].unique()})
    best = plain.assign(stored=stored).sort_values("stored", ascending=False, kind="stable")
    groups = (headline(of_one) for _, of_one in best.groupby("profile"))  # never two configurations in one pair
    networks = {key: rows for found in groups for key, rows in found.groupby(["experiment", "profile", "task", "arm"])}

    def seeds(*key: str) -> dict[int, Any]:
        rows = networks.get(key, best[:0]).drop_duplicates("seed")
        return {row["seed"]: row for row in rows.to_dict("records")}

    ending = f", {rule}" if rule else ""
    tasks = headline(plain)[["experiment", "profile", "task", "metric"]].drop_duplicates()
    for experiment, profile, task, metric in tasks.itertuples(index=False):
        own_arm, control_arm = (arm + ending for arm in ARMS.get(experiment, ("multitask", "dedicated")))
        own = seeds(experiment, profile, task, own_arm)
        lent = seeds(LENDERS[experiment], profile, task, control_arm) if experiment in LENDERS else {}
        control = lent | seeds(experiment, profile, task, control_arm)
        yield experiment, profile, task, metric, [(own[s], control[s]) for s in sorted(own.keys() & control.keys())]


def _examples(folder: Path, task: str, pairs: list[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (seeds, examples) of both networks, of the seeds that have them; None when those are too few."""
    found = []
    for pair in pairs:
        outcomes = [read_examples(folder / row["file"]).get((task, row["arm"])) for row in pair]
        if all(array is not None for array in outcomes):
            found.append(outcomes)
    if len(found) < BOOTSTRAP_SEEDS:
        return None
    return tuple(np.stack(network) for network in zip(*found, strict=True))
