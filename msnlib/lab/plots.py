"""The figures of the notebooks, readable in greyscale: shapes, lightness and line styles say it, not hue alone.

A task has one look in all of them (:mod:`msnlib.lab.looks`).

They draw and return nothing, so that a cell that ends with one shows it once; ``plt.gcf()`` before the cell ends is the
figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from torch import Tensor

from msnlib.lab.looks import FREE, Look, arm_looks, looks, title
from msnlib.lab.published import published_value
from msnlib.lab.records import ENDING, Run
from msnlib.lab.report import format_value
from msnlib.task import Task
from msnlib.training import History

LINES = ("-", "--", ":", "-.")


def style() -> None:
    """The look of all figures; call once at the top of a notebook."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update({"figure.dpi": 90, "axes.titlesize": "medium", "legend.fontsize": "small"})
    if plt.get_backend().endswith("inline"):
        plt.switch_backend(plt.get_backend())  # otherwise the first figure does, which installs the hook
        plt.uninstall_repl_displayhook()  # after a cell it draws each figure, which the backend draws anyway


def samples(group: Sequence[Task], count: int = 10) -> None:
    """The first test examples of every task, a row each: images as pictures, tables as bars of their columns."""
    # A panel for each example would take matplotlib a second.
    figure, axes = plt.subplots(len(group), squeeze=False, figsize=(count, 1.2 * len(group)))
    shown = looks(task.name for task in group)
    for ax, task in zip(axes.flat, group, strict=True):
        x, y = task.test
        for place, (example, target) in enumerate(zip(x[:count].cpu(), y[:count].cpu(), strict=False)):
            left = 1.06 * place
            if example.dim() > 1:  # (H, W), or (channels, H, W) in colours from 0 to 1
                picture = example if example.dim() == 2 else example.movedim(0, -1)
                ax.imshow(picture, cmap="Greys", extent=(left, left + 1, 0, 1))
            else:
                low, high = min(0, float(example.min())), max(0, float(example.max()))
                across = (torch.arange(len(example)) + 0.5) / len(example)
                heights = (torch.stack([torch.zeros_like(example), example]) - low) / ((high - low) or 1)
                ax.vlines(left + across, *heights, color="0.4", linewidth=40 / len(example))
            ax.add_patch(Rectangle((left, 0), 1, 1, fill=False, edgecolor="0.8", clip_on=False))
            label = f"{float(target):.2f}" if task.kind == "regression" else str(int(target))
            label = task.labels[int(target)] if task.labels else label
            size = 9 if len(label) < 6 else 7
            ax.text(left + 0.5, 1.05, label, ha="center", va="bottom", fontsize=size)
        look = shown[task.name]
        patch = dict(facecolor=look.colour, edgecolor="black", hatch=look.hatch, linewidth=0.8)
        ax.add_patch(Rectangle((-0.2, 0), 0.12, 1, clip_on=False, **patch))
        ax.text(-0.28, 0.5, look.title.replace(" ", "\n"), ha="right", va="center")
        ax.set(xlim=(0, 1.06 * count - 0.05), ylim=(0, 1.01), aspect="equal")
        ax.axis("off")
    figure.tight_layout(h_pad=0.4)


def head(ax: Axes, look: Look) -> None:
    """Head a panel with a task's name on its colour and hatch."""
    ax.set_title(look.title, pad=13)
    inches = ax.figure.dpi_scale_trans + ScaledTranslation(0, 1, ax.transAxes)  # above the panel, however high it is
    place = blended_transform_factory(ax.transAxes, inches)
    patch = dict(facecolor=look.colour, edgecolor="black", hatch=look.hatch, linewidth=0.8)
    ax.add_patch(Rectangle((0, 0.03), 1, 0.1, transform=place, clip_on=False, **patch))


def learning_curves(histories: Mapping[str, Sequence[History]], rule: str) -> None:
    """Validation loss by epoch, a panel per task and a line per arm; a dot marks the epoch the stopping rule kept.

    Args:
        histories: arm -> the trainings that make it up.
        rule: name of the stopping rule whose choice is marked.
    """
    names = list(dict.fromkeys(t for hs in histories.values() for h in hs for t in h.table["task"].unique()))
    figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 3.2), squeeze=False)
    shown = looks(names)
    for ax, name in zip(axes[0], names, strict=True):
        for arm, arm_look in arm_looks(histories).items():
            for history in histories[arm]:
                rows = history.table[history.table["task"] == name]
                if rows.empty:
                    continue
                ax.plot(rows["epoch"], rows["valid_loss"], **arm_look.drawn | {"marker": ""}, label=arm)
                kept = rows[rows["epoch"] == history.best[rule, name]]
                ax.plot(kept["epoch"], kept["valid_loss"], "o", color=arm_look.colour, markeredgecolor="black")
        head(ax, shown[name])
        ax.set(xlabel="epoch", ylabel="validation loss", yscale="log")
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
    """Who owns which entry, in the colours of the tasks; white is free.

    Args:
        maps: name of parameter -> (rows, columns) owner numbers, from :func:`~msnlib.owner_map`.
        names: the tasks, in order.
        window: draw only so many rows and columns, from the middle.
        letters: write the owner's number into each entry.
    """
    figure, axes = plt.subplots(1, len(maps), figsize=(min(3.4 * len(maps), 13), 3.6), squeeze=False)
    shown = list(looks(names).values())
    shades = ListedColormap([FREE, *(look.colour for look in shown)])
    norm = BoundaryNorm([k - 0.5 for k in range(len(names) + 2)], shades.N)
    for ax, (called, owner) in zip(axes[0], maps.items(), strict=True):
        top, left = ((n - window) // 2 if window and n > window else 0 for n in owner.shape)
        cut = owner.cpu().numpy()[top:, left:][:window, :window]
        extent = (left - 0.5, left + cut.shape[1] - 0.5, top + len(cut) - 0.5, top - 0.5)
        look = dict(interpolation="nearest", extent=extent, aspect="equal" if window or letters else "auto")
        ax.imshow(cut, cmap=shades, norm=norm, **look)
        ax.set(title=called, xlabel="input", ylabel="unit")
        ax.grid(False)
        if letters:
            ax.set(xticks=range(cut.shape[1]), yticks=range(cut.shape[0]))
            for i, j in zip(*cut.nonzero(), strict=True):
                k = int(cut[i, j])
                ax.text(j, i, k, ha="center", va="center", color=shown[k - 1].ink)
    legend = [Patch(facecolor=FREE, edgecolor="black", label="free")]
    numbers = [f"{k} " if letters else "" for k in range(1, len(names) + 1)]
    legend += [Patch(facecolor=look.colour, edgecolor="black", label=number + look.title)
               for number, look in zip(numbers, shown, strict=True)]  # fmt: skip
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.legend(handles=legend, loc="lower center", ncols=len(legend))


def dots(run: Run) -> None:
    """What every arm reached, a panel per task and a line per arm; a thick upright line is the published figure.

    A hollow mark stops as the authors did, a full one ("multitask, converged") trains to convergence; where the two are
    one, the full one covers the other. The subnetworks are in the task's colour.

    Args:
        run: one in ``quick`` uses other data than the paper, so no published figure is drawn.
    """
    table = run.table()
    table = table[table["metric"].isin(["accuracy", "mse"])]
    names = list(dict.fromkeys(table["task"]))
    ways = list(dict.fromkeys(arm.partition(", ")[0] for arm in table["arm"]))
    size = (3.1 * len(names) + 1.5, 0.36 * len(ways) + 1.7)
    figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, sharey=True)
    for ax, (name, look) in zip(axes[0], looks(names).items(), strict=True):
        rows = table[table["task"] == name].set_index("arm")
        metric = rows["metric"].iloc[0]
        for arm, value in rows["value"].items():
            way, _, rule = arm.partition(", ")
            place, ours = ways.index(way), way.startswith("multitask")
            face = (look.colour if ours else "0.6") if rule else "white"
            mark = dict(marker="D" if ours else "o", markersize=8 if rule else 10, color="black", linestyle="")
            said = "trained to convergence" if rule else "stopped as the authors did"
            ax.plot(value, place, markerfacecolor=face, label=said, **mark)
            published = published_value(run.experiment, name, arm, metric)
            if run.configuration["profile"] != "quick" and published is not None:
                ax.plot([published] * 2, [place - 0.45, place + 0.45], "black", linewidth=4, label="published")
        for place, way in enumerate(ways):
            found = [rows["value"].get(way + rule) for rule in ("", ENDING)]
            text = " | ".join(dict.fromkeys(format_value(metric, value) for value in found if value is not None))
            ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        head(ax, look)
        ax.set(xlabel="accuracy in %" if metric == "accuracy" else metric, ylim=(len(ways) - 0.4, -0.6))
        ax.set_yticks(range(len(ways)), ways)
        ax.margins(x=0.1)
    handles, labels = legend_of(axes[0])
    figure.tight_layout(rect=(0, 0.35 / size[1], 1, 1))
    figure.legend(handles, labels, loc="lower center", ncols=len(labels))


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
    units = {"accuracy": "accuracy in %", "mse": "squared error"}
    ax.set_xticklabels([f"{title(name)}\n{units[metrics[name]]}" for name in scores], rotation=0)
    ax.tick_params(axis="y", rotation=0)
    ax.grid(False)
    figure.tight_layout()


def values(
    matrix: Tensor, heading: str, ax: Axes | None = None, mark: Tensor | Mapping[str, Tensor] | None = None
) -> Axes:
    """A small matrix with its numbers, the larger the darker; entries in ``mark`` are framed.

    Args:
        matrix: (units, inputs).
        heading: above it.
        ax: where to draw; None makes a figure.
        mark: bool, same shape; or several such, by the colour of their frames.
    """
    ax = ax or plt.subplots(figsize=(3, 3))[1]
    table = matrix.detach().cpu().numpy()
    size = abs(table)  # shade by size, print with sign
    sns.heatmap(size, annot=table.round(2), fmt="g", cmap="Greys", cbar=False, square=True, linewidths=1, ax=ax, vmin=0)
    for colour, framed in ({} if mark is None else {"black": mark} if isinstance(mark, Tensor) else mark).items():
        for i, j in framed.nonzero().tolist():
            ax.add_patch(plt.Rectangle((j + 0.04, i + 0.04), 0.92, 0.92, fill=False, edgecolor=colour, linewidth=3))
    ax.set(title=heading, xlabel="input", ylabel="unit")
    return ax
