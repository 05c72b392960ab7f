"""The figures of the notebooks, readable in greyscale: shapes, hatches and line styles say it, not hue alone.

They draw and return nothing, so that a cell that ends with one shows it once; ``plt.gcf()`` before the cell ends is the
figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from msnlib.lab.published import published_value
from msnlib.lab.records import Run
from msnlib.lab.report import format_value
from msnlib.task import Task
from msnlib.training import History

LINES = ("-", "--", ":", "-.")


def style() -> None:
    """The look of all figures; call once at the top of a notebook."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update({"figure.dpi": 90, "axes.titlesize": "medium", "legend.fontsize": "small"})


def samples(group: Sequence[Task], count: int = 10) -> None:
    """The first test examples of every task, a row each: images as pictures, tables as bars of their columns."""
    figure, axes = plt.subplots(len(group), count, figsize=(count, 1.25 * len(group)), squeeze=False)
    for row, task in zip(axes, group, strict=True):
        x, y = task.test
        for ax, example, target in zip(row, x[:count].cpu(), y[:count].cpu(), strict=False):
            if example.dim() > 1:  # (H, W), or (channels, H, W) in colours from 0 to 1
                ax.imshow(example if example.dim() == 2 else example.movedim(0, -1), cmap="Greys")
            else:
                ax.bar(range(len(example)), example, color="0.4")
            label = str(int(target)) if task.kind == "classification" else f"{float(target):.2f}"
            ax.set_title(label, fontsize=9, pad=2)
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(task.name.replace("_", "\n"), rotation=0, ha="right", va="center")
    figure.tight_layout(h_pad=0.4, w_pad=0.2)


def learning_curves(histories: Mapping[str, Sequence[History]], rule: str) -> None:
    """Validation loss by epoch, a panel per task and a line per arm; a dot marks the epoch the stopping rule kept.

    Args:
        histories: arm -> the trainings that make it up.
        rule: name of the stopping rule whose choice is marked.
    """
    names = list(dict.fromkeys(t for hs in histories.values() for h in hs for t in h.table["task"].unique()))
    figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 3.2), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        for place, (arm, trained) in enumerate(histories.items()):
            colour, line = f"C{place}", LINES[place % len(LINES)]
            width = 2 - place // len(LINES)  # a fifth arm is a thin first one
            for history in trained:
                rows = history.table[history.table["task"] == name]
                if rows.empty:
                    continue
                ax.plot(rows["epoch"], rows["valid_loss"], line, color=colour, linewidth=width, label=arm)
                kept = rows[rows["epoch"] == history.best[rule, name]]
                ax.plot(kept["epoch"], kept["valid_loss"], "o", color=colour, markeredgecolor="black")
        ax.set(title=name, xlabel="epoch", ylabel="validation loss", yscale="log")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        _plain_log(ax.yaxis)
    axes[0, -1].legend(*legend_of(axes[0]), loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()


def legend_of(axes: Iterable[Axes]) -> tuple[list, list[str]]:
    """Handles and labels of what is drawn in any of these, each once."""
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)


def _plain_log(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis, as many as its reach has room for."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    digits = (1, 1.5, 2, 3, 4, 5, 6, 8) if decades < 0.8 else (1, 2, 5) if decades < 2.5 else (1,)
    axis.set_major_locator(LogLocator(subs=digits))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def owners(maps: Mapping[str, Tensor], names: Sequence[str], window: int | None = None, letters: bool = False) -> None:
    """Who owns which entry: white is free, darker shades are later tasks.

    Args:
        maps: name of parameter -> (rows, columns) owner numbers, from :func:`~msnlib.owner_map`.
        names: the tasks, in order.
        window: draw only so many rows and columns, from the middle.
        letters: write the owner's number into each entry.
    """
    figure, axes = plt.subplots(1, len(maps), figsize=(min(3.4 * len(maps), 13), 3.6), squeeze=False)
    shades = ListedColormap([str(1 - 0.85 * k / max(len(names), 1)) for k in range(len(names) + 1)])
    norm = BoundaryNorm([k - 0.5 for k in range(len(names) + 2)], shades.N)
    for ax, (title, owner) in zip(axes[0], maps.items(), strict=True):
        top, left = ((n - window) // 2 if window and n > window else 0 for n in owner.shape)
        shown = owner.cpu()[top:, left:][:window, :window]
        extent = (left - 0.5, left + shown.shape[1] - 0.5, top + len(shown) - 0.5, top - 0.5)
        ax.imshow(
            shown, cmap=shades, norm=norm, interpolation="nearest", extent=extent, aspect="equal" if window else "auto"
        )
        ax.set(title=title, xlabel="input", ylabel="unit")
        ax.grid(False)
        if letters:
            ax.set_aspect("equal")
            ax.set(xticks=range(shown.shape[1]), yticks=range(shown.shape[0]))
            for (i, j), k in [((i, j), int(shown[i, j])) for i in range(len(shown)) for j in range(shown.shape[1])]:
                ax.text(j, i, k or "", ha="center", va="center", color="white" if k > len(names) / 2 else "black")
    legend = [Patch(facecolor=shades(k), edgecolor="black", label=n) for k, n in enumerate(["free", *names])]
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.legend(handles=legend, loc="lower center", ncols=len(legend))


def bars(run: Run) -> None:
    """The record's metrics, a panel per task and a bar per arm; a thick line across a bar is the published figure.

    Arms under a second stopping rule ("multitask, converged") are hatched.

    Args:
        run: one in ``quick`` uses other data than the paper, so nothing is drawn across its bars.
    """
    table = run.table()
    table = table[table["metric"].isin(["accuracy", "mse"])]
    names, arms = (list(dict.fromkeys(table[column])) for column in ("task", "arm"))
    size = (3.1 * len(names) + 1.5, 0.33 * len(arms) + 1.2)
    figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, sharey=True)
    for ax, name in zip(axes[0], names, strict=True):
        rows = table[table["task"] == name].set_index("arm")
        metric = rows["metric"].iloc[0]
        low = math.floor(min(rows["value"]) / 5) * 5 - 5 if metric == "accuracy" else 0
        for place, arm in enumerate(arms):
            if arm not in rows.index:
                continue
            value, second = rows.loc[arm, "value"], ", " in arm
            shade = "0.75" if arm.startswith("multitask") else "0.93"
            ax.barh(place, value - low, left=low, color=shade, edgecolor="black", hatch="///" if second else "")
            published = published_value(run.experiment, name, arm, metric)
            if run.configuration["profile"] != "quick" and published is not None:
                ax.plot([published, published], [place - 0.48, place + 0.48], color="black", linewidth=4)
            # At the foot, where no published line crosses.
            look = dict(fontsize=9, va="center", bbox=dict(facecolor="white", edgecolor="none", pad=1.0))
            ax.annotate(format_value(metric, value), (low, place), (4, 0), textcoords="offset points", **look)
        ax.set(title=name, xlabel="accuracy in %" if metric == "accuracy" else metric)
        ax.set_yticks(range(len(arms)), arms)
        ax.set_ylim(len(arms) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        if metric == "accuracy":
            ax.set_xlim(low, 100)
    figure.tight_layout()


def matrix(scores: pd.DataFrame, metrics: Mapping[str, str]) -> None:
    """A table of metrics before and after every phase as a picture; darker is better within a column.

    Args:
        scores: rows are moments, columns tasks.
        metrics: task -> ``"accuracy"`` or ``"mse"``.
    """
    shade = scores.copy()
    text = scores.astype(object)
    for name in scores:
        column = -scores[name] if metrics[name] == "mse" else scores[name]
        span = column.max() - column.min()
        shade[name] = (column - column.min()) / span if span else 1.0
        text[name] = [format_value(metrics[name], value) for value in scores[name]]
    figure, ax = plt.subplots(figsize=(1.8 * len(scores.columns) + 3, 0.55 * len(scores) + 1))
    sns.heatmap(shade, annot=text, fmt="", cmap="Greys", vmin=0, vmax=1.4, cbar=False, linewidths=1, ax=ax)
    ax.set_xticklabels([f"{n}\n{'accuracy in %' if metrics[n] == 'accuracy' else 'mse'}" for n in scores], rotation=0)
    ax.tick_params(axis="y", rotation=0)
    ax.grid(False)
    figure.tight_layout()


def values(matrix: Tensor, title: str, ax: Axes | None = None, mark: Tensor | None = None) -> Axes:
    """A small matrix with its numbers, the larger the darker; entries in ``mark`` (bool, same shape) are framed."""
    ax = ax or plt.subplots(figsize=(3, 3))[1]
    table = matrix.detach().cpu().numpy()
    size = abs(table)  # shade by size, print with sign
    sns.heatmap(size, annot=table.round(2), fmt="g", cmap="Greys", cbar=False, square=True, linewidths=1, ax=ax, vmin=0)
    for i, j in [] if mark is None else mark.nonzero().tolist():
        ax.add_patch(plt.Rectangle((j, i), 1, 1, fill=False, edgecolor="black", linewidth=3))
    ax.set(title=title, xlabel="input", ylabel="unit")
    return ax
