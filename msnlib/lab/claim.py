"""The paper's claim, "no loss on any task", tested on records: each task's subnetwork against its control."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from msnlib.lab.design import RULES, Design
from msnlib.lab.examples import TEST_ROWS, read_examples
from msnlib.lab.parameters import ParameterError
from msnlib.lab.pooling import headline
from msnlib.lab.published import published_table
from msnlib.lab.records import is_clean, read_records
from msnlib.lab.statistics import CONFIDENCE, Comparison, Margin, compare, crossed, intersection, needed_most

CLAIM_COLUMNS = (
    *("experiment", "profile", "task", "evidence", "rule", "metric", "seeds", "subnetwork", "control"),
    *("difference", "low", "high", "interval", "margin", "margin_share", "verdict"),
    *("p_noninferior", "p_inferior", "p_equivalent", "holm", "capped", "dead_outputs"),
    *("alone_low", "alone_high", "both_low", "both_high", "both_seeds"),
    *("sensitivity", "sensitivity_low", "sensitivity_high", "sensitivity_verdict"),
    *("without_one", "without_one_low", "without_one_high", "without_one_verdict"),
)
_WORDS = {"experiment", "profile", "task", "evidence", "rule", "metric", "interval", "verdict", "holm"}
_WORDS |= {"sensitivity_verdict", "without_one_verdict"}
_WHOLE = {"seeds", "capped", "both_seeds"}
CAPPED = "ended by the cap"  # in place of a verdict
# Records made before a record said what had ended a training. In these runs the notebook's cell ``settings`` allowed so
# few epochs (10, 20 and 8) that the cap ended most trainings. Which ones is not stored, so all of them count as capped.
CAPPED_BEFORE = {
    ("04_parallel_conv", "laptop"),
    ("06_sequential_natural_images", "laptop"),
    ("08_self_ensemble", "laptop"),
}

# What is compared is "multitask" with "dedicated", but for these: the first pair that was trained.
PLAIN = ("multitask", "dedicated")
ARMS = {
    "E5": [("multitask scaled", "dedicated scaled"), PLAIN],  # the plain arms have raw pixels, as no other experiment
    "E10": [("told", "dedicated")],  # E10's "multitask" must also find out the task, which its control is told
}
# Whose dedicated networks serve where an experiment trained none of its own (the paper profile's images). E3's would be
# the same network, to the last bit: same builder, sizes, data, batches and initial noise (notebook 03). E4's would have
# the same six layers, data and batches (notebook 05), but other initial noise, as its first layer is the task's own:
# pairs of independent draws, for which the test holds as well.
LENDERS = {"E3": "E1", "E4": "E1"}

Row = Mapping[str, Any]  # of `msnlib.lab.records.read_records`


@dataclass
class Pairs:
    """Per shared seed the subnetwork's row and its control's, of one task under one stopping rule."""

    rows: list[tuple[Row, Row]]

    def values(self) -> np.ndarray:
        """(2, seeds): the metric of both."""
        return np.array([[own["value"], control["value"]] for own, control in self.rows]).T

    def examples(self, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
        """(seeds, examples) of both, of the seeds that have them, and which rows of the dataset they are, where seeds
        have test parts of their own. None when those are too few, or some seeds have their own and others not.
        """
        found = []
        for pair in self.rows:
            stored = [read_examples(folder / row["file"]) for row in pair]
            outcomes = [e.get((row["task"], row["arm"])) for e, row in zip(stored, pair, strict=True)]
            where = [e.get((row["task"], TEST_ROWS)) for e, row in zip(stored, pair, strict=True)]
            if not np.array_equal(*where):
                raise ParameterError(f"{pair[0]['file']}: {pair[0]['task']} was not tested on its control's examples")
            if all(array is not None for array in outcomes):
                found.append((*outcomes, where[0]))
        own, control, where = zip(*found, strict=True) if found else ((), (), ())
        drawn = [rows for rows in where if rows is not None]
        if len(found) < 2 or 0 < len(drawn) < len(found):
            return None
        return np.stack(own), np.stack(control), np.stack(drawn) if drawn else None


def claim_table(folder: Path | str, design: Design) -> pd.DataFrame:
    """Return one row per experiment of the paper, task and stopping rule: the comparison over all seeds that have both
    networks.

    Runs of the design's seeds are the ``evidence`` "claim". They count if they come from an unchanged work tree, with
    no parameter set by hand, each seed with its own split of the data, and once all seeds of their notebook are there:
    nobody can stop while the verdict pleases. ``attrs["refused"]`` names those that do not count, with the reason. An
    experiment without any shows "exploration": the runs of `msnlib.lab.pooling.headline` among the other seeds, never
    ``quick``.

    Columns: means of the metric (``subnetwork``, ``control``). ``difference``, ``low``, ``high`` and ``margin`` in
    points of accuracy, or in per cent of the control's squared error; positive is better. ``interval`` says what
    ``low`` and ``high`` are, and the verdict with them: "crossed" over seeds and test examples, or "seeds", the paired
    t test's, where some record lacks the examples. Both stand in ``alone_*`` and ``both_*``, the latter over the
    ``both_seeds`` that have examples. ``margin_share``: the margin in per cent of the control's errors. ``holm``: the
    verdict with p values adjusted for the tasks of the experiment. ``sensitivity*``: the difference in per cent of the
    control's errors, its interval, and the verdict by the design's other margin. ``without_one*``: without the test
    example that a good result needs most. ``capped``: how many trainings, of two a seed, the cap on epochs ended
    before the rule would have; with one the verdict is `CAPPED`, which is none. ``dead_outputs``: of a subnetwork's
    outputs those without a weight, the most in any seed.

    Args:
        folder: of records, as for `read_records`.
        design: as `read_design` gives it. Tasks without a margin are not tested; ``attrs["untested"]`` names them and
            those without a control, as pairs of experiment and task.

    Raises:
        ParameterError: a margin is not in its task's metric, or a pair was tested on different examples.
    """
    folder = Path(folder)
    rows, untested = [], []
    records, refused = _sorted_out(read_records(folder), design)
    for key, evidence, by_rule in _pairs(records, folder, design):
        experiment, profile, task, metric = key
        tested = {rule: pairs for rule, pairs in by_rule.items() if pairs.rows}
        if task not in design.margins or not tested:
            untested.append((experiment, task))
            continue
        if design.margins[task].metric != metric:
            raise ParameterError(f"margin of {task} is {design.margins[task]}, but its metric is {metric}")
        named = {"experiment": experiment, "profile": profile, "task": task, "metric": metric, "evidence": evidence}
        rows += [named | {"rule": rule} | _row(folder, pairs, task, design) for rule, pairs in tested.items()]
    table = pd.DataFrame(rows, columns=list(CLAIM_COLUMNS))
    kinds = {name: object if name in _WORDS else int if name in _WHOLE else float for name in CLAIM_COLUMNS}
    table = table.astype(kinds)  # None is NaN
    for _, same in table.groupby(["experiment", "profile", "rule"]):
        table.loc[same.index, "holm"] = _holm(same)
    table.attrs |= {"untested": untested, "refused": refused}
    return table


def _row(folder: Path, pairs: Pairs, task: str, design: Design) -> dict[str, Any]:
    """Return what one row of `claim_table` says of the pairs, apart from whose they are."""
    margin, values, examples = design.margins[task], pairs.values(), pairs.examples(folder)
    alone = compare(*values, margin)
    both = None if examples is None else crossed(*examples[:2], margin, rows=examples[2])
    crosses = design.interval == "crossed" and both is not None and both.seeds == alone.seeds
    found = both if crosses else alone
    row = {name: getattr(found, name) for name in CLAIM_COLUMNS if hasattr(found, name)}
    row |= {"subnetwork": values[0].mean(), "control": values[1].mean(), "margin": margin.value}
    row |= {"interval": "crossed" if crosses else "seeds", "alone_low": alone.low, "alone_high": alone.high}
    row |= {"both_seeds": both.seeds if both else 0}
    row |= {"both_low": both.low, "both_high": both.high} if both else {}
    errors = values[1].mean() if margin.metric == "mse" else 100 - values[1].mean()
    share = margin.value if margin.metric == "mse" else 100 * margin.value / errors if errors else None
    row |= {"margin_share": share}
    dead = [own["dead_outputs"] for own, _ in pairs.rows if not pd.isna(own["dead_outputs"])]
    row |= {"dead_outputs": max(dead, default=None)}
    row |= {"capped": sum(_ended_by_cap(row) for pair in pairs.rows for row in pair)}
    if row["capped"]:
        return row | {"verdict": CAPPED} | dict.fromkeys(("p_noninferior", "p_inferior", "p_equivalent"))
    other = _in_errors(values, examples if crosses else None, margin, design.sensitivity)
    row |= _parts("sensitivity", other) if other else {}
    if examples is not None and examples[2] is None and both.seeds > 2:
        left = needed_most(*examples[:2], margin)
        unit = 100 if margin.metric == "accuracy" else 1
        whole, less = (
            crossed(*pair, margin) if crosses else compare(*(unit * x.mean(1) for x in pair), margin)
            for pair in (examples[:2], [np.delete(x, left, axis=1) for x in examples[:2]])
        )
        if whole.verdict == found.verdict:  # else seeds without examples made the difference
            row |= _parts("without_one", less)
    return row


def _parts(name: str, found: Comparison) -> dict[str, Any]:
    ends = {name: found.difference, f"{name}_low": found.low, f"{name}_high": found.high}
    return ends | {f"{name}_verdict": found.verdict}


def _in_errors(values: np.ndarray, examples: tuple | None, margin: Margin, other: Margin) -> Comparison | None:
    """Return the comparison of errors, wrong answers or squared, by another margin; None where one arm makes none."""
    wrong = (lambda x: 1.0 - x) if margin.metric == "accuracy" else (lambda x: x)
    if examples is not None:
        pair = [wrong(x.astype(float)) for x in examples[:2]]
        good = min(x.mean(1).min() for x in pair) > 0
        return crossed(*pair, other, rows=examples[2]) if good else None
    pair = 100 - values if margin.metric == "accuracy" else values
    return compare(*pair, other) if pair.min() > 0 else None


def _ended_by_cap(row: Row) -> bool:
    if pd.isna(row["capped"]):
        return (row["notebook"], row["profile"]) in CAPPED_BEFORE
    return bool(row["capped"])


def _holm(rows: pd.DataFrame) -> pd.Series:
    """Return the verdicts of an experiment's tasks with p values adjusted for their number (Holm 1979)."""
    tested, words = rows[rows["p_noninferior"].notna()], rows["verdict"].copy()
    words[tested.index] = "inconclusive"
    for word, column in (("non-inferior", "p_noninferior"), ("inferior", "p_inferior")):
        p = tested[column].sort_values()
        stays = p * np.arange(len(p), 0, -1) <= (1 - CONFIDENCE) / 2
        words[p.index[stays.cummin()]] = word  # up to the first that fails
    return words


def claim_verdicts(table: pd.DataFrame, by: str = "experiment", rule: str | None = None) -> dict[str, str]:
    """Return the verdict on "no loss on any task" for each value of a column of `claim_table`: an experiment, or a
    ``"profile"``. There is none on all: what smaller networks than the paper's lose says nothing of the paper's.

    Where the cap ended all, there is no verdict but `CAPPED`; where it ended some, the claim cannot be shown.

    Args:
        table: as `claim_table` gives it.
        by: the column.
        rule: the stopping rule; None is the one that counts, which stands first.
    """
    rule = rule or next(iter(table["rule"]), RULES[0])
    found = {}
    for name, rows in table[table["rule"] == rule].groupby(by, sort=False):
        words = set(rows["verdict"])
        ended = words == {CAPPED}
        found[name] = CAPPED if ended else intersection("inconclusive" if w == CAPPED else w for w in words)
    return found


def _sorted_out(records: pd.DataFrame, design: Design) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return records with a column ``evidence``, without those of the claim's seeds that do not count, and why not."""
    plain = records[records["profile"] != "quick"]
    refused, evidence = {}, {}
    for row in plain.drop_duplicates("file").to_dict("records"):
        if row["seed"] not in design.runs.get((row["notebook"], row["profile"]), ()):
            evidence[row["file"]] = "exploration"
        elif reason := _refusal(row):
            refused[row["file"]] = reason
        else:
            evidence[row["file"]] = "claim"
    for (notebook, profile), seeds in design.runs.items():
        same = plain[plain["notebook"].eq(notebook) & plain["profile"].eq(profile)]
        made = same[same["file"].map(evidence) == "claim"]
        if set(made["seed"]) != seeds:
            words = f"{made['seed'].nunique()} of {len(seeds)} declared seeds: they count once all are made"
            refused |= dict.fromkeys(made["file"], words)
    plain = plain[~plain["file"].isin(list(refused))]
    return plain.assign(evidence=plain["file"].map(evidence)), refused


def _refusal(row: Row) -> str:
    """Say why a run of the claim's seeds does not count; empty where it does."""
    configuration = json.loads(row["configuration"])
    if row["overrides"] != "{}":
        return f"parameters set by hand: {', '.join(json.loads(row['overrides']))}"
    if not is_clean(json.loads(row["versions"])):
        return "made from a changed or unknown work tree"
    if configuration.get("split_seed") != row["seed"]:
        return f"split_seed is {configuration.get('split_seed', 'not recorded')}, not the seed"
    return ""


def _pairs(
    records: pd.DataFrame, folder: Path, design: Design
) -> Iterator[tuple[tuple[str, str, str, str], str, dict[str, Pairs]]]:
    """Yield (experiment, profile, task, metric), the evidence, and the pairs of every rule: experiments with runs of
    the claim by these, the others by exploration.
    """
    known = records["metric"].isin(["accuracy", "mse"]) & records["experiment"].isin(published_table()["id"])
    records = records[known]
    stored = {name: (folder / name).with_suffix(".npz").exists() for name in records["file"].unique()}
    records = records.assign(stored=records["file"].map(stored))
    best = records.sort_values("stored", ascending=False, kind="stable")  # of two equal runs that with the examples
    claimed = set(best.loc[best["evidence"] == "claim", "experiment"])
    found = []
    for evidence in ("claim", "exploration"):
        part = best[best["evidence"] == evidence]
        shown = headline(part, each=("experiment", "profile"))  # never two configurations in one pair
        tasks = headline(records[records["evidence"] == evidence])
        tasks = tasks[["experiment", "profile", "task", "metric"]].drop_duplicates()
        for key in tasks.itertuples(index=False, name=None):
            if evidence == "claim" or key[0] not in claimed:
                found.append((key, evidence, {rule: _paired(shown, key, rule) for rule in design.rules}))
    order = {key[0]: None for key in headline(records)[["experiment"]].itertuples(index=False, name=None)}
    yield from sorted(found, key=lambda item: list(order).index(item[0][0]))


def _made_alike(control: Row, own: Row) -> bool:
    """Whether another experiment's control was trained as one of this experiment's own would be."""
    one, other = (json.loads(row["fixed"]) for row in (control, own))
    return all(one.get(name) == other.get(name) for name in ("numerics", "precision", "epochs", "split_seed"))


def pairs_of(folder: Path | str, design: Design, evidence: str) -> list[tuple[Any, str, dict[str, Pairs]]]:
    """Return key, evidence and pairs by rule of every task, as `claim_table` compares them, of one kind of evidence."""
    records, _ = _sorted_out(read_records(folder), design)
    return list(_pairs(records[records["evidence"] == evidence], Path(folder), design))


def _paired(shown: pd.DataFrame, key: Iterable[str], rule: str) -> Pairs:
    experiment, profile, task, _ = key
    ending = "" if rule == "authors" else f", {rule}"
    rows = shown[shown["profile"].eq(profile) & shown["task"].eq(task)]

    def seeds(whose: str | None, arm: str) -> dict[int, Row]:
        found = rows[rows["experiment"].eq(whose) & rows["arm"].eq(arm + ending)]
        return {row["seed"]: row for row in found.to_dict("records")}

    for own_arm, control_arm in ARMS.get(experiment, [PLAIN]):
        own = seeds(experiment, own_arm)
        lent = seeds(LENDERS.get(experiment), control_arm)
        lent = {seed: row for seed, row in lent.items() if seed in own and _made_alike(row, own[seed])}
        control = lent | seeds(experiment, control_arm)
        if shared := sorted(own.keys() & control.keys()):
            return Pairs([(own[seed], control[seed]) for seed in shared])
    return Pairs([])
