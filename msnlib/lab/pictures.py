"""The method in pictures, drawn from networks as they are: units and weights, masks, scores, what an optimizer holds.

Colours and hatches are the tasks' own (:mod:`msnlib.lab.looks`); the networks must be small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from msnlib.lab.looks import FREE, Look, looks
from msnlib.networks import MultitaskNetwork
from msnlib.subnetworks import owner_map, tasks

_FAINT = dict(color="0.8", linewidth=0.6, linestyle=":", zorder=1)  # a weight that is free


def diagram(net: MultitaskNetwork, ax: Axes, title: str = "", shown: Mapping[str, Look] | None = None) -> None:
    """A network's units as circles and its weights as lines, each in the colour of the task that owns it.

    Args:
        net: a small dense one; stems on the left, the trunk in the middle, heads on the right.
        ax: where to draw.
        title: above it.
        shown: task -> its look; None takes the tasks' own.
    """
    names, maps = tasks(net), owner_map(net)
    shown = shown or looks(names)
    trunk = [owner for name, owner in maps.items() if name.startswith("trunk") and owner.dim() > 1]
    columns = [trunk[0].shape[1], *(owner.shape[0] for owner in trunk)]
    entries = {task: [n for n in maps if n.startswith(f"stems.{task}.") and n.endswith("weight")] for task in names}
    stems = {task: maps[found[0]] for task, found in entries.items() if found}
    heads = {task: maps[f"heads.{task}.weight"] for task in names if f"heads.{task}.weight" in maps}
    places = [[(x, y) for y in _spread(count)] for x, count in enumerate(columns)]
    for before, after, owner in zip(places, places[1:], trunk, strict=False):
        _lines(ax, owner, before, after, names, shown)
    for which, x, end in ((stems, -1, places[0]), (heads, len(columns), places[-1])):
        ys = iter(_spread(sum(owner.shape[0 if x > 0 else 1] for owner in which.values())))
        for task, owner in which.items():
            own = [(x, next(ys)) for _ in range(owner.shape[0 if x > 0 else 1])]
            _lines(ax, owner, *((end, own) if x > 0 else (own, end)), names, shown)
            _units(ax, own, shown[task].colour, shown[task].hatch)
    for units in places:
        _units(ax, units, "0.9", "")
    ax.set(title=title, xlim=(-1.4 if stems else -0.4, len(columns) + 0.4), ylim=(-0.08, 1.08), xticks=[], yticks=[])
    ax.axis("off")


def _spread(count: int) -> list[float]:
    return [(k + 0.5) / count for k in reversed(range(count))]


def _units(ax: Axes, places: Sequence[tuple[float, float]], colour: str, hatch: str) -> None:
    look = dict(s=130, facecolor=colour, edgecolor="black", hatch=2 * hatch, linewidth=0.9, zorder=3)
    ax.scatter(*zip(*places, strict=True), **look)


def _lines(ax: Axes, owner: Tensor, before: Sequence, after: Sequence, names: Sequence[str], shown: Mapping) -> None:
    for unit, row in enumerate(owner.tolist()):
        for place, k in enumerate(row):
            look = dict(color=shown[names[k - 1]].colour, linewidth=2.2, zorder=2) if k else _FAINT
            ax.plot(*zip(before[place], after[unit], strict=True), **look)


def mask(owner: Tensor, shown: Sequence[Look], ax: Axes, title: str = "") -> None:
    """A matrix of owner numbers as cells in the tasks' colours and hatches; 0 is free.

    Shape: owner (units, inputs) or (units,), as :func:`~msnlib.owner_map` gives it.
    """
    table = owner.reshape(len(owner), -1).tolist()
    for i, row in enumerate(table):
        for j, k in enumerate(row):
            _cell(ax, j, i, shown[k - 1] if k else None)
    ax.set(title=title, xlim=(-0.1, len(table[0]) + 0.1), ylim=(len(table) + 0.1, -0.1), aspect="equal")
    ax.axis("off")


def _cell(ax: Axes, x: float, y: float, look: Look | None, text: str = "") -> None:
    colour, hatch = (look.colour, look.hatch) if look else (FREE, "")
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="0.25", hatch=hatch, linewidth=0.7))
    if text:
        ink, box = (look.ink, dict(facecolor=colour, edgecolor="none", pad=0.6)) if look else ("black", None)
        ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, color=ink, bbox=box)


def numbers(matrix: Tensor, owner: Tensor, shown: Sequence[Look], ax: Axes, title: str = "") -> None:
    """A matrix with its numbers, each cell as in :func:`mask`; what is not a number stays empty.

    Args:
        matrix: (units, inputs).
        owner: owner numbers, same shape.
        shown: the tasks' looks, in order.
        ax: where to draw.
        title: above it.
    """
    mask(owner, shown, ax, title)
    for i, row in enumerate(matrix.tolist()):
        for j, value in enumerate(row):
            if value == value:
                _cell(ax, j, i, shown[k - 1] if (k := int(owner[i, j])) else None, f"{value:.2f}")


def strips(rows: Mapping[str, Sequence[Look | None]], ax: Axes, width: int = 40) -> None:
    """What each optimizer holds: a cell for every value, in the colour of its owner; None is a free weight.

    Args:
        rows: who holds -> the owners of the values held.
        ax: where to draw.
        width: cells in a line.
    """
    y, ticks = 0.0, {}
    for name, held in rows.items():
        lines = -(-len(held) // width)
        ticks[name] = y + lines / 2
        for place, look in enumerate(held):
            _cell(ax, place % width, y + place // width, look)
        last = len(held) if lines == 1 else width
        ax.text(last + 0.4, ticks[name], f"{len(held)} values", va="center", fontsize=9)
        y += lines + 0.8
    ax.set(xlim=(-0.2, 1.13 * width), ylim=(y, -0.3), xticks=[], aspect="equal")
    ax.set_yticks(list(ticks.values()), list(ticks))
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)


def legend(figure: plt.Figure, shown: Mapping[str, Look]) -> None:
    """The tasks' colours and hatches, below a figure."""
    patches = [Patch(facecolor=look.colour, hatch=look.hatch, edgecolor="black", label=look.title)
               for look in shown.values()]  # fmt: skip
    patches.append(Patch(facecolor=FREE, edgecolor="black", label="free"))
    figure.legend(handles=patches, loc="lower center", ncols=len(patches))
