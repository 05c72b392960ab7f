"""What a subnetwork is published to gain over a network of its own, what it gains here, and the controls beside it."""

from __future__ import annotations

import pandas as pd

from msnlib.lab.differences import between
from msnlib.lab.findings import named
from msnlib.lab.looks import title
from msnlib.lab.pooling import headline, natural, over_seeds
from msnlib.lab.published import published_table, published_value, repeating_arm
from msnlib.lab.records import ENDING
from msnlib.lab.report import markdown

ARMS = ("multitask", "dedicated")
CONTROLS = ("dedicated", "pruned", "random", "small")
ALL_ARMS = '{"arms": "all"}'


def gains_section(records: pd.DataFrame) -> str:
    """Return as Markdown, for every task whose published figures have both networks, how far the subnetwork is ahead:
    as published, and here at the published size under both stopping rules, means with 90 % intervals and seed by seed.

    Args:
        records: as `msnlib.lab.records.read_records` gives them.
    """
    shown, lines = headline(records[records["profile"] == "paper"]), []
    for experiment, task in published_table()[["id", "task"]].drop_duplicates().itertuples(index=False):
        own = shown[shown["experiment"].eq(experiment) & shown["task"].eq(task) & shown["metric"].eq("accuracy")]
        pair = [repeating_arm(experiment, task, arm) for arm in ARMS]
        figures = [published_value(experiment, task, arm, "accuracy") for arm in pair]
        if None in figures or not set(pair) <= set(own["arm"]):
            continue
        by_rule = [between(own, task, *(arm + ending for arm in pair)) for ending in ("", ENDING)]
        values = own.pivot(index="seed", columns="arm", values="value")
        each = (values[pair[0]] - values[pair[1]]).dropna()
        seeds = (
            " ".join(f"{value:+.2f}" for value in each) if len(each) < 6 else f"{each.min():+.2f} to {each.max():+.2f}"
        )
        name = f"{experiment} {title(task)}"
        lines.append([name, f"{figures[0] - figures[1]:+.2f}", str(by_rule[0]), seeds, str(by_rule[1])])
    lines.sort(key=lambda line: natural(line[0].split()[0]))
    header = ["points of accuracy", "published", "ours, stopped alike", "its seeds", "ours, converged"]
    return markdown(header, lines, first_number=1) if lines else "No run is made yet."


def controls_section(records: pd.DataFrame, ending: str = ENDING) -> str:
    """Return the runs at the published size that were asked for all arms (``-p arms all``) as Markdown: a table per
    experiment, of arms and tasks. Behind an accuracy stands how many of the task's outputs own no weight, if any.

    Args:
        records: as `msnlib.lab.records.read_records` gives them.
        ending: of the arms' names, which tells the stopping rule.
    """
    asked = records[records["overrides"].eq(ALL_ARMS) & records["profile"].eq("paper")]
    rows = headline(asked.assign(overrides="{}"))  # of several pools one, as elsewhere
    rows = rows[rows["metric"].eq("accuracy") & rows["arm"].str.endswith(ending)]
    parts = []
    for experiment in sorted(rows["experiment"].unique(), key=natural):
        own = rows[rows["experiment"] == experiment]
        means, cells = over_seeds(own, ["arm", "task"])["mean"], {}
        for (arm, task), found in own.groupby(["arm", "task"], sort=False):
            dead = found["dead_outputs"].max()
            without = f" ({dead} without)" if pd.notna(dead) and dead else ""
            cells.setdefault(arm.removesuffix(ending), {})[title(task)] = f"{means[arm, task]:.2f}{without}"
        table = pd.DataFrame.from_dict(cells, orient="index", columns=list(map(title, own["task"].unique()))).fillna("")
        table = table if len(table) >= len(table.columns) else table.T  # the longer side downwards
        body = [[name, *texts] for name, texts in zip(table.index, table.values, strict=True)]
        seeds = own["seed"].nunique()
        name = named(experiment)
        scope = f"**{name[0].upper()}{name[1:]}, `paper`, {seeds} seed{'s' * (seeds != 1)}**"
        parts.append(f"{scope}\n\n{markdown(['%', *table.columns], body, first_number=1)}")
    return "\n\n".join(parts) or "No run is made yet."


def smaller_section(records: pd.DataFrame) -> str:
    """Return as Markdown how far the subnetwork is ahead of each control in `laptop`, for the experiments of
    `controls_section`: trained to convergence, means with 90 % t intervals over seeds.

    Args:
        records: as `msnlib.lab.records.read_records` gives them.
    """
    shown = headline(records[records["profile"] == "laptop"])
    asked = set(records.loc[records["overrides"].eq(ALL_ARMS), "experiment"])
    shown = shown[shown["experiment"].isin(asked) & shown["metric"].eq("accuracy")]
    most, lines = shown.groupby("experiment")["seed"].nunique().max(), []
    for (experiment, task), own in shown.groupby(["experiment", "task"], sort=False):
        seeds = own["seed"].nunique()
        fewer = f", {seeds} seeds" if seeds < most else ""
        for pixels in ("", " scaled"):
            arms = [f"{name}{pixels}{ENDING}" for name in ("multitask", *CONTROLS)]
            found = [arm in set(own["arm"]) for arm in arms]
            if found[0] and any(found[1:]):
                gaps = [between(own, task, arms[0], arm).short() if arm in set(own["arm"]) else "" for arm in arms[1:]]
                lines.append([f"{experiment} {title(task)}{pixels and ', scaled'}{fewer}", *gaps])
    return markdown([f"points, {most} seeds", *CONTROLS], lines, 1) if lines else "No run is made yet."
