"""Which runs a table or a figure may average: those that differ in their seed and in nothing else.

A *pool* is the runs of one experiment, notebook, profile, configuration without the seed, and revision of the
numerics. Every table and figure over several runs takes its means from `over_seeds`, which refuses to mix pools, and
what is shown first from `headline`.
"""

import json
import logging
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from msnlib.lab.parameters import PROFILES

_log = logging.getLogger(__name__)

POOL = ("experiment", "notebook", "profile", "fixed")


class UnlikeRuns(ValueError):
    """A mean was asked over runs that differ in more than their seed; the message is one line that names them."""


def fixed(configuration: dict[str, Any], overrides: dict[str, Any], versions: dict[str, Any]) -> str:
    """Return, as JSON, what the runs of one pool share beside experiment, notebook and profile.

    An override counts also where the notebook did not record it. Records made before ``numerics`` was stored have none,
    and so are never pooled with later ones.
    """
    values = {name: value for name, value in (overrides | configuration).items() if name != "seed"}
    if values.get("split_seed") == configuration.get("seed") is not None and "split_seed" not in overrides:
        values["split_seed"] = "seed"  # each seed its own split
    if values.get("precision") in ("float32", "float64"):
        del values["precision"]  # of the weights, as in every record made before there was a choice
    if values.get("arms") == "auto":
        del values["arms"]  # likewise
    if versions.get("numerics") is not None:
        values["numerics"] = versions["numerics"]
    return json.dumps(values, sort_keys=True)


def pooled(records: pd.DataFrame) -> pd.DataFrame:
    """Return `msnlib.lab.records.read_records`' rows with a column ``fixed``, a result of a run that is there twice
    once. Where the two are not equal it is said in a warning of one line, which names the file that is left out.
    """
    marked, key = _marked(records), [*POOL, "seed", "task", "arm", "metric"]
    kept = marked.drop_duplicates(key)
    if len(kept) < len(marked):
        values = marked[[*key, "value", "file"]].merge(kept[[*key, "value"]], on=key, suffixes=("", " kept"))
        for file in values.loc[values["value"].ne(values["value kept"]), "file"].unique():
            _log.warning("%s left out: another record of the same run has other values", file)
    return kept


def _marked(records: pd.DataFrame) -> pd.DataFrame:
    texts = records[["configuration", "overrides", "versions"]]
    keys = {row: fixed(*map(json.loads, row)) for row in texts.drop_duplicates().itertuples(index=False, name=None)}
    return records.assign(fixed=[keys[row] for row in texts.itertuples(index=False, name=None)])


def over_seeds(records: pd.DataFrame, by: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Return mean, min, max, sd and seeds of a column for every group ``by``, each over the seeds of one pool.

    Args:
        records: as `msnlib.lab.records.read_records` gives them, better `pooled`, and perhaps with other names of arms.
        by: columns, in order; groups come in the order of the rows.
        value: the column.

    Raises:
        UnlikeRuns: a group has runs of several pools, or several results of one run (or one run twice).
    """
    shown = records if "fixed" in records else _marked(records)
    by = list(by)
    for name, rows in shown.groupby(by, sort=False):
        _check_alike(rows, ", ".join(f"{column} {part}" for column, part in zip(by, name, strict=True)))
    groups = shown.groupby(by, sort=False)[value]
    return groups.agg(mean="mean", min="min", max="max", sd="std", seeds="count")


def _check_alike(rows: pd.DataFrame, group: str) -> None:
    for column in POOL:
        found = rows[column].unique()
        if len(found) > 1:
            words = " and ".join(map(str, found[:2])) if column != "fixed" else _difference(*found[:2])
            raise UnlikeRuns(f"{group}: a mean would mix runs of {column.replace('fixed', 'configurations')} {words}")
    if rows["seed"].duplicated().any():
        raise UnlikeRuns(f"{group}: a mean would mix several results of one run; group by task, arm and metric too")


def _difference(one: str, other: str) -> str:
    """Return the first parameter in which two configurations differ, with both values."""
    a, b = json.loads(one), json.loads(other)
    name = next(name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name))
    return " and ".join(f"{name}={values.get(name, 'not recorded')}" for values in (a, b))


def headline(records: pd.DataFrame, each: Sequence[str] = ("experiment",)) -> pd.DataFrame:
    """Return the records to show first: of every experiment one pool of its largest profile, no parameters set by hand.

    Of several pools (other notebooks, older defaults, an earlier revision of the numerics) that of the most seeds
    counts, of equally many the latest revision. Experiments are in natural order: E2 before E10.

    Args:
        records: as `msnlib.lab.records.read_records` gives them.
        each: with ``("experiment", "profile")`` a pool of every profile, not of the largest alone.
    """
    shown = pooled(records[records["overrides"] == "{}"])
    if shown.empty:
        return shown
    pools = shown.groupby(list(POOL), sort=False)["seed"].nunique().reset_index()
    pools["size"] = -pools["profile"].map(rank)
    pools["numerics"] = [json.loads(text).get("numerics", 0) for text in pools["fixed"]]
    pools = pools.sort_values(["size", "seed", "numerics"], ascending=False, kind="stable")
    chosen = pd.MultiIndex.from_frame(pools.drop_duplicates(list(each))[list(POOL)])
    found = shown[pd.MultiIndex.from_frame(shown[list(POOL)]).isin(chosen)]
    return found.sort_values("experiment", key=lambda ids: ids.map(natural), kind="stable")


def rank(profile: str) -> int:
    """Return a key that puts the largest profile first."""
    return PROFILES.index(profile) if profile in PROFILES else len(PROFILES)


def natural(experiment: str) -> tuple[tuple[int, int | str], ...]:
    """Return a key that puts E2 before E10."""
    parts = re.findall(r"\d+|\D+", experiment)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts)
