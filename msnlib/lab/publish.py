"""What is published from records: tables, figures and the answer to the claim, in files and in the README."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from msnlib.files import replacing, write_text
from msnlib.lab.boxes import refresh_findings
from msnlib.lab.capacity import capacity_section
from msnlib.lab.checklist import checklist
from msnlib.lab.claim import CAPPED, claim_table, claim_verdicts
from msnlib.lab.design import read_designs
from msnlib.lab.differences import Difference, precisions
from msnlib.lab.factorial import effects, effects_table
from msnlib.lab.figures import forest, overview, results, speed
from msnlib.lab.findings import findings
from msnlib.lab.gains import controls_section, gains_section, smaller_section
from msnlib.lab.looks import title
from msnlib.lab.plots import style
from msnlib.lab.pooling import headline, natural, rank
from msnlib.lab.power import power_table
from msnlib.lab.published import published_table, repeated_value
from msnlib.lab.recipe import recipe_table
from msnlib.lab.records import ENDING, read_records
from msnlib.lab.report import EmptyReport, format_difference, format_value, markdown, report_table

_ARMS = ("dedicated", "multitask")
_TITLES = {"": "Stopped as the authors did", "converged": "Trained to convergence"}
# Further lines of an experiment's tasks, whose arms are called otherwise: what is said of them, which tasks (None:
# all), and the arms that stand for those of the plain line, which published figures belong to.
_LINES = {
    "E10": [("trained discerner", None, {"multitask": "discerner"}), ("prototypes", None, {})],
    "E7": [("released rule", None, {"multitask": "multitask, legacy percentile"}), ("disjoint", None, {})],
    "E4": [("", None, {}), ("control in batches of 512", "imdb", {"dedicated": "dedicated 512"})],
}


SIZES = {"paper": "at the published sizes", "laptop": "in smaller networks, on fewer examples"}
_RULE_WORDS = {"converged": "converged", "authors": "the authors' rule"}
_ANSWERS = {  # verdict -> whether the claim holds, and the word for its parts
    "non-inferior": ("it holds", "shown for"),
    "inferior": ("it does not hold", "refuted for"),
    "inconclusive": ("undecided", "open for"),
    CAPPED: ("no verdict", "ended by the cap on epochs:"),
}


def results_tables(records: pd.DataFrame) -> str:
    """Return tables of the published experiments as Markdown: for each profile one by the authors' stopping rule,
    beside the published figures, and one after training to convergence; a line per task.

    Cells are the mean over seeds with the range in brackets, where there are several, of `headline`'s runs. A star
    marks a published figure outside the range of the seeds beside it, where these have the published sizes.
    """
    published_ids = set(published_table()["id"])
    shown = headline(records)
    table = report_table(shown[shown["experiment"].isin(published_ids) & (shown["profile"] != "quick")])
    lines: dict[tuple[str, str], list[list[str]]] = {}
    for (experiment, task, metric), rows in table.groupby(["experiment", "task", "metric"], sort=False):
        arms = rows.set_index("arm")
        if not set(_ARMS) & set(arms.index) or metric not in ("accuracy", "mse"):
            continue
        for said, only, renamed in _LINES.get(experiment, [("", None, {})]):
            if only in (None, task) and set(renamed.values()) <= set(arms.index):
                for rule, line in _result_lines(experiment, task, metric, arms, said, renamed).items():
                    lines.setdefault((arms["profile"].iloc[0], rule), []).append(line)
    parts = []
    for profile, rule in sorted(lines, key=lambda key: (rank(key[0]), key[1])):
        found = sorted(lines[profile, rule], key=lambda line: natural(line[0].split()[0]))
        theirs = ["published: each alone", "published: one network"] if not rule else []
        header = ["task", *theirs, "each alone", "one network", "seeds"]
        parts.append(f"**{_TITLES[rule]}, {SIZES[profile]}** (`{profile}`)\n\n{markdown(header, found, 1)}")
    return "\n\n".join(parts)


def _result_lines(
    experiment: str, task: str, metric: str, arms: pd.DataFrame, said: str, renamed: dict[str, str]
) -> dict[str, list[str]]:
    """Return lines of `results_tables` by stopping rule; ``arms`` are the rows of one experiment and task by arm."""
    words = f"{experiment} {title(task)} ({'%' if metric == 'accuracy' else metric}{', ' + said if said else ''})"
    lines = {}
    for rule in ("", "converged"):
        published, cells, seeds = [], [], []
        for arm in _ARMS:
            ours = renamed.get(arm, arm) + (f", {rule}" if rule else "")
            row = arms.loc[ours] if ours in arms.index else None
            published.append(_published_cell(experiment, task, ours, metric, row))
            if row is None:
                cells.append("")
                continue
            mean, low, high = (format_value(metric, row[name]) for name in ("mean", "min", "max"))
            cells.append(mean if row["seeds"] == 1 else f"{mean} ({low}–{high})")
            seeds.append(row["seeds"])
        if any(cells) or (not rule and any(published)):
            lines[rule] = [words, *(published if not rule else []), *cells, str(int(min(seeds))) if seeds else ""]
    return lines


def _published_cell(experiment: str, task: str, arm: str, metric: str, ours: pd.Series | None) -> str:
    value = repeated_value(experiment, task, arm, metric)
    if value is None:
        return ""
    alike = ours is not None and ours["profile"] == "paper" and ours["seeds"] > 1
    outside = alike and not ours["min"] <= value <= ours["max"]
    return format_value(metric, value) + ("*" if outside else "")


def claim_section(table: pd.DataFrame) -> str:
    """Return the answer to the claim as Markdown: a sentence for each experiment and for all of one profile;
    `claim_table`'s rows, a table per stopping rule; what a verdict rests on; and what was not tested.
    """
    if table.empty:
        return "No run yet has a task with a margin in both networks."
    rules = list(dict.fromkeys(table["rule"]))  # the one that counts first
    parts = []
    for rule in rules:
        rows = table[table["rule"] == rule]
        dead = rule == rules[0] and bool(rows["dead_outputs"].notna().any())
        lines = [_claim_line(row, rule == rules[0], dead) for row in rows.itertuples(index=False)]
        header = ["task", "verdict", "difference", "margin", "seeds"]  # a phone shows two
        header += ["starved outputs"] if dead else ["a tenth more errors"] if rule == rules[0] else []
        parts.append(f"**{_TITLES['' if rule == 'authors' else rule]}**\n\n{markdown(header, lines, first_number=2)}")
    return "\n\n".join(["\n".join(_answers(table)), *parts, "\n".join(_remarks(table))]).rstrip()


def _claim_line(row: Any, counts: bool, dead: bool) -> list[str]:
    """Return a line of `claim_section`'s table; only that of the rule that ``counts`` has a last column."""
    accuracy = row.metric == "accuracy"
    unit = "" if accuracy else " (% of the error)"
    unusual = [word for word in (row.profile, row.evidence) if word not in ("paper", "claim")]
    margin = f"{row.margin:g}" + (f" ({row.margin_share:.0f} %)" if accuracy else "")
    seeds = ", ".join([f"{row.seeds}", *unusual])
    line = [f"{row.experiment} {title(row.task)}{unit}", row.verdict, _with_interval(row), margin, seeds]
    if dead:
        return [*line, f"{row.dead_outputs:.0f}" if pd.notna(row.dead_outputs) else ""]
    return [*line, row.sensitivity_verdict if isinstance(row.sensitivity_verdict, str) else ""] if counts else line


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
        parts = dict(zip(rows["task"].map(title), rows["verdict"], strict=True))
        answers.append(_answer(subject, verdicts[name], parts))
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
    for (experiment, named), rows in table.groupby(["experiment", "task"], sort=False):
        task, (row, other) = title(named), [*rows.itertuples(index=False), None][:2]
        if row.verdict == CAPPED:
            continue
        if row.high < 0 and row.verdict == "non-inferior":
            remarks.append(f"- {experiment} {task}: within the margin, but a loss is shown, {_with_interval(row)}.")
        if row.high < 0 and row.verdict == "inconclusive":
            words = f"a loss is shown, {_with_interval(row)}; whether it is within the margin is open"
            remarks.append(f"- {experiment} {task}: {words}.")
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
        named = [f"{name} ({', '.join(rows['task'].map(title))})" for name, rows in untested]
        remarks.append(f"- Not tested, without a margin or a control: {', '.join(named)}.")
    for reason, files in pd.Series(table.attrs["refused"], dtype=str).groupby(lambda f: table.attrs["refused"][f]):
        named = ", ".join(sorted(file.removesuffix("/record.json") for file in files.index))
        remarks.append(f"- Not counted, {reason}: {named}.")
    return remarks


def effects_section(records: pd.DataFrame) -> str:
    """Return what a mask's scores and its head are worth as Markdown: a table per profile of notebook 15, a line per
    task and question, a column per density."""
    shown = headline(records[records["experiment"].eq("starves") & records["profile"].ne("quick")], ("profile",))
    parts = []
    for profile, rows in shown.groupby("profile", sort=False):
        table = effects_table(effects(rows))
        cells = zip(table.index, table.values, strict=True)
        body = [[f"{title(task)}: {asked}", *texts] for (task, asked), texts in cells]
        head = ["points of accuracy", *(f"{100 * density:g} % kept" for density in table.columns)]
        parts.append(f"**`{profile}`, {rows['seed'].nunique()} seeds**\n\n{markdown(head, body, first_number=1)}")
    return "\n\n".join(parts)


def recipe_section(records: pd.DataFrame) -> str:
    """Return what each ingredient of the released recipe changes as Markdown: a table of notebook 18's largest profile,
    a line per arm, a column per task.
    """
    rows = headline(records[records["experiment"].eq("recipe") & records["profile"].ne("quick")])
    if rows.empty:
        return "No run is made yet."
    table = recipe_table(rows)
    body = [[words, *texts] for words, texts in zip(table.index, table.values, strict=True)]
    scope = f"**`{rows['profile'].iloc[0]}`, {rows['seed'].nunique()} seeds**"
    return f"{scope}\n\n{markdown(['points of accuracy, less ours', *table.columns], body, first_number=1)}"


def precision_section(records: pd.DataFrame) -> str:
    """Return `precisions` after training to convergence as Markdown, a line per task and arm."""
    rows = precisions(records)
    rows = rows[rows["arm"].str.endswith(ENDING) & rows["profile"].ne("quick")]
    body = [
        [f"`{row.profile}`, {title(row.task)}", row.arm.removesuffix(ENDING), f"{row.float32:.2f}"]
        + [str(Difference(row.difference, row.low, row.high, row.seeds)), f"{row.seeds}"]
        for row in rows.itertuples()
    ]
    header = ["%", "arm", "float32", "bfloat16 less float32", "seeds"]
    return markdown(header, body, first_number=2) if body else "No run is made yet."


SECTIONS = {  # of docs/results.md, by the name in their marks, beside that of `claim_section`
    "effects": effects_section,
    "capacity": capacity_section,
    "recipe": recipe_section,
    "controls": controls_section,
    "smaller": smaller_section,
    "precision": precision_section,
    "gains": gains_section,
    "results": results_tables,
}


def marks(name: str) -> tuple[str, str]:
    """Return the two lines of a page between which records write the part of this name."""
    also = " and sweeps/claim.toml" if name in ("findings", "claim", "checklist") else ""
    return f"<!-- {name}: written by `make report` from the records in reports/{also} -->", f"<!-- end of {name} -->"


def publish(out: Path, readme: Path) -> None:
    """Put `findings` between two marks of a README and draw ``overview.png`` and its narrow form into ``out``; put
    `claim_section` and `SECTIONS` between those of ``docs/results.md`` beside it, and
    `msnlib.lab.checklist.checklist` between those of ``docs/checklist.md``. Also draw ``results.png``, ``claim.png``
    and ``speed.png``, write ``claim.csv`` and ``power.csv``, and let the boxes of executed notebooks say what these
    records do.

    Raises `EmptyReport` when there are no records but quick ones, or a page lacks its marks;
    `msnlib.lab.parameters.ParameterError` for margins that are none.
    """
    records, page = read_records(out), readme.parent / "docs" / "results.md"
    if not (records["profile"] != "quick").any():
        raise EmptyReport(f"{readme}: no paper or laptop run in {out} to fill it from")
    design = read_designs(readme.parent / "sweeps")
    claim = claim_table(out, design)
    text = _between(readme, readme.read_text(encoding="utf-8"), "findings", findings(records, claim))
    tables = _between(page, page.read_text(encoding="utf-8"), "claim", claim_section(claim))
    for name, section in SECTIONS.items():
        tables = _between(page, tables, name, section(records))
    listed = readme.parent / "docs" / "checklist.md"
    filled = checklist(records, claim, out, readme.parent / "notebooks")
    filled = _between(listed, listed.read_text(encoding="utf-8"), "checklist", filled)
    power = power_table(out, design).to_csv(index=False, float_format="%.4g")
    written = {readme: text, page: tables, listed: filled, out / "power.csv": power}
    written[out / "claim.csv"] = claim.to_csv(index=False, float_format="%.6g")
    for path, content in written.items():
        write_text(path, content)
    style()
    _save(overview(records, claim), out / "overview.png")
    _save(overview(records, claim, narrow=True), out / "overview_narrow.png")
    if not claim.empty:
        _save(forest(claim), out / "claim.png")
    _save(results(records), out / "results.png")
    if (records["experiment"] == "performance").any():
        _save(speed(records), out / "speed.png")
    experiments = records.groupby("notebook")["experiment"].first()
    pages = [path for path in out.glob("*/[!.]*/*.ipynb") if path.with_name("record.json").is_file()]
    for path in [*(readme.parent / "notebooks").glob("*.ipynb"), *pages]:
        if path.stem in experiments:
            refresh_findings(path, experiments[path.stem], out)


def _between(page: Path, text: str, name: str, content: str) -> str:
    """Return the ``text`` of a page with ``content`` between the marks of this name."""
    start, end = (text.find(mark) for mark in marks(name))
    if not -1 < start < end:
        raise EmptyReport(f"{page}: no marks {marks(name)[0]!r} and {marks(name)[1]!r} to write between")
    return f"{text[: start + len(marks(name)[0])]}\n\n{content}\n\n{text[end:]}"


def _save(figure: "Figure", path: Path) -> None:
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110, metadata={"Software": None})  # the same records, the same bytes
