"""The table of results: ours over seeds, beside what the paper's authors published."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from msnlib.files import write_text
from msnlib.lab.pooling import POOL, headline, natural, over_seeds, pooled, rank
from msnlib.lab.published import repeated_value
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
    """Return one row per pool of runs (`msnlib.lab.pooling`), task, arm and metric of `read_records`' ``records``.

    ``settings`` names the parameters that were set on the command line or differ between a notebook's runs. Rows are
    in a fixed order: profile (paper first), experiment, notebook, settings, and then as the notebook recorded them.
    """
    shown = pooled(records)
    if shown.empty:
        return pd.DataFrame(columns=list(REPORT_COLUMNS))
    table = over_seeds(shown, [*POOL, "task", "arm", "metric"]).reset_index()
    group = ["profile", "experiment", "notebook"]
    overridden = shown.groupby([*group, "fixed"])["overrides"].agg(lambda texts: set().union(*map(json.loads, texts)))
    others = table.groupby(group)["fixed"].agg(lambda texts: list(map(json.loads, dict.fromkeys(texts))))
    keys = list(table[[*group, "fixed"]].itertuples(index=False, name=None))
    named = {key: _settings(json.loads(key[3]), others[key[:3]], overridden[key]) for key in dict.fromkeys(keys)}
    table["settings"] = [named[key] for key in keys]
    ours = table[["experiment", "task", "arm", "metric", "profile"]].itertuples(index=False)
    table["published"] = [None if row.profile == "quick" else repeated_value(*row[:4]) for row in ours]
    table["difference"] = table["mean"] - table["published"].astype(float)
    order = {"profile": rank, "experiment": natural}
    keyed = table.assign(**{name: table[name].map(key) for name, key in order.items()})
    place = keyed.sort_values(["profile", "experiment", "notebook", "settings"], kind="stable").index
    numbers = {"mean": float, "min": float, "max": float, "sd": float, "published": float, "difference": float}
    return table.loc[place, list(REPORT_COLUMNS)].reset_index(drop=True).astype(numbers)


def _settings(configuration: dict, others: Sequence[dict], overridden: set[str]) -> str:
    """Return the values of ``configuration`` that need naming: overridden, or not the same in all ``others``."""
    missing = object()
    named = [
        f"{name}={value}"
        for name, value in sorted(configuration.items())
        if name in overridden or any(other.get(name, missing) != value for other in others)
    ]
    return " ".join(named)


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
    """Return a difference of `claim_table` with its sign: points with two decimals, per cent with one.

    A value read from claim.csv, which has fewer digits, gives the same text as the one computed.
    """
    return "" if pd.isna(value) else format(float(f"{value:.6g}"), "+z.2f" if metric == "accuracy" else "+z.1f")


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


def paired(records: pd.DataFrame, rule: str = "", variant: str = "") -> pd.DataFrame:
    """Return how far the multitask arm is from each control of the same run, over the runs of different seeds.

    Columns: experiment, profile, task, control, mean, min, max, seeds, and digits, the decimals worth showing.
    Positive differences are better than the control: points of accuracy, or a squared error that is lower.

    Args:
        records: as `read_records` gives them; of each experiment and profile the pool that `headline` shows.
        rule: the stopping rule; "" is the first, as published, "converged" the other.
        variant: of the arms, such as "scaled" for "multitask scaled" against "dedicated scaled".
    """
    ending = (f" {variant}" if variant else "") + (f", {rule}" if rule else "")
    shown = headline(records[records["metric"].isin(["accuracy", "mse"])], each=("experiment", "profile"))
    wide = shown.pivot(index=[*POOL, "seed", "task", "metric"], columns="arm", values="value").reset_index()
    columns = ["experiment", "profile", "task", "control", "mean", "min", "max", "seeds", "digits"]
    parts = [pd.DataFrame(columns=columns)]
    for control in CONTROL_ARMS:
        if not {f"multitask{ending}", f"{control}{ending}"} <= set(wide.columns):
            continue
        gap = wide[f"multitask{ending}"] - wide[f"{control}{ending}"]
        found = wide.assign(gap=gap.where(wide["metric"] != "mse", -gap)).dropna(subset=["gap"])
        part = over_seeds(found, ["experiment", "profile", "task", "metric"], "gap").reset_index()
        digits = part["metric"].map({"mse": 4, "accuracy": 2})
        parts.append(part.assign(control=control, digits=digits)[columns])
    table = pd.concat(parts[1:] or parts)
    order = {"experiment": natural, "profile": rank}
    keyed = table.assign(**{name: table[name].map(key) for name, key in order.items()}).reset_index(drop=True)
    place = keyed.sort_values(["experiment", "profile", "task"], kind="stable").index
    return table.iloc[place].reset_index(drop=True)


def write_report(out: Path | str) -> str:
    """Write ``table.md`` and ``records.csv`` of the records under ``out``, and return the table.

    Raises `EmptyReport` when there are no records.
    """
    out = Path(out)
    records = read_records(out)
    if records.empty:
        raise EmptyReport(f"no records in {out}; 'msn run --out {out}' makes them")
    text = format_table(report_table(records))
    write_text(out / "table.md", f"# Results\n\n{text}")
    write_text(out / "records.csv", records.to_csv(index=False))
    return text
