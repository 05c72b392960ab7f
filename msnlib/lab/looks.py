"""How a task, or an arm, looks and what it is called in every figure: one colour, one name, one hatch or line for each.

The colours differ in lightness as they do in hue, so that greyscale and the colour-blind tell them apart; of arms line
and mark do it too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

COLOURS = ("#12306f", "#f2bc45", "#2f9471", "#c673b0", "#a8321e", "#d5e8f7")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "++")
FREE = "white"  # of a weight without an owner


class Look(NamedTuple):
    """What a task is called in figures, its colour and its hatch."""

    title: str
    colour: str
    hatch: str

    @property
    def ink(self) -> str:
        """The colour of letters on the task's own: black or white."""
        red, green, blue = (int(self.colour[k : k + 2], 16) for k in (1, 3, 5))
        return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 128 else "black"


# Name of a task -> what it is called, and its place among the colours. Tasks that meet in a figure have places apart.
_TASKS = {
    "mnist": ("MNIST", 0),
    "fashion": ("Fashion-MNIST", 1),
    "boston": ("Boston housing", 2),
    "imdb": ("film reviews", 3),
    "cifar10": ("CIFAR-10", 4),
    "reuters": ("newswires", 5),
    "digits": ("digits", 0),
    "digits_permuted": ("permuted digits", 1),
    "diabetes": ("diabetes", 2),
    "wine": ("wines", 4),
    "digits_words": ("digits as words", 3),
    "newswires": ("newswires", 5),
    "reviews": ("film reviews", 3),
    "easy": ("easy half", 0),
    "hard": ("hard half", 1),
    "hard_sparse": ("hard half, few examples", 1),
    "unrelated": ("unrelated task", 2),
    "fashion_sum": ("Fashion-MNIST, the sum", 5),
    "task_identity": ("which task it is", 4),
    "overall": ("label, task not told", 5),
    "figure_shape": ("shape", 0),
    "figure_colour": ("colour", 1),
    "figure_size": ("size", 2),
    "patches": ("photographs", 4),
    "age": ("age", 0),
    "gender": ("gender", 1),
    "ethnicity": ("ethnicity", 2),
    "blue": ("blue", 0),
    "green": ("green", 2),
    "red": ("red", 4),
}


def title(task: str) -> str:
    """Return what a task is called where it is not a name in code."""
    numbered = re.fullmatch(r"(\w+?)_(permuted_)?(\d+)", task)
    if task in _TASKS or not numbered:
        return _TASKS[task][0] if task in _TASKS else task
    return f"{title(numbered[1])}, {'order' if numbered[2] else 'no.'} {numbered[3]}"


def looks(tasks: Iterable[str]) -> dict[str, Look]:
    """Return task -> its look: always the same for a task that notebooks know, else the first that is not taken."""
    names = list(dict.fromkeys(tasks))
    wanted = {name: _TASKS[name][1] for name in names if name in _TASKS}
    for name in names:
        if name not in wanted and (numbered := re.fullmatch(r"\w+_(\d+)", name)):
            wanted[name] = int(numbered[1])
    places: dict[str, int] = {}
    for name in [*wanted, *(name for name in names if name not in wanted)]:
        free = next(place for place in range(len(names)) if place not in places.values())
        place = wanted.get(name, free)
        places[name] = free if place in places.values() else place
    return {name: _look(title(name), places[name]) for name in names}


def _look(said: str, place: int) -> Look:
    """The look at a place; beyond the colours hatches tell tasks apart."""
    turn, colour = divmod(place, len(COLOURS))
    return Look(said, COLOURS[colour], HATCHES[(colour + turn) % len(HATCHES)])


class ArmLook(NamedTuple):
    """What an arm is called in figures, and its colour, line and mark."""

    title: str
    colour: str
    line: str
    marker: str

    @property
    def drawn(self) -> dict[str, str]:
        """What ``plot`` and ``errorbar`` take."""
        return dict(color=self.colour, linestyle=self.line, marker=self.marker)


ARM_COLOURS = ("#0173b2", "#e8a33d", "#d5603a", "#000000", "#0b4d31", "#9c89b8", "#bdbdbd")
_ARM_LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
_MARKS = "o^sDvPX"

# Name of an arm -> what it is called, and its place. Arms that meet in a figure have places apart.
_ARMS = {
    "multitask": ("weights as in the paper", 0),
    "random": ("weights at random", 1),
    "small": ("small dense networks", 2),
    "dedicated": ("a network for each task", 3),
    "pruned": ("pruned alone", 4),
    "reversed": ("weights as in the paper, other order", 2),
    "fine-tuning": ("one network, fine-tuned", 6),
    "packnet": ("PackNet", 4),
    "joint": ("joint training", 5),
    "multitask evened": ("as in the paper, heads evened", 4),
    "random evened": ("at random, heads evened", 5),
    "scattered": ("scattered weights", 0),
    "default": ("products chosen by layer", 1),
    "sparse": ("products with zeros left out", 2),
    "dense": ("dense networks", 3),
    "units": ("whole units", 4),
    "owner map": ("map of owners", 5),
    "beyondml": ("the authors' package", 6),
}


def arm_looks(arms: Iterable[str]) -> dict[str, ArmLook]:
    """Return arm -> its look: always the same for an arm that notebooks know, else the first that is not taken."""
    names = list(dict.fromkeys(arms))
    wanted = {name: _ARMS[name][1] for name in names if name in _ARMS}
    free = iter(place for place in range(len(names) + len(ARM_COLOURS)) if place not in wanted.values())
    places = {name: wanted[name] if name in wanted else next(free) for name in names}
    return {name: _arm_look(_ARMS[name][0] if name in _ARMS else name, place) for name, place in places.items()}


def _arm_look(said: str, place: int) -> ArmLook:
    """The look at a place; beyond the colours marks tell arms apart."""
    turn, colour = divmod(place, len(ARM_COLOURS))
    mark = _MARKS[(colour + turn) % len(_MARKS)]
    return ArmLook(said, ARM_COLOURS[colour], _ARM_LINES[colour], mark)
