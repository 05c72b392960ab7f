"""Looks: a task is the same everywhere; in greyscale and to the colour-blind no two tasks of a figure are alike."""

import io
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from msnlib import allocate, dense_network, owner_map, tasks
from msnlib.lab.looks import _ARMS, _TASKS, COLOURS, arm_looks, looks

# Machado, Oliveira, Fernandes 2009: what is left of a colour (linear RGB) without one of the three kinds of cones.
BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
GROUPS = [
    ["mnist", "fashion", "boston", "imdb"],
    ["cifar10", "mnist", "fashion"],
    ["digits", "digits_permuted", "diabetes", "digits_words"],
    ["mnist", "fashion", "mnist_permuted_2", "fashion_permuted_3", "mnist_permuted_4"],
    [f"fashion_{k}" for k in range(1, 6)],
    ["easy", "hard", "unrelated"],
    ["figure_shape", "figure_colour", "figure_size", "cifar10"],
    ["red", "blue", "green"],
    ["digits", "easy", "someone's own", "another"],  # two that want one place, two that nobody knows
]


@pytest.mark.parametrize("kind", [None, *BLIND])
def test_colours_differ_whoever_looks(kind):
    linear = [np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)])
              for colour in COLOURS]  # fmt: skip
    seen = [np.array(BLIND[kind]) @ colour if kind else colour for colour in linear]
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(np.clip(one, 0, 1) ** (1 / 2.4) - np.clip(other, 0, 1) ** (1 / 2.4)) > 0.15


def test_a_task_looks_the_same_whoever_is_beside_it():
    for name in _TASKS:
        assert looks([name])[name] == looks(["someone", name])[name]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[0])
def test_in_a_rendered_map_of_owners_greyscale_tells_tasks_apart(group):
    import matplotlib.pyplot as plt

    from msnlib.lab.plots import owners

    shown = looks(group)
    assert len({look.colour for look in shown.values()}) == len({look.title for look in shown.values()}) == len(group)
    bands = torch.arange(len(group) + 1).repeat_interleave(4)[:, None].expand(-1, 8)
    owners({"w": bands}, group)
    figure = plt.gcf()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=50)
    grey = np.asarray(Image.open(drawn).convert("L")).astype(int)
    box = figure.axes[0].get_window_extent().transformed(figure.dpi_scale_trans.inverted())
    column = int((box.x0 + 0.6 * box.width) * 50)
    top, height = figure.get_figheight() - box.y1, box.height / len(bands)
    rows = [int((top + (4 * k + 2) * height) * 50) for k in range(len(group) + 1)]
    greys = [grey[row, column] for row in rows]
    plt.close(figure)
    assert min(abs(a - b) for a, b in itertools.combinations(greys, 2)) > 20, greys


def test_diagrams_draw_every_weight_in_its_owners_colour(make_task):
    import matplotlib.pyplot as plt

    from msnlib.lab.pictures import diagram

    group = [make_task("red"), make_task("blue", "regression", inputs=(3,), outputs=1)]
    net = dense_network(group, width=5, depth=2)
    for task in group:
        allocate(net, task.name, 0.4, "random")
    _, ax = plt.subplots()
    diagram(net, ax)
    drawn = [line.get_color() for line in ax.lines]
    weights = [owner for owner in owner_map(net).values() if owner.dim() > 1]
    for k, (name, look) in enumerate(looks(tasks(net)).items(), start=1):
        assert drawn.count(look.colour) == sum(int((owner == k).sum()) for owner in weights) > 0, name
    assert len(drawn) == sum(owner.numel() for owner in weights)
    plt.close()


ARMS = [  # that meet in a figure
    ["dedicated", "pruned", "small", "multitask", "random", "another", "and one more"],
    ["fine-tuning", "packnet", "random", "multitask", "joint", "dedicated"],
    ["multitask", "reversed", "random", "dedicated"],
    ["dense", "beyondml", "owner map", "scattered", "sparse", "default", "units"],
]


@pytest.mark.parametrize("group", ARMS, ids=lambda group: group[0])
def test_arms_are_told_apart_by_greyscale_by_line_and_by_mark(group):
    shown = arm_looks(group)
    colours = [to_rgb(look.colour) for look in shown.values()]
    greys = sorted(255 * (0.299 * red + 0.587 * green + 0.114 * blue) for red, green, blue in colours)
    assert min(b - a for a, b in itertools.pairwise(greys)) > 15, greys
    for part in ("line", "marker", "title"):
        assert len({getattr(look, part) for look in shown.values()}) == len(group), part


def test_an_arm_looks_the_same_whoever_is_beside_it():
    for name in _ARMS:
        assert arm_looks([name])[name] == arm_looks(["another", name])[name]


def test_curves_of_arms_are_drawn_in_their_looks():
    import matplotlib.pyplot as plt
    import pandas as pd

    from msnlib.lab.plots import learning_curves

    arms = ["small", "multitask"]
    table = pd.DataFrame({"task": "digits", "epoch": [1, 2], "valid_loss": [2.0, 1.0]})
    history = SimpleNamespace(table=table, best={("rule", "digits"): 2})
    learning_curves({arm: [history] for arm in arms}, "rule")
    drawn = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in plt.gca().lines}
    assert {arm: (look.colour, look.line) for arm, look in arm_looks(arms).items()}.items() <= drawn.items()
    plt.close()
