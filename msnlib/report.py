"""The table of results: ours over seeds, beside what the paper's authors published."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from msnlib.parameters import PROFILES
from msnlib.published import published_table, published_value
from msnlib.records import read_records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    rows.sort(key=lambda row: (_rank(row["profile"]), _natural(row["experiment"]), row["notebook"], row["settings"]))
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


def _rank(profile: str) -> int:
    return PROFILES.index(profile) if profile in PROFILES else len(PROFILES)


def _natural(experiment: str) -> list[tuple[int, int | str]]:
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
    """Return a difference of `msnlib.claim.claim_table` with its sign: points with two decimals, per cent with one."""
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
        sections.append(f"## {profile} profile\n\n{_markdown(header, cells, header.index('metric') + 1)}")
    return "\n\n".join([*sections, _NOTE]) + "\n"


def _markdown(header: list[str], lines: list[list[str]], first_number: int) -> str:
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]

    def row(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if place >= first_number else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [("-" * (width - 1) + ":") if i >= first_number else "-" * width for i, width in enumerate(widths)]
    return "\n".join(map(row, [header, rule, *lines]))


_README_ARMS = {
    "dedicated": "each alone",
    "multitask": "one network",
    "dedicated, converged": "each alone, converged",
    "multitask, converged": "one network, converged",
}
_README_MARKS = ("<!-- results: written by `make report` from the records in reports/ -->", "<!-- end of results -->")
_CLAIM_MARKS = (
    "<!-- claim: written by `make report` from the records in reports/ and sweeps/claim.toml -->",
    "<!-- end of claim -->",
)
SIZES = {"paper": "at the published sizes", "laptop": "in smaller networks, on fewer examples"}
_ANSWERS = {  # verdict -> whether the claim holds, and the word for its parts
    "non-inferior": ("it holds", "shown for"),
    "inferior": ("it does not hold", "refuted for"),
    "inconclusive": ("undecided", "open for"),
}


def headline(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records to show first: of every experiment its largest profile, no parameters set by hand.

    Of several notebooks or configurations (older defaults), that of the most seeds counts, so that what is shown can be
    averaged. Experiments are in natural order: E2 before E10.
    """
    plain = records[records["overrides"] == "{}"]
    ranks = plain["profile"].map(_rank)
    largest = plain[ranks == ranks.groupby(plain["experiment"]).transform("min")]
    fixed = list(map(_without_seed, largest["configuration"], largest["overrides"]))
    keys = pd.MultiIndex.from_arrays([largest["experiment"], largest["notebook"], fixed])
    seeds = largest["seed"].groupby(keys, sort=False).nunique()
    shown = largest[keys.isin(seeds.groupby(level=0, sort=False).idxmax())]
    return shown.sort_values("experiment", key=lambda ids: ids.map(_natural), kind="stable")


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
    rows.sort(key=lambda row: (_natural(row["experiment"]), _rank(row["profile"]), row["task"]))
    return pd.DataFrame(rows, columns=columns)


def readme_table(records: pd.DataFrame) -> str:
    """Return the README's table as Markdown: a line per published experiment and task, a column per arm.

    Cells are the mean over seeds with the range in brackets, where there are several, of `headline`'s runs.
    """
    published_ids = set(published_table()["id"])
    shown = headline(records)
    table = report_table(shown[shown["experiment"].isin(published_ids) & (shown["profile"] != "quick")])
    lines = []
    for (experiment, task, metric), rows in table.groupby(["experiment", "task", "metric"], sort=False):
        arms = rows.set_index("arm")
        if not set(_README_ARMS) & set(arms.index) or metric not in ("accuracy", "mse"):
            continue
        published = [published_value(experiment, task, arm, metric) for arm in ("dedicated", "multitask")]
        line = [experiment, f"{task} ({'%' if metric == 'accuracy' else metric})", rows["profile"].iloc[0]]
        line += ["" if value is None else format_value(metric, value) for value in published]
        for arm in _README_ARMS:
            if arm not in arms.index:
                line.append("")
                continue
            mean, low, high = (format_value(metric, arms.loc[arm, name]) for name in ("mean", "min", "max"))
            line.append(mean if arms.loc[arm, "seeds"] == 1 else f"{mean} ({low}–{high})")
        lines.append([*line, str(int(rows["seeds"].max()))])
    lines.sort(key=lambda line: _natural(line[0]))
    header = ["", "task", "profile", "published: each alone", "published: one network", *_README_ARMS.values(), "seeds"]
    return _markdown(header, lines, first_number=3)


def claim_section(table: pd.DataFrame) -> str:
    """Return the README's answer as Markdown: `msnlib.claim.claim_table`'s rows, a sentence for each experiment and for
    all of one profile, and what was not tested.
    """
    from msnlib.claim import claim_verdicts  # here, so that other tables do not wait for statsmodels

    if table.empty:
        return "No run yet has a task with a margin in both networks."
    lines = [
        [
            row.experiment,
            f"{row.task} ({'points' if row.metric == 'accuracy' else '% of the error'})",
            row.profile,
            str(row.seeds),
            format_difference(row.metric, row.difference),
            "" if pd.isna(row.low) else " to ".join(format_difference(row.metric, end) for end in (row.low, row.high)),
            f"{row.margin:g}",
            row.verdict,
        ]
        for row in table.itertuples(index=False)
    ]
    header = ["", "task", "profile", "seeds", "difference", "90 % interval", "margin", "verdict"]
    verdicts = claim_verdicts(table)
    answers = [
        _answer(name, verdicts[name], dict(zip(rows["task"], rows["verdict"], strict=True)))
        for name, rows in table.groupby("experiment", sort=False)
    ]
    sizes = claim_verdicts(table, "profile")
    for profile in sorted(sizes, key=_rank):
        here = table.loc[table["profile"] == profile, "experiment"]
        answers.append(_answer(f"All of it {SIZES[profile]}", sizes[profile], {name: verdicts[name] for name in here}))
    untested = pd.DataFrame(table.attrs["untested"], columns=["experiment", "task"]).groupby("experiment", sort=False)
    if len(untested):
        named = [f"{name} ({', '.join(rows['task'])})" for name, rows in untested]
        answers.append(f"- Not tested, without a margin or a control: {', '.join(named)}.")
    return _markdown(header, lines, first_number=3) + "\n\n" + "\n".join(answers)


def _answer(subject: str, verdict: str, parts: dict[str, str]) -> str:
    """Return a sentence on the claim, from the verdict on a subject and those on its parts."""
    named = [
        f"{_ANSWERS[word][1]} {', '.join(part for part, found in parts.items() if found == word)}"
        for word in _ANSWERS
        if word in parts.values()
    ]
    sentence = "; ".join(named)
    return f"- **{subject}: {_ANSWERS[verdict][0]}.** {sentence[0].upper()}{sentence[1:]}."


def publish(out: Path, readme: Path) -> None:
    """Draw ``results.png`` and ``speed.png`` into ``out`` and put `readme_table` between its two marks in a README.

    Where ``sweeps/claim.toml`` stands beside the README, also write ``claim.csv`` and ``claim.png``, and put
    `claim_section` between two other marks.

    Raises `EmptyReport` when there are no records but quick ones, or the README lacks the marks;
    `msnlib.parameters.ParameterError` for margins that are none.
    """
    from msnlib.plots import forest, results, speed  # here, so that a table does not wait for torch

    records = read_records(out)
    if not (records["profile"] != "quick").any():
        raise EmptyReport(f"{readme}: no paper or laptop run in {out} to fill its table from")
    text = _between(readme, readme.read_text(encoding="utf-8"), _README_MARKS, readme_table(records))
    margins = readme.parent / "sweeps" / "claim.toml"
    if margins.is_file():
        from msnlib.claim import claim_table, read_margins

        claim = claim_table(out, read_margins(margins))
        text = _between(readme, text, _CLAIM_MARKS, claim_section(claim))
        claim.to_csv(out / "claim.csv", index=False, float_format="%.6g")
        if not claim.empty:
            _save(forest(claim), out / "claim.png")
    readme.write_text(text, encoding="utf-8")
    _save(results(records), out / "results.png")
    if (records["experiment"] == "performance").any():
        _save(speed(records), out / "speed.png")


def _between(readme: Path, text: str, marks: tuple[str, str], content: str) -> str:
    """Return ``text`` with ``content`` between the two marks."""
    start, end = (text.find(mark) for mark in marks)
    if not -1 < start < end:
        raise EmptyReport(f"{readme}: no marks {marks[0]!r} and {marks[1]!r} to write between")
    return f"{text[: start + len(marks[0])]}\n\n{content}\n\n{text[end:]}"


def _save(figure: "Figure", path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})  # so that the same records give the same bytes


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
