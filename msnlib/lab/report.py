"""The table of results: ours over seeds, beside what the paper's authors published."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from msnlib.lab.parameters import PROFILES
from msnlib.lab.published import published_value
from msnlib.lab.records import read_records

REPORT_COLUMNS = (
    *("profile", "experiment", "notebook", "settings", "task", "arm", "metric"),
    *("mean", "min", "max", "sd", "seeds", "published", "difference"),
)
CONTROL_ARMS = ("dedicated", "pruned", "small", "random")
_NOTE = (
    '"published" is from the outputs the paper\'s authors released, accuracies recomputed; each is one run. '
    "The quick profile uses other data, so it has no published figures. sd is the sample standard deviation over seeds."
)


class EmptyReport(ValueError):
    """There are no records to report on."""


def report_table(records: pd.DataFrame) -> pd.DataFrame:
    """Return one row per profile, experiment, notebook, settings, task, arm and metric of `read_records`' ``records``.

    ``settings`` names the parameters that were set on the command line or differ between a notebook's runs, so that
    runs of different configurations are never averaged. Rows are in a fixed order: profile (paper first), experiment,
    notebook, settings, and then as the notebook recorded them.
    """
    fixed = map(_without_seed, records["configuration"], records["overrides"])
    results = records.assign(fixed=list(fixed)).drop_duplicates(
        ["profile", "experiment", "notebook", "fixed", "seed", "task", "arm", "metric"]
    )
    rows = []
    for (profile, experiment, notebook), runs in results.groupby(["profile", "experiment", "notebook"], sort=False):
        configurations = [json.loads(text) for text in runs["fixed"].unique()]
        for fixed, same in runs.groupby("fixed", sort=False):
            overridden = set().union(*(json.loads(text) for text in same["overrides"]))
            settings = _settings(json.loads(fixed), configurations, overridden)
            for (task, arm, metric), found in same.groupby(["task", "arm", "metric"], sort=False):
                values = found["value"]
                published = None if profile == "quick" else published_value(experiment, task, arm, metric)
                rows.append(
                    {
                        "profile": profile,
                        "experiment": experiment,
                        "notebook": notebook,
                        "settings": settings,
                        "task": task,
                        "arm": arm,
                        "metric": metric,
                        "mean": values.mean(),
                        "min": values.min(),
                        "max": values.max(),
                        "sd": values.std(ddof=1),
                        "seeds": len(values),
                        "published": published,
                        "difference": None if published is None else values.mean() - published,
                    }
                )
    rows.sort(key=lambda row: (rank(row["profile"]), natural(row["experiment"]), row["notebook"], row["settings"]))
    numbers = {"mean": float, "min": float, "max": float, "sd": float, "published": float, "difference": float}
    return pd.DataFrame(rows, columns=list(REPORT_COLUMNS)).astype(numbers)


def _without_seed(configuration: str, overrides: str) -> str:
    """Return, as JSON, what the runs of one row share; an override counts also where the notebook did not record it."""
    values = json.loads(overrides) | json.loads(configuration)
    return json.dumps({name: value for name, value in values.items() if name != "seed"}, sort_keys=True)


def _settings(configuration: dict, others: Sequence[dict], overridden: set[str]) -> str:
    """Return the values of ``configuration`` that need naming: overridden, or not the same in all ``others``."""
    missing = object()
    named = [
        f"{name}={value}"
        for name, value in sorted(configuration.items())
        if name in overridden or any(other.get(name, missing) != value for other in others)
    ]
    return " ".join(named)


def rank(profile: str) -> int:
    return PROFILES.index(profile) if profile in PROFILES else len(PROFILES)


def natural(experiment: str) -> list[tuple[int, int | str]]:
    """Return a key that puts E2 before E10."""
    parts = re.findall(r"\d+|\D+", experiment)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def format_value(metric: str, value: float, signed: bool = False) -> str:
    """Return ``value`` as the table shows it: accuracies with two decimals, squared errors with four; NaN is empty."""
    if pd.isna(value):
        return ""
    sign = "+" if signed else ""
    words = metric.split("_")
    if "accuracy" in words:
        return format(value, f"{sign}.2f")
    return format(value, f"{sign}.4f" if "mse" in words else f"{sign}.6g")


def format_difference(metric: str, value: float) -> str:
    """Return a difference of `claim_table` with its sign: points with two decimals, per cent with one."""
    return "" if pd.isna(value) else format(value, "+z.2f" if metric == "accuracy" else "+z.1f")


def format_table(table: pd.DataFrame) -> str:
    """Return `report_table`'s rows as Markdown that is also readable as plain text, one section per profile."""
    sections = []
    for profile, rows in table.groupby("profile", sort=False):
        cells = [
            [
                row.experiment,
                row.notebook,
                row.settings.replace("|", "\\|"),
                row.task,
                row.arm,
                "accuracy (%)" if row.metric == "accuracy" else row.metric,
                format_value(row.metric, row.mean),
                f"{format_value(row.metric, row.min)} to {format_value(row.metric, row.max)}",
                format_value(row.metric, row.sd),
                str(row.seeds),
                format_value(row.metric, row.published),
                format_value(row.metric, row.difference, signed=True),
            ]
            for row in rows.itertuples(index=False)
        ]
        header = ["experiment", "notebook", "settings", "task", "arm", "metric"]
        header += ["ours (mean)", "min to max", "sd", "seeds", "published", "difference"]
        if not rows["settings"].any():
            header, cells = header[:2] + header[3:], [line[:2] + line[3:] for line in cells]
        sections.append(f"## {profile} profile\n\n{markdown(header, cells, header.index('metric') + 1)}")
    return "\n\n".join([*sections, _NOTE]) + "\n"


def markdown(header: list[str], lines: list[list[str]], first_number: int) -> str:
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]

    def row(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if place >= first_number else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [("-" * (width - 1) + ":") if i >= first_number else "-" * width for i, width in enumerate(widths)]
    return "\n".join(map(row, [header, rule, *lines]))


def headline(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records to show first: of every experiment its largest profile, no parameters set by hand.

    Of several notebooks or configurations (older defaults), that of the most seeds counts, so that what is shown can be
    averaged. Experiments are in natural order: E2 before E10.
    """
    plain = records[records["overrides"] == "{}"]
    ranks = plain["profile"].map(rank)
    largest = plain[ranks == ranks.groupby(plain["experiment"]).transform("min")]
    fixed = list(map(_without_seed, largest["configuration"], largest["overrides"]))
    keys = pd.MultiIndex.from_arrays([largest["experiment"], largest["notebook"], fixed])
    # By arrays, not by the index of tuples, whose groups would be one level deep: each configuration its own winner.
    seeds = largest["seed"].groupby([keys.get_level_values(k) for k in range(3)], sort=False).nunique()
    shown = largest[keys.isin(seeds.groupby(level=0, sort=False).idxmax())]
    return shown.sort_values("experiment", key=lambda ids: ids.map(natural), kind="stable")


def paired(records: pd.DataFrame, rule: str = "", variant: str = "") -> pd.DataFrame:
    """Return how far the multitask arm is from each control of the same run, over the runs of different seeds.

    Columns: experiment, profile, task, control, mean, min, max, seeds, and digits, the decimals worth showing.
    Positive differences are better than the control: points of accuracy, or a squared error that is lower.

    Args:
        records: as `read_records` gives them.
        rule: the stopping rule; "" is the first, as published, "converged" the other.
        variant: of the arms, such as "scaled" for "multitask scaled" against "dedicated scaled".
    """
    ending = (f" {variant}" if variant else "") + (f", {rule}" if rule else "")
    values = records[records["metric"].isin(["accuracy", "mse"])].drop_duplicates(
        ["experiment", "notebook", "configuration", "task", "arm", "metric"]
    )
    wide = values.pivot(
        index=["experiment", "profile", "notebook", "configuration", "seed", "task", "metric"],
        columns="arm",
        values="value",
    ).reset_index()
    rows = []
    for control in CONTROL_ARMS:
        if not {f"multitask{ending}", f"{control}{ending}"} <= set(wide.columns):
            continue
        gap = wide[f"multitask{ending}"] - wide[f"{control}{ending}"]
        found = wide.assign(gap=gap.where(wide["metric"] != "mse", -gap)).dropna(subset=["gap"])
        for (experiment, profile, task, metric), same in found.groupby(["experiment", "profile", "task", "metric"]):
            numbers = {"mean": same["gap"].mean(), "min": same["gap"].min(), "max": same["gap"].max()}
            row = {"experiment": experiment, "profile": profile, "task": task, "control": control, **numbers}
            rows.append(row | {"seeds": same["seed"].nunique(), "digits": 4 if metric == "mse" else 2})
    columns = ["experiment", "profile", "task", "control", "mean", "min", "max", "seeds", "digits"]
    rows.sort(key=lambda row: (natural(row["experiment"]), rank(row["profile"]), row["task"]))
    return pd.DataFrame(rows, columns=columns)


def write_report(out: Path | str) -> str:
    """Write ``table.md`` and ``records.csv`` of the records under ``out``, and return the table.

    Raises `EmptyReport` when there are no records.
    """
    out = Path(out)
    records = read_records(out)
    if records.empty:
        raise EmptyReport(f"no records in {out}; 'msn run --out {out}' makes them")
    text = format_table(report_table(records))
    (out / "table.md").write_text(f"# Results\n\n{text}", encoding="utf-8")
    records.to_csv(out / "records.csv", index=False)
    return text
