"""What is published from records: tables, figures and the answer to the claim, in files and in the README."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from msnlib.lab.claim import CAPPED, claim_table, claim_verdicts
from msnlib.lab.design import read_design
from msnlib.lab.figures import forest, results, speed
from msnlib.lab.pooling import headline, natural, rank
from msnlib.lab.power import power_table
from msnlib.lab.published import published_table, published_value
from msnlib.lab.records import read_records
from msnlib.lab.report import EmptyReport, format_difference, format_value, markdown, report_table

_README_ARMS = {
    "dedicated": "each alone",
    "multitask": "one network",
    "dedicated, converged": "each alone, converged",
    "multitask, converged": "one network, converged",
}
# Further lines of an experiment's tasks, whose arms are called otherwise: what is said of them, which tasks (None:
# all), and the arms that stand for those of the plain line, which published figures belong to.
_LINES = {
    "E10": [("trained discerner", None, {"multitask": "discerner"}), ("prototypes", None, {})],
    "E4": [("", None, {}), ("control in batches of 512", "imdb", {"dedicated": "dedicated 512"})],
}


_README_MARKS = ("<!-- results: written by `make report` from the records in reports/ -->", "<!-- end of results -->")
_CLAIM_MARKS = (
    "<!-- claim: written by `make report` from the records in reports/ and sweeps/claim.toml -->",
    "<!-- end of claim -->",
)
SIZES = {"paper": "at the published sizes", "laptop": "in smaller networks, on fewer examples"}
_RULE_WORDS = {"converged": "converged", "authors": "the authors' rule"}
_ANSWERS = {  # verdict -> whether the claim holds, and the word for its parts
    "non-inferior": ("it holds", "shown for"),
    "inferior": ("it does not hold", "refuted for"),
    "inconclusive": ("undecided", "open for"),
    CAPPED: ("no verdict", "ended by the cap on epochs:"),
}


def readme_table(records: pd.DataFrame) -> str:
    """Return the README's table as Markdown: a line per published experiment and task, a column per arm.

    Cells are the mean over seeds with the range in brackets, where there are several, of `headline`'s runs. A star
    marks a published figure outside the range of the seeds beside it, where these have the published sizes.
    """
    published_ids = set(published_table()["id"])
    shown = headline(records)
    table = report_table(shown[shown["experiment"].isin(published_ids) & (shown["profile"] != "quick")])
    lines = []
    for (experiment, task, metric), rows in table.groupby(["experiment", "task", "metric"], sort=False):
        arms = rows.set_index("arm")
        if not set(_README_ARMS) & set(arms.index) or metric not in ("accuracy", "mse"):
            continue
        for said, only, renamed in _LINES.get(experiment, [("", None, {})]):
            if only in (None, task) and set(renamed.values()) <= set(arms.index):
                lines.append(_result_line(experiment, task, metric, arms, said, renamed))
    lines.sort(key=lambda line: natural(line[0]))
    header = ["", "task", "profile", "published: each alone", "published: one network", *_README_ARMS.values(), "seeds"]
    return markdown(header, lines, first_number=3)


def _result_line(
    experiment: str, task: str, metric: str, arms: pd.DataFrame, said: str, renamed: dict[str, str]
) -> list[str]:
    """Return a line of `readme_table`; ``arms`` are the rows of one experiment and task by arm."""
    words = f"{task} ({'%' if metric == 'accuracy' else metric}{', ' + said if said else ''})"
    line, cells = [experiment, words, arms["profile"].iloc[0]], []
    for arm in _README_ARMS:
        plain, _, rule = arm.partition(", ")
        ours = renamed.get(plain, plain) + (f", {rule}" if rule else "")
        row = arms.loc[ours] if ours in arms.index else None
        if not rule:
            line.append(_published_cell(experiment, task, ours, metric, row))
        if row is None:
            cells.append("")
            continue
        mean, low, high = (format_value(metric, row[name]) for name in ("mean", "min", "max"))
        cells.append(mean if row["seeds"] == 1 else f"{mean} ({low}–{high})")
    return [*line, *cells, str(int(arms["seeds"].max()))]


def _published_cell(experiment: str, task: str, arm: str, metric: str, ours: pd.Series | None) -> str:
    value = published_value(experiment, task, arm, metric)
    if value is None:
        return ""
    alike = ours is not None and ours["profile"] == "paper" and ours["seeds"] > 1
    outside = alike and not ours["min"] <= value <= ours["max"]
    return format_value(metric, value) + ("*" if outside else "")


def claim_section(table: pd.DataFrame) -> str:
    """Return the README's answer as Markdown: `claim_table`'s rows with both stopping rules side by side, a sentence
    for each experiment and for all of one profile, what a verdict rests on, and what was not tested.
    """
    if table.empty:
        return "No run yet has a task with a margin in both networks."
    rules = list(dict.fromkeys(table["rule"]))  # the one that counts first
    dead = bool(table["dead_outputs"].notna().any())
    lines = []
    for (experiment, profile, task), rows in table.groupby(["experiment", "profile", "task"], sort=False):
        by_rule = {row.rule: row for row in rows.itertuples(index=False)}
        row = rows.iloc[0]
        unit = "points" if row["metric"] == "accuracy" else "% of the error"
        line = [experiment, f"{task} ({unit})", f"{profile}, {row['evidence']}", str(row["seeds"])]
        line.append(f"{row['margin']:g}" + (f" ({row['margin_share']:.0f} %)" if row["metric"] == "accuracy" else ""))
        for rule in rules:
            line += [_with_interval(by_rule[rule]), by_rule[rule].verdict] if rule in by_rule else ["", ""]
        line.append(row["sensitivity_verdict"] if isinstance(row["sensitivity_verdict"], str) else "")
        lines.append(line + ([f"{row['dead_outputs']:.0f}"] if dead and pd.notna(row["dead_outputs"]) else [""] * dead))
    header = ["", "task", "runs", "seeds", "margin (of the control's errors)"]
    for rule in rules:
        header += [_RULE_WORDS[rule], "verdict"]
    header += ["a tenth more errors", *["outputs without a weight"] * dead]
    return markdown(header, lines, first_number=3) + "\n\n" + "\n".join([*_answers(table), *_remarks(table)])


def _with_interval(row: Any, part: str = "") -> str:
    """Return a row's difference with its interval in brackets; ``part`` is a prefix of the columns' names."""
    names = (part or "difference", f"{part}_low" if part else "low", f"{part}_high" if part else "high")
    difference, low, high = (format_difference(row.metric, getattr(row, name)) for name in names)
    return f"{difference} ({low} to {high})" if low else difference


def _answers(table: pd.DataFrame) -> list[str]:
    """Return a sentence on the claim for each experiment, and for all experiments of one profile and evidence."""
    primary, verdicts = table[table["rule"] == table["rule"].iloc[0]], claim_verdicts(table)
    answers = []
    for name, rows in primary.groupby("experiment", sort=False):
        subject = name if rows["evidence"].iloc[0] == "claim" else f"{name} (exploration)"
        answers.append(_answer(subject, verdicts[name], dict(zip(rows["task"], rows["verdict"], strict=True))))
    for profile in sorted(primary["profile"].unique(), key=rank):
        for evidence in ("claim", "exploration"):
            here = primary[primary["profile"].eq(profile) & primary["evidence"].eq(evidence)]
            if len(here):
                subject = f"All of it {SIZES[profile]}" + (" (exploration)" if evidence == "exploration" else "")
                word = claim_verdicts(here, "profile")[profile]
                answers.append(_answer(subject, word, {name: verdicts[name] for name in here["experiment"]}))
    return answers


def _answer(subject: str, verdict: str, parts: dict[str, str]) -> str:
    """Return a sentence on the claim, from the verdict on a subject and those on its parts."""
    named = [
        f"{_ANSWERS[word][1]} {', '.join(part for part, found in parts.items() if found == word)}"
        for word in _ANSWERS
        if word in parts.values()
    ]
    sentence = "; ".join(named)
    return f"- **{subject}: {_ANSWERS[verdict][0]}.** {sentence[0].upper()}{sentence[1:]}."


def _remarks(table: pd.DataFrame) -> list[str]:
    """Return a sentence for each verdict that needs one beside it: a loss that is shown, a sign that the stopping rule
    decides, a verdict that rests on a single test example, one that many tasks take away; and what was not counted.
    """
    remarks = []
    for (experiment, task), rows in table.groupby(["experiment", "task"], sort=False):
        row, other = [*rows.itertuples(index=False), None][:2]
        if row.verdict == CAPPED:
            continue
        if row.high < 0 and row.verdict == "non-inferior":
            remarks.append(f"- {experiment} {task}: within the margin, but a loss is shown, {_with_interval(row)}.")
        if other is not None and other.verdict != CAPPED and (row.high < 0 < other.low or other.high < 0 < row.low):
            words = (
                f"{_with_interval(row)} {_RULE_WORDS[row.rule]}, {_with_interval(other)} by {_RULE_WORDS[other.rule]}"
            )
            remarks.append(f"- {experiment} {task}: the stopping rule decides the sign, {words}.")
        if isinstance(row.without_one_verdict, str) and row.without_one_verdict != row.verdict:
            found = f"{_with_interval(row, 'without_one')}, {row.without_one_verdict}"
            words = f"without it, over {row.both_seeds} seeds, {found}"
            remarks.append(f"- {experiment} {task}: the verdict rests on one test example; {words}.")
        if row.holm != row.verdict:
            words = f"{row.holm} with p values adjusted for the tasks of the experiment (Holm)"
            remarks.append(f"- {experiment} {task}: {words}.")
    untested = pd.DataFrame(table.attrs["untested"], columns=["experiment", "task"]).groupby("experiment", sort=False)
    if len(untested):
        named = [f"{name} ({', '.join(rows['task'])})" for name, rows in untested]
        remarks.append(f"- Not tested, without a margin or a control: {', '.join(named)}.")
    for reason, files in pd.Series(table.attrs["refused"], dtype=str).groupby(lambda f: table.attrs["refused"][f]):
        remarks.append(f"- Not counted, {reason}: {', '.join(sorted(files.index))}.")
    return remarks


def publish(out: Path, readme: Path) -> None:
    """Draw ``results.png`` and ``speed.png`` into ``out`` and put `readme_table` between its two marks in a README.

    Where ``sweeps/claim.toml`` stands beside the README, also write ``claim.csv``, ``power.csv`` and ``claim.png``,
    and put `claim_section` between two other marks.

    Raises `EmptyReport` when there are no records but quick ones, or the README lacks the marks;
    `msnlib.lab.parameters.ParameterError` for margins that are none.
    """
    records = read_records(out)
    if not (records["profile"] != "quick").any():
        raise EmptyReport(f"{readme}: no paper or laptop run in {out} to fill its table from")
    text = _between(readme, readme.read_text(encoding="utf-8"), _README_MARKS, readme_table(records))
    margins = readme.parent / "sweeps" / "claim.toml"
    if margins.is_file():
        design = read_design(margins)
        claim = claim_table(out, design)
        power_table(out, design).to_csv(out / "power.csv", index=False, float_format="%.4g")
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
