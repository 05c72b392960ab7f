"""Figures of many runs' records, for README and site: they return a Figure, readable in greyscale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from msnlib.lab.capacity import capacity
from msnlib.lab.claim import CAPPED
from msnlib.lab.looks import arm_looks, looks, title
from msnlib.lab.plots import legend_of
from msnlib.lab.pooling import headline, over_seeds
from msnlib.lab.published import published_table, repeating_arm
from msnlib.lab.report import format_difference
from msnlib.lab.statistics import interval


def results(records: pd.DataFrame) -> Figure:
    """How far ours are from every published figure, a line each: the best first, runs of the published sizes above.

    The arms are those that repeat the published ones, stopped as the authors did: of E10 the trained discerner, of E4's
    reviews the control in batches of 512. A dot is a seed, a mark their mean with its 90 % interval.

    Args:
        records: as ``read_records`` gives them; of each experiment its largest profile is shown.
    """
    shown = headline(records)
    rows = [row for row in map(partial(_against_published, shown), published_table().itertuples()) if row is not None]
    sizes: dict[str, list[_Against]] = {
        "the published sizes": [],
        "the published sizes, squared error": [],
        _SMALLER: [],
    }
    for row in sorted(rows, key=lambda row: -row.mean):
        full = "the published sizes" + ", squared error" * (row.metric == "mse")
        sizes[full if row.profile == "paper" else _SMALLER].append(row)
    sizes = {size: found for size, found in sizes.items() if found}
    heights = [len(found) + 2 for found in sizes.values()] or [1]
    figure, axes = plt.subplots(
        max(len(sizes), 1), figsize=(7.6, 0.26 * sum(heights) + 2.2), squeeze=False, height_ratios=heights
    )
    for ax, (size, found) in zip(axes.flat, sizes.items(), strict=False):
        for y, row in enumerate(found):
            colour = looks([row.task])[row.task].colour if row.arm == "multitask" else "white"
            ax.plot([row.low, row.high], [y, y], color="black", linewidth=1.5, zorder=2)
            ax.plot(row.gaps, [y] * len(row.gaps), ".", color="0.45", zorder=2)
            ax.plot(row.mean, y, "Ds"[row.arm == "dedicated"], color=colour, markeredgecolor="black", zorder=3)
        ax.axvline(0, color="black", linewidth=1)
        ax.set_yticks(range(len(found)), [f"{title(row.task)}, {row.experiment}" for row in found], fontsize=9)
        unit = "% of the published error" if found[0].metric == "mse" else "points of accuracy"
        ax.set(title=size, ylim=(len(found) - 0.4, -0.6), xlabel=f"ours against published, {unit}: right is better")
    marks = {"D": "one network (in the task's colour)", "s": "a network for each task", ".": "one seed"}
    handles = [Line2D([], [], linestyle="", marker=mark, color="0.45" if mark == "." else "white",
                      markeredgecolor="black", label=label) for mark, label in marks.items()]  # fmt: skip
    handles.append(Line2D([], [], color="black", label="90 % interval of the mean"))
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    figure.legend(handles=handles, loc="lower center", ncols=2)
    return figure


_SMALLER = "smaller networks, fewer images"


class _Against(NamedTuple):
    experiment: str
    task: str
    arm: str
    metric: str
    profile: str
    gaps: list[float]
    low: float
    mean: float
    high: float


def _against_published(shown: pd.DataFrame, row: Any) -> _Against | None:
    """Our results minus a published figure, better to the right; None where we have none."""
    ours = repeating_arm(row.id, row.task, row.arm)
    found = shown[shown["experiment"].eq(row.id) & shown["task"].eq(row.task)]
    found = found[found["arm"].eq(ours) & found["metric"].eq(row.metric) & found["profile"].ne("quick")]
    if found.empty:
        return None
    gaps = found["value"] - row.value if row.metric == "accuracy" else 100 * (1 - found["value"] / row.value)
    return _Against(row.id, row.task, row.arm, row.metric, found["profile"].iloc[0], gaps.tolist(), *interval(gaps))


def overview(records: pd.DataFrame, claim: pd.DataFrame, narrow: bool = False) -> Figure:
    """The findings in three panels: loss at the published size, what is forgotten, where it breaks.

    Args:
        records: as ``read_records`` gives them.
        claim: as :func:`~msnlib.lab.claim.claim_table` gives it.
        narrow: the panels one below the other, for a screen as wide as a hand.
    """
    shown = headline(records[records["profile"] != "quick"])
    rows = claim[claim["profile"].eq("paper") & claim["rule"].eq(next(iter(claim["rule"]), ""))]
    rows = rows[rows["evidence"].eq("claim")] if rows["evidence"].eq("claim").any() else rows
    tall = 0.2 * max(0, len(rows) - 8)  # inches
    if narrow:
        sizes = dict(figsize=(4.8, 10.5 + tall), height_ratios=(1.25 + tall / 3, 0.8, 1))
        figure, (left, middle, right) = plt.subplots(3, 1, **sizes)
    else:
        sizes = dict(figsize=(12.5, 4.2 + 0.7 * tall), width_ratios=(1.25, 0.9, 1.1))
        figure, (left, middle, right) = plt.subplots(1, 3, **sizes)
    _losses(left, rows)
    _forgotten(middle, shown)
    _breaks(right, capacity(shown))
    figure.tight_layout(w_pad=2, h_pad=2)
    return figure


def _losses(left: Axes, rows: pd.DataFrame) -> None:
    """Draw the claim's differences, rows of one stopping rule, with their intervals."""
    for y, row in enumerate(rows.to_dict("records")):
        colour = "black" if row["evidence"] == "claim" else _EXPLORATION
        _interval(left, y, row, ("low", "high"), color=colour, linewidth=2)
        _mark(left, y, row, markersize=8, colour=colour)
    left.axvline(0, color="0.6", linewidth=1)
    left.axvline(-1, color="black", linestyle=":")
    names = [f"{row.experiment} {title(row.task)}" for row in rows.itertuples()]
    left.set_yticks(range(len(rows)), names, fontsize=9 if len(rows) > 10 else None)
    left.set(
        ylim=(1.06 * max(len(rows), 1) + 2, -0.6),
        xlim=(-_EDGE - 0.3, _EDGE + 0.3),
        title="Is anything lost? (published size)",
    )
    left.set_xlabel("difference in margins, left is worse\ndotted: a loss that matters\narrows: beyond the axis")
    for word in dict.fromkeys(rows["verdict"]):
        marker, face = _SHAPES.get(word, _NO_VERDICT)
        left.plot([], [], marker, color="black", markerfacecolor=face, label=_WORDS.get(word, word))
    if rows["evidence"].ne("claim").any():
        left.plot([], [], color=_EXPLORATION, linewidth=2, label="grey: exploration")
    if len(rows):
        left.legend(loc="lower right", fontsize=8)
    left.grid(axis="y", visible=False)


def _forgotten(middle: Axes, shown: pd.DataFrame) -> None:
    """Draw the points of accuracy forgotten by each method."""
    lost = shown[shown["experiment"].eq("forgetting") & shown["metric"].eq("forgetting_accuracy")]
    arms = [arm for arm in ("fine-tuning", "packnet", "random", "multitask") if arm in set(lost["arm"])]
    shown = arm_looks(arms)
    for y, arm in enumerate(arms):
        values = lost.loc[lost["arm"] == arm, "value"]
        middle.barh(y, values.mean(), color=shown[arm].colour, edgecolor="black", height=0.6)
        middle.plot(values, [y] * len(values), "o", color="black", markersize=4, clip_on=False)
        middle.annotate(f"{values.mean():.1f}", (values.max(), y), (8, 0), textcoords="offset points", va="center")
    middle.set_yticks(range(len(arms)), [fill(shown[arm].title, 14) for arm in arms])
    middle.set(
        title="Is anything forgotten?",
        xlabel="points forgotten a task (dots: seeds)",
        ylim=(max(len(arms), 1) - 0.5, -0.5),
    )
    middle.margins(x=0.25)
    middle.set_xlim(0)
    middle.grid(axis="y", visible=False)


def _breaks(ax: Axes, points: pd.DataFrame) -> None:
    """Draw accuracy against the number of tasks, a line for each way to give a task its weights."""
    for arm, look in arm_looks(("random", "small", "multitask") if len(points) else ()).items():
        line = points.loc[arm]
        reach = [line["mean"] - line["min"], line["max"] - line["mean"]]
        ax.errorbar(line.index, line["mean"], reach, **look.drawn, label=look.title, capsize=3)
    counts = sorted({count for _, count in points.index})
    ax.set_xscale("log")
    ax.set_xticks(counts, counts)
    ax.minorticks_off()
    ax.set(title="Where does it break?", xlabel="tasks that share the network", ylabel="accuracy in %, mean of tasks")
    if counts:
        ax.legend(loc="lower left")


_SHAPES = {"non-inferior": ("o", "black"), "inconclusive": ("o", "white"), "inferior": ("s", "black")}
_WORDS = {"non-inferior": "no loss that matters", "inconclusive": "open", "inferior": "a loss that matters"}
_NO_VERDICT = ("X", "0.7")
_EXPLORATION = "0.6"
_EDGE = 4.0  # margins; what lies beyond is an arrow at the edge


def forest(table: pd.DataFrame) -> Figure:
    """The claim's differences with their intervals, a row per experiment and task, in units of the row's margin.

    A row is non-inferior (black dot) when its interval lies to the right of the line at -1, inferior (square) when it
    lies to the left; a cross has no verdict. The thin line below is the other stopping rule's.

    Args:
        table: as :func:`~msnlib.lab.claim.claim_table` gives it, with a row at least.
    """
    counts = table["rule"] == table["rule"].iloc[0]
    first, second = table[counts], table[~counts].set_index(["experiment", "task"])
    places = (1.03, 1.29, 1.63, 1.79)
    height = 0.34 * len(first) + 1.7
    figure, ax = plt.subplots(figsize=(10, height))
    figure.subplots_adjust(left=0.2, right=0.57, bottom=1.3 / height, top=1 - 0.4 / height)
    for y, row in enumerate(first.to_dict("records")):
        _interval(ax, y, row, ("low", "high"), color="black", linewidth=2, label="the interval that decides")
        dashed = dict(color="0.4", linewidth=1, linestyle="--", label="over seeds and examples, where recorded")
        if row["both_seeds"] > 2 and row["interval"] != "crossed":
            _interval(ax, y + 0.22, row, ("both_low", "both_high"), **dashed)
        _mark(ax, y, row, markersize=7)
        if (row["experiment"], row["task"]) in second.index:
            other = second.loc[(row["experiment"], row["task"])].to_dict()
            look = dict(color="0.55", linewidth=1, label="under the other stopping rule")
            _interval(ax, y + 0.42, other, ("low", "high"), **look)
            _mark(ax, y + 0.42, other, markersize=4)
        difference, *ends = (format_difference(row["metric"], row[name]) for name in ("difference", "low", "high"))
        unit = "points" if row["metric"] == "accuracy" else "%"
        interval = " to ".join(ends) if ends[0] else "one seed"
        texts = (f"{difference} {unit}", interval, f"{row['margin']:g}", row["verdict"])
        for place, text in zip(places, texts, strict=True):
            ax.text(place, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        if y and row["experiment"] != first["experiment"].iloc[y - 1]:
            ax.axhline(y - 0.4, color="0.8", linewidth=0.8)
    for place, text in zip(places, ("difference", "90 % interval", "margin", "verdict"), strict=True):
        ax.text(place, -0.9, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9, weight="bold")
    ax.axvline(0, color="0.6", linewidth=1, zorder=1)
    ax.axvline(-1, color="black", linewidth=1.2, linestyle=":", zorder=1)
    ax.text(-1, -0.9, "-margin", ha="center", va="center", fontsize=9)
    ax.set(xlim=(-_EDGE - 0.3, _EDGE + 0.3), ylim=(len(first) - 0.2, -0.5))
    ax.set_xlabel("difference in margins: left worse, right better than a network alone", fontsize=9)
    profiles = first["profile"].map(lambda profile: "" if profile == "paper" else f" ({profile})")
    ax.set_yticks(range(len(first)), first["experiment"] + " " + first["task"].map(title) + profiles, fontsize=9)
    ax.grid(False)
    handles, labels = legend_of([ax])
    for word, (marker, face) in (_SHAPES | {CAPPED: _NO_VERDICT}).items():
        handles.append(Line2D([], [], linestyle="", marker=marker, color="black", markerfacecolor=face))
        labels.append(word)
    handles.append(Line2D([], [], linestyle="", marker=">", color="black"))
    labels.append("beyond the figure")
    figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.02, 0), ncols=4, fontsize=9)
    return figure


def _clipped(x: float) -> float:
    return max(-_EDGE, min(_EDGE, x))


def _interval(ax: Axes, y: float, row: Mapping[str, Any], ends: tuple[str, str], **look: Any) -> None:
    """Draw a row's interval in margins, with an arrow where it leaves the figure."""
    span = [row[end] / row["margin"] for end in ends]
    if not math.isnan(span[0]):
        ax.plot([_clipped(x) for x in span], [y, y], **look, zorder=2)
    for x in span:
        if abs(x) > _EDGE:
            ax.plot(_clipped(x), y, "<" if x < 0 else ">", color=look["color"], markersize=6)


def _mark(ax: Axes, y: float, row: Mapping[str, Any], markersize: float, colour: str = "black") -> None:
    """Draw a row's difference in margins, its verdict as the mark's shape and filling."""
    x, (marker, face) = row["difference"] / row["margin"], _SHAPES.get(row["verdict"], _NO_VERDICT)
    marker = marker if abs(x) <= _EDGE else "<" if x < 0 else ">"
    face = colour if face == "black" else face
    ax.plot(_clipped(x), y, marker, color=colour, markerfacecolor=face, markersize=markersize, zorder=3)


def speed(records: pd.DataFrame) -> Figure:
    """How many times as fast as T dense networks a training step of T tasks is: a panel per batch size, a line per arm.

    Args:
        records: as :func:`~msnlib.lab.records.read_records` gives them, with runs of notebook 80 among them.
    """
    shown = headline(
        records[(records["experiment"] == "performance") & records["metric"].str.startswith("speedup_batch")]
    )
    shown = shown[~shown["arm"].str.contains(" to ")]
    shown = shown.assign(count=shown["task"].str.extract(r"(\d+)", expand=False).astype(int))
    means = over_seeds(shown, ["metric", "arm", "count"])["mean"].sort_index()
    metrics = list(dict.fromkeys(shown["metric"]))
    figure, axes = plt.subplots(1, len(metrics), figsize=(3.6 * len(metrics) + 1.4, 2.9), squeeze=False)
    for ax, metric in zip(axes[0], metrics, strict=True):
        for arm, look in arm_looks(shown["arm"]).items():
            ax.plot(means[metric, arm], **look.drawn, label=arm)
        ax.axhline(1, color="black", linewidth=1)
        ax.set(title=f"batch {metric.rsplit('_', 1)[1]}", xlabel="tasks", ylabel="times as fast as dense")
        ax.set(xscale="log", yscale="log")
        for axis, ticks in ((ax.xaxis, sorted(set(shown["count"]))), (ax.yaxis, (0.25, 0.5, 1, 2, 4, 8))):
            axis.set_major_locator(plt.FixedLocator(ticks))
            axis.set_minor_locator(plt.NullLocator())
            axis.set_major_formatter("{x:g}")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure
