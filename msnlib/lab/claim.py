"""The paper's claim, "no loss on any task", tested on records: each task's subnetwork against its control."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from msnlib.lab.parameters import ParameterError
from msnlib.lab.pooling import headline
from msnlib.lab.published import published_table
from msnlib.lab.records import read_examples, read_records
from msnlib.lab.statistics import BOOTSTRAP_SEEDS, Margin, compare, intersection, verdict, without_one

CLAIM_COLUMNS = (
    *("experiment", "profile", "task", "rule", "metric", "seeds", "subnetwork", "control", "difference", "low", "high"),
    *("boot_low", "boot_high", "boot_seeds", "margin", "p_noninferior", "p_equivalent", "verdict"),
    *("capped", "dead_outputs", "without_one", "without_one_low", "without_one_high", "without_one_verdict"),
)
RULES = ("converged", "authors")  # the verdict on the claim is the first rule's; the other stands beside it
CAPPED = "ended by the cap"  # in place of a verdict
# Records made before a record said what had ended a training. In these runs the notebook's cell ``settings`` allowed so
# few epochs (10, 20 and 8) that the cap ended most trainings. Which ones is not stored, so all of them count as capped.
CAPPED_BEFORE = {
    ("04_parallel_conv", "laptop"),
    ("06_sequential_natural_images", "laptop"),
    ("08_self_ensemble", "laptop"),
}

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


def claim_table(folder: Path | str, margins: Mapping[str, Margin]) -> pd.DataFrame:
    """Return one row per experiment of the paper, task and stopping rule: the comparison over all seeds with both
    networks.

    The runs are those of `msnlib.lab.pooling.headline`, never ``quick``. ``subnetwork`` and ``control`` are means of
    the metric; ``difference``, ``low``, ``high``, ``boot_low``, ``boot_high`` and ``margin`` are points of accuracy,
    or per cent of the control's squared error, positive is better (`msnlib.lab.statistics.Comparison`). The bootstrap
    is over those ``boot_seeds`` whose records hold the outcomes of the test examples, if they are at least three; over
    the same seeds ``without_one`` is the difference without the test example that a good result needs most.

    ``capped`` counts the trainings, of two a seed, that the cap on epochs ended before the rule would have. Where
    there is one, the verdict is `CAPPED`, which is none. ``dead_outputs``: of a subnetwork's outputs those without a
    weight, the most in any seed; missing where no record says.

    Args:
        folder: of records, as for `read_records`.
        margins: task -> margin. Tasks without one are not tested; ``attrs["untested"]`` of the table names them and
            those without a control, as pairs of experiment and task.

    Raises:
        ParameterError: a margin is not in its task's metric.
    """
    folder = Path(folder)
    rows, untested = [], []
    for key, by_rule in _pairs(read_records(folder), folder):
        experiment, profile, task, metric = key
        tested = {rule: pairs for rule, pairs in by_rule.items() if pairs}
        if task not in margins or not tested:
            untested.append((experiment, task))
            continue
        margin = margins[task]
        if margin.metric != metric:
            raise ParameterError(f"margin of {task} is {margin}, but its metric is {metric}")
        named = {"experiment": experiment, "profile": profile, "task": task, "metric": metric}
        rows += [named | {"rule": rule} | _row(folder, pairs, margin) for rule, pairs in tested.items()]
    table = pd.DataFrame(rows, columns=list(CLAIM_COLUMNS))
    words = {"experiment", "profile", "task", "rule", "metric", "verdict", "without_one_verdict"}
    whole = {"seeds", "boot_seeds", "capped"}
    table = table.astype({name: float for name in CLAIM_COLUMNS if name not in words | whole})  # None is NaN
    table = table.astype(dict.fromkeys(whole, int))
    table.attrs["untested"] = untested
    return table


def _row(folder: Path, pairs: list[tuple[Any, Any]], margin: Margin) -> dict[str, Any]:
    """Return what one row of `claim_table` says of the pairs, apart from whose they are."""
    values = np.array([[own["value"], control["value"]] for own, control in pairs]).T
    examples = _examples(folder, pairs)
    found = compare(*values, margin, examples=examples)
    row = {name: getattr(found, name) for name in CLAIM_COLUMNS if hasattr(found, name)}
    row |= {"subnetwork": values[0].mean(), "control": values[1].mean(), "margin": margin.value}
    row |= {"boot_seeds": 0 if examples is None else len(examples[0])}
    row |= {"capped": sum(map(_ended_by_cap, (row for pair in pairs for row in pair)))}
    dead = [own["dead_outputs"] for own, _ in pairs if not pd.isna(own["dead_outputs"])]
    row |= {"dead_outputs": max(dead, default=None)}
    if row["capped"]:
        row |= {"verdict": CAPPED, "p_noninferior": None, "p_equivalent": None}
    elif examples is not None:
        difference, low, high = without_one(*examples, margin)
        row |= {"without_one": difference, "without_one_low": low, "without_one_high": high}
        row |= {"without_one_verdict": verdict(*map(margin.inverse, (low, high)), margin.limit)}
    return row


def _ended_by_cap(row: Mapping[str, Any]) -> bool:
    if pd.isna(row["capped"]):
        return (row["notebook"], row["profile"]) in CAPPED_BEFORE
    return bool(row["capped"])


def claim_verdicts(table: pd.DataFrame, by: str = "experiment", rule: str = RULES[0]) -> dict[str, str]:
    """Return the verdict on "no loss on any task" for each value of a column of `claim_table`: an experiment, or a
    ``"profile"``. There is none on all: what smaller networks than the paper's lose says nothing of the paper's.

    Where the cap ended all, there is no verdict but `CAPPED`; where it ended some, the claim cannot be shown.
    """
    found = {}
    for name, rows in table[table["rule"] == rule].groupby(by, sort=False):
        words = set(rows["verdict"])
        ended = words == {CAPPED}
        found[name] = CAPPED if ended else intersection("inconclusive" if w == CAPPED else w for w in words)
    return found


def _pairs(
    records: pd.DataFrame, folder: Path
) -> Iterator[tuple[tuple[str, str, str, str], dict[str, list[tuple[Any, Any]]]]]:
    """Yield (experiment, profile, task, metric) and, per rule and shared seed, the subnetwork's row and its
    control's."""
    plain = records[records["profile"] != "quick"]
    plain = plain[plain["metric"].isin(["accuracy", "mse"]) & plain["experiment"].isin(published_table()["id"])]
    stored = plain["file"].map({name: (folder / name).with_suffix(".npz").exists() for name in plain["file"].unique()})
    best = plain.assign(stored=stored).sort_values("stored", ascending=False, kind="stable")
    shown = headline(best, each=("experiment", "profile"))  # never two configurations in one pair
    networks = dict(list(shown.groupby(["experiment", "profile", "task", "arm"])))

    def seeds(*key: str) -> dict[int, Any]:
        return {row["seed"]: row for row in networks.get(key, shown[:0]).to_dict("records")}

    tasks = headline(plain)[["experiment", "profile", "task", "metric"]].drop_duplicates()
    for experiment, profile, task, metric in tasks.itertuples(index=False):
        by_rule = {}
        for rule in RULES:
            ending = "" if rule == "authors" else f", {rule}"
            own_arm, control_arm = (arm + ending for arm in ARMS.get(experiment, ("multitask", "dedicated")))
            own = seeds(experiment, profile, task, own_arm)
            lent = seeds(LENDERS[experiment], profile, task, control_arm) if experiment in LENDERS else {}
            control = lent | seeds(experiment, profile, task, control_arm)
            by_rule[rule] = [(own[s], control[s]) for s in sorted(own.keys() & control.keys())]
        yield (experiment, profile, task, metric), by_rule


def _examples(folder: Path, pairs: list[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (seeds, examples) of both networks, of the seeds that have them; None when those are too few."""
    found = []
    for pair in pairs:
        outcomes = [read_examples(folder / row["file"]).get((row["task"], row["arm"])) for row in pair]
        if all(array is not None for array in outcomes):
            found.append(outcomes)
    if len(found) < BOOTSTRAP_SEEDS:
        return None
    return tuple(np.stack(network) for network in zip(*found, strict=True))
