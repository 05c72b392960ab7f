"""The parts of the front page that come from records: Markdown and figures. No number stands here."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import yaml

from msnlib.lab.capacity import widest
from msnlib.lab.looks import arm_looks, title
from msnlib.lab.notebooks import read_notebook
from msnlib.lab.plots import style
from msnlib.lab.pooling import headline, over_seeds
from msnlib.lab.records import read_records
from msnlib.lab.report import format_value
from runs import heading_of

DENSITY_ARMS = {"": "multitask", " reversed": "reversed", " random": "random"}  # as the records name them
_ALTERNATIVE = "a line per way of choosing weights; the numbers are in the table below"


def write_parts(root: Path, paths: list[Path], out: Path) -> None:
    """Write every part as ``<out>/<part>.md``, and the figures it shows beside it; ``paths`` are the notebooks."""
    reading = (root / "docs" / "reading.md").read_text(encoding="utf-8")
    style()
    plt.rcParams["svg.hashsalt"] = "msnlib"  # no random ids: two builds of one tree are equal
    records = read_records(root / "reports")
    records = headline(records[records["profile"] != "quick"])
    parts = {
        "density": density(records[records["experiment"] == "density"], out),
        "capacity": capacity(records[records["experiment"] == "capacity"], out),
        "notebooks": notebooks(paths, reading),
        "cite": cite(yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))),
    }
    for name, text in parts.items():
        (out / f"{name}.md").write_text(text, encoding="utf-8")


def density(records: pd.DataFrame, out: Path) -> str:
    """Accuracy against the share of weights a task keeps, trained to convergence: a figure and a table per task."""
    named = records["arm"].str.extract(r"^density (?P<density>[\d.]+)(?P<arm>| reversed| random), converged$")
    shown = records.assign(**named)[named["density"].notna() & (records["metric"] == "accuracy")]
    if shown.empty:
        return "No run of notebook 14 is here yet; `msn run 14 --profile laptop` makes one.\n"
    shown = shown.assign(arm=shown["arm"].map(DENSITY_ARMS), density=shown["density"].astype(float))
    whole = records[(records["arm"] == "dedicated, converged") & (records["metric"] == "accuracy")]
    figures, tables, control = [], [], arm_looks(["dedicated"])["dedicated"]
    for task, rows in shown.groupby("task", sort=False):
        alone = over_seeds(whole[whole["task"] == task], ["task"])["mean"].item()
        figure, ax = plt.subplots(figsize=(3.7, 3.9))
        ax.axhline(alone, color=control.colour, linestyle=control.line, linewidth=1.5, label=control.title)
        _curves(ax, rows, "density")
        ax.set(title=title(task), xlabel="density, the share of weights kept", ylabel="accuracy in %")
        address = _save(figure, ax, out, f"density_{task}")
        figures.append(f"![{title(task)}: accuracy against density, {_ALTERNATIVE}]({address})")
        mean = format_value("accuracy", alone)
        tables.append(f"{title(task)}, accuracy in % by density; {control.title}: {mean}\n\n{_table(rows, 'density')}")
    return (
        "Two tasks share a network, and each keeps a smaller and smaller share of the weights. The line without marks "
        "is the control: a network for each task, which owns all its weights. Where weights are scarce, gradients "
        "leave classes of a head without a weight, and random choice hardly does: the gap between the lines is not "
        f"about better or worse weights alone. {_origin(shown)}\n\n" + "\n".join(figures) + "\n\n"
    ) + "\n\n".join([*tables, ""])


def capacity(records: pd.DataFrame, out: Path) -> str:
    """Accuracy, mean of the tasks measured, against the number of tasks that share the network."""
    shown = widest(records)
    if shown.empty:
        return "No run of notebook 10 is here yet; `msn run 10 --profile laptop` makes one.\n"
    shown = shown.assign(arm=shown["choice"], tasks=shown["count"])
    evened = shown["choice"].str.endswith("evened").any()
    heads = "what evening them out mends is a line too" if evened else "how much of the fall is theirs is not measured"
    figure, ax = plt.subplots(figsize=(5.2, 4.2))
    _curves(ax, shown, "tasks")
    ax.set(xlabel="tasks T that share the network", ylabel="accuracy in %")
    return (
        "The network is filled with T equally hard tasks, and each gets 1/T of the weights. Nothing is forgotten. "
        f"Heads are cut like all other layers, so at large T gradients leave classes without a weight; {heads}. Shown "
        f"is the mean of three tasks, the first, the middle and the last to choose. {_origin(shown)}\n\n"
        f"![Accuracy against the number of tasks, {_ALTERNATIVE}]({_save(figure, ax, out, 'capacity')})\n\n"
        f"Accuracy in % by number of tasks:\n\n{_table(shown, 'tasks')}\n"
    )


def notebooks(paths: list[Path], reading: str) -> str:
    """A line per notebook: its heading, and what docs/reading.md says it shows."""
    lines = []
    for path in paths:
        shows = re.search(rf"^\| \[{path.stem}\]\([^)]*\) \| (.+?) \|", reading, re.MULTILINE)
        line = f"- [{heading_of(read_notebook(path))}](../notebooks/{path.name})"
        lines.append(f"{line}: {shows[1]}" if shows else line)
    return "\n".join(lines) + "\n"


def cite(citation: dict) -> str:
    """How to cite the package and the paper, from CITATION.cff."""
    (paper,) = citation["references"]
    (arxiv,) = (entry["value"].removeprefix("arXiv:") for entry in paper["identifiers"])
    people = " and ".join(person["family-names"] for person in paper["authors"])
    (authors,) = (author["name"] for author in citation["authors"])
    url = f"\n  url = {{{citation['repository-code']}}}," if "repository-code" in citation else ""
    return f"""{citation["message"]} Licence: {citation["license"]}.

```bibtex
@software{{msnlib,
  author = {{{{{authors}}}}},
  title = {{{citation["title"]}}},
  version = {{{citation["version"]}}},
  year = {{{str(citation["date-released"])[:4]}}},{url}
}}

@article{{{paper["authors"][0]["family-names"].lower()}{paper["year"]},
  author = {{{people}}},
  title = {{{paper["title"]}}},
  year = {{{paper["year"]}}},
  journal = {{arXiv:{arxiv}}},
  url = {{{paper["url"]}}},
}}
```
"""


def _origin(rows: pd.DataFrame) -> str:
    """Say which runs the rows come from, and what the bars of their figure are."""
    notebook, profile = (rows[name].iloc[0] for name in ("notebook", "profile"))
    seeds = sorted(rows["seed"].unique())
    link = f"[{notebook.partition('_')[0]}](../notebooks/{notebook}.ipynb)"
    said = f"Notebook {link}, profile [{profile}](running.md), "
    if len(seeds) == 1:
        return f"{said}one seed."
    return f"{said}means of {len(seeds)} seeds; bars reach from the lowest seed to the highest."


def _curves(ax: plt.Axes, rows: pd.DataFrame, by: str) -> None:
    """Draw, over the column ``by``, a line of means per arm and a bar from the lowest seed to the highest."""
    for arm, look in arm_looks(rows["arm"]).items():
        values = over_seeds(rows[rows["arm"] == arm], [by]).sort_index()
        spread = [values["mean"] - values["min"], values["max"] - values["mean"]]
        ax.errorbar(values.index, values["mean"], spread, **look.drawn, label=look.title, capsize=3)
    ax.set_xscale("log")
    ticks = sorted(rows[by].unique())
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def _save(figure: plt.Figure, ax: plt.Axes, out: Path, name: str) -> str:
    """Save the figure, its legend below it, and return its address on the site."""
    handles, labels = ax.get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.06 * len(labels), 1, 1))
    figure.legend(handles, labels, loc="lower center", frameon=False)
    figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    return f"/parts/{name}.svg"


def _table(rows: pd.DataFrame, by: str) -> str:
    """Return means over seeds as Markdown, a line per arm and a column per value of ``by``."""
    means = over_seeds(rows, ["arm", by]).pivot_table(index="arm", columns=by, values="mean", sort=False)
    means = means[sorted(means)]
    lines = [["", *(f"{value:g}" for value in means)], ["---", *("---:" for _ in means)]]
    shown = arm_looks(means.index)
    lines += [[shown[arm].title, *(format_value("accuracy", value) for value in row)] for arm, row in means.iterrows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
