"""What is published from records: tables, figures and the answer to the claim, in files and in the README."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from msnlib.lab.claim import claim_table, claim_verdicts, read_margins
from msnlib.lab.published import published_table, published_value
from msnlib.lab.records import read_records
from msnlib.lab.report import (
    EmptyReport,
    format_difference,
    format_value,
    headline,
    markdown,
    natural,
    rank,
    report_table,
)

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
    lines.sort(key=lambda line: natural(line[0]))
    header = ["", "task", "profile", "published: each alone", "published: one network", *_README_ARMS.values(), "seeds"]
    return markdown(header, lines, first_number=3)


def claim_section(table: pd.DataFrame) -> str:
    """Return the README's answer as Markdown: `claim_table`'s rows, a sentence for each experiment and for all of one
    profile, and what was not tested.
    """
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
    for profile in sorted(sizes, key=rank):
        here = table.loc[table["profile"] == profile, "experiment"]
        answers.append(_answer(f"All of it {SIZES[profile]}", sizes[profile], {name: verdicts[name] for name in here}))
    untested = pd.DataFrame(table.attrs["untested"], columns=["experiment", "task"]).groupby("experiment", sort=False)
    if len(untested):
        named = [f"{name} ({', '.join(rows['task'])})" for name, rows in untested]
        answers.append(f"- Not tested, without a margin or a control: {', '.join(named)}.")
    return markdown(header, lines, first_number=3) + "\n\n" + "\n".join(answers)


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
    `msnlib.lab.parameters.ParameterError` for margins that are none.
    """
    from msnlib.lab.figures import forest, results, speed  # here, so that a table does not wait for torch

    records = read_records(out)
    if not (records["profile"] != "quick").any():
        raise EmptyReport(f"{readme}: no paper or laptop run in {out} to fill its table from")
    text = _between(readme, readme.read_text(encoding="utf-8"), _README_MARKS, readme_table(records))
    margins = readme.parent / "sweeps" / "claim.toml"
    if margins.is_file():
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
