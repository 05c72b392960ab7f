"""Data made by code, always the same: newswires and reviews that nobody wrote, drawn figures of three labels each."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from msnlib.data.readers import Arrays

_SUBJECTS = {
    "grain": ("wheat", "corn", "barley", "rice", "soybeans"),
    "metal": ("gold", "copper", "zinc", "silver", "tin"),
    "money": ("dollar", "yen", "bonds", "rates", "deposits"),
    "oil": ("crude", "petrol", "naphtha", "refineries", "wells"),
    "ship": ("tankers", "ports", "freight", "dockers", "cargoes"),
}
_ACTORS = ("traders", "officials", "analysts", "the ministry", "the company", "brokers", "the bank", "producers")
_VERBS = ("rose", "fell", "held steady", "were short", "were delayed", "doubled", "recovered", "slipped")
_WHEN = ("in march", "this week", "last year", "in the quarter", "on friday", "since june")


_PARTS = ("the plot", "the acting", "the music", "the ending", "the camera", "the cast", "the dialogue")
_PRAISE = ("wonderful", "moving", "clever", "funny", "gripping", "honest")
_BLAME = ("dull", "clumsy", "silly", "tired", "hollow", "confusing")
_DEGREES = ("really", "rather", "almost always", "at times", "quite", "mostly")


def newswires(count: int = 500) -> Arrays:
    """Short reports on five subjects: x (N,) of strings, words in lower case between spaces; y the subject's number.

    Half of what a report names belongs to its subject, the rest to any, so single words are a hint and no proof.
    """
    random = np.random.RandomState(0)
    subjects = list(_SUBJECTS)
    everything = [word for words in _SUBJECTS.values() for word in words]
    y = np.arange(count) % len(subjects)

    def sentence(subject: str) -> str:
        nouns = [random.choice(_SUBJECTS[subject] if random.rand() < 0.5 else everything) for _ in range(2)]
        actor, verb, when = (random.choice(words) for words in (_ACTORS, _VERBS, _WHEN))
        return f"{actor} said {nouns[0]} and {nouns[1]} {verb} {when}"

    texts = [" ".join(sentence(subjects[label]) for _ in range(random.randint(2, 7))) for label in y]
    return np.array(texts, dtype=object), y


def reviews(count: int = 500) -> Arrays:
    """Short film reviews: x (N,) of strings as in :func:`newswires`; y 1 where the review is positive.

    Five judgements in six are of the review's kind; one in six is said with "not" and the opposite word.
    """
    random = np.random.RandomState(1)
    y = np.arange(count) % 2

    def sentence(good: int) -> str:
        said, denied = good if random.rand() < 5 / 6 else 1 - good, random.rand() < 1 / 6
        word = random.choice(_PRAISE if said != denied else _BLAME)
        part, degree = random.choice(_PARTS), random.choice(_DEGREES)
        return f"{part} was {degree} {'not ' if denied else ''}{word}"

    texts = [" ".join(sentence(good) for _ in range(random.randint(3, 7))) for good in y]
    return np.array(texts, dtype=object), y


SHAPES = ("circle", "triangle", "square", "cross")
COLOURS = {
    "red": (200, 60, 60),
    "green": (60, 170, 70),
    "blue": (70, 90, 200),
    "yellow": (200, 190, 60),
    "magenta": (190, 70, 180),
    "cyan": (70, 180, 190),
}
SIZES = {"small": (5.0, 6.0), "medium": (7.0, 8.5), "large": (9.5, 11.0)}  # radius in pixels of 28
_SIDE, _FINER = 28, 4


@cache
def figures(count: int = 3000) -> Arrays:
    """A figure on dark ground: x (N, 3, 28, 28) uint8; labels (N, 3): its shape, its colour and its size.

    The three labels are drawn independently, so none says anything about another. Place, turn, shade and noise are
    drawn too.
    """
    random = np.random.RandomState(0)
    labels = np.stack([random.randint(len(names), size=count) for names in (SHAPES, COLOURS, SIZES)], axis=1)
    x = np.stack([_figure(random, *row) for row in labels])
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), labels


def _figure(random: np.random.RandomState, shape: int, colour: int, size: int) -> np.ndarray:
    """One figure, (28, 28, 3) uint8; drawn four times as large, so that its edges are smooth."""
    radius = random.uniform(*list(SIZES.values())[size])
    centre = _SIDE / 2 + random.uniform(-3, 3, size=2)
    ground = int(random.randint(20, 80))
    fill = np.array(list(COLOURS.values())[colour]) + random.randint(-50, 51, size=3)
    image = Image.new("RGB", (_SIDE * _FINER, _SIDE * _FINER), (ground, ground, ground))
    points = (centre + radius * _outline(SHAPES[shape], random.uniform(-0.3, 0.3))) * _FINER
    ImageDraw.Draw(image).polygon([tuple(p) for p in points], fill=tuple(int(n) for n in fill.clip(0, 255)))
    pixels = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=float)
    return (pixels + random.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)


def _outline(shape: str, turn: float) -> np.ndarray:
    """Corners in a circle of radius 1 around the origin, turned by an angle in radians: (corners, 2)."""
    if shape == "cross":  # arms three tenths as wide as the cross
        tip, inner = np.arctan2(0.3, 1), np.pi / 4
        angles = np.concatenate([quarter + np.array([-tip, tip, inner]) for quarter in np.arange(4) * np.pi / 2])
        radii = np.tile([1, 1, 0.3 * np.sqrt(2) / np.hypot(1, 0.3)], 4)
    else:
        corners = {"circle": 40, "triangle": 3, "square": 4}[shape]
        angles, radii = np.arange(corners) * 2 * np.pi / corners + np.pi / corners, np.ones(corners)
    return radii[:, None] * np.stack([np.cos(angles + turn), np.sin(angles + turn)], axis=1)
