"""Named datasets as tasks: read, checked, split and scaled. Damaged data is named in an error, never trained on.

One row of the registry is one dataset: how to load raw arrays, and what kind of task they make. Some are read from
files in a root folder (:mod:`msnlib.data.readers`, :mod:`msnlib.data.newswires`); the bundled ones come with
scikit-learn or are made by code (:mod:`msnlib.data.invented`). Every dataset has a fixed test part, unless another is
drawn by ``test_seed``; 20 % of the rest, drawn by ``split_seed``, is its validation part.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import Tensor

from msnlib.data import invented, newswires, readers
from msnlib.data.bundled import load_diabetes, load_digits, load_sample_images, load_wine
from msnlib.data.readers import Arrays, DataError, Raw
from msnlib.task import Task

Loader = Callable[[Path], Raw]
Encoder = Callable[[np.ndarray], Callable[[np.ndarray], Tensor]]


@dataclass(frozen=True)
class Dataset:
    """One row of the registry.

    Attributes:
        name: what :func:`load_task` calls it.
        description: one line: what it is and where it comes from. The task's says too which source was used.
        load: from the root folder to unscaled arrays. Integer y holds class labels, by which the splits are
            stratified.
        kind: the task's kind, see :class:`~msnlib.task.Task`; it says how y is encoded.
        encode_x: given the training x, returns the function that turns the x of any part into a tensor.
        outputs, batch_size, vocabulary, labels: see :class:`~msnlib.task.Task`.
        bundled: whether the data comes with scikit-learn or is made by code: no file and no network is needed.
    """

    name: str
    description: str
    load: Loader = field(repr=False)
    kind: str
    encode_x: Encoder = field(repr=False)
    outputs: int = 1
    batch_size: int = 32
    vocabulary: int | None = None
    bundled: bool = True
    labels: tuple[str, ...] = ()


def datasets() -> list[Dataset]:
    """All datasets that :func:`load_task` knows, in the order of the registry. Reads nothing from disk."""
    return list(_REGISTRY.values())


def load_task(
    name: str,
    limit: int | None = None,
    split_seed: int = 0,
    root: str | Path | None = None,
    test_seed: int | None = None,
) -> Task:
    """The dataset ``name``, split and scaled. Neither reads nor changes the state of any global random generator.

    Scalers are fitted, and words are counted, on the training part only. The test part does not depend on
    ``split_seed``.

    Args:
        name: one of the names in :func:`datasets`.
        limit: number of examples to keep for training and validation together, a random subset drawn by
            ``split_seed``; all of them if None. The test part is cut to its first ``limit`` examples. With
            ``limit=1`` the validation part is empty.
        split_seed: draws the subset and the validation part.
        root: folder of the data that is not bundled; default ``$MSNLIB_DATA``, else ``~/.cache/msnlib``. MNIST,
            Fashion-MNIST and CIFAR-10 are downloaded into it when they are not there.
        test_seed: draws a test part of the same size from all examples, so that a small one is not the same few for
            every seed; None takes the dataset's own.

    Shape:
        x (N, height, width) for grey images and (N, 3, height, width) for colour, in [0, 1]; (N, columns) for tables;
        (N, words) int64 for texts. y (N,) int64 for classification, else (N, 1). Floats have
        ``torch.get_default_dtype()``. All on the CPU.

    Raises:
        ValueError: unknown name; limit, split_seed or test_seed not an integer or out of range.
        DataError: a file is damaged, or missing and not to be had.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown dataset {name!r}: choose from {', '.join(_REGISTRY)}")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"limit must be None or an integer of at least 1, not {limit!r}")
    for label, seed in (("split_seed", split_seed), ("test_seed", 0 if test_seed is None else test_seed)):
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise ValueError(f"{label} must be an integer from 0 to 2**32 - 1, not {seed!r}")
    dataset = _REGISTRY[name]
    root = Path() if dataset.bundled else _root(root)
    try:
        (x, y), (x_test, y_test), source = dataset.load(root)
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read: {error.strerror or error}") from None
    rows = None
    if test_seed is not None:
        (x, y), (x_test, y_test), rows = _other_test((x, y), (x_test, y_test), test_seed)
    train, valid = _hold_out(y, split_seed, limit)
    parts = {"train": (x[train], y[train]), "valid": (x[valid], y[valid]), "test": (x_test[:limit], y_test[:limit])}
    encode_x = dataset.encode_x(parts["train"][0])
    encode_y = _ENCODE_Y[dataset.kind](parts["train"][1])
    copied = ("name", "kind", "outputs", "batch_size", "vocabulary", "labels")
    return Task(
        **{attribute: getattr(dataset, attribute) for attribute in copied},
        **{part: (encode_x(a), encode_y(b)) for part, (a, b) in parts.items()},
        description="; ".join(filter(None, (dataset.description, source))),
        test_rows=None if rows is None else tuple(rows[:limit].tolist()),
    )


def _other_test(learned: Arrays, tested: Arrays, seed: int) -> tuple[Arrays, Arrays, np.ndarray]:
    """Return the same examples with as many others as test part, and which rows these are, the own test part last."""
    x, y = (np.concatenate(both) for both in zip(learned, tested, strict=True))
    order = np.random.RandomState(seed).permutation(len(y))
    test, rest = order[: len(tested[1])], np.sort(order[len(tested[1]) :])
    return (x[rest], y[rest]), (x[test], y[test]), test


def _root(given: str | Path | None) -> Path:
    root = Path(given or os.environ.get("MSNLIB_DATA") or "~/.cache/msnlib")
    try:
        return root.expanduser()
    except RuntimeError:  # a user without a home
        raise DataError(f"{root}: there is no home folder; set MSNLIB_DATA to a folder of data") from None


def _hold_out(y: np.ndarray, seed: int, limit: int | None = None) -> Arrays:
    """Indices of a random 80 % and of the other 20 %, of ``limit`` random examples; stratified for integer y."""
    # RandomState, because NumPy promises never to change its streams: a split stays the same in later versions.
    order = np.random.RandomState(seed).permutation(len(y))[:limit]
    # Every fifth example of a list sorted by class is 20 % of each class, however few examples there are.
    ranked = order[np.argsort(y[order], kind="stable")] if y.dtype.kind in "iu" else order
    held = np.isin(order, ranked[1::5])
    return order[~held], order[held]


# Encoders: from a training array to the function that turns the arrays of all parts into tensors.


def _floats(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(torch.get_default_dtype())


def _pixels(highest: int) -> Encoder:
    return lambda _: lambda x: _floats(x) / highest


def _indices(_: np.ndarray) -> Callable[[np.ndarray], Tensor]:
    return lambda x: torch.from_numpy(x).to(torch.int64)


def _words(vocabulary: int, length: int, front: bool = False) -> Encoder:
    """Encoder of strings as (N, length) indices: 0 padding, 1 start, 2 unknown, then words from the most frequent on.

    Words as frequent as each other are in alphabetical order. Padded and cut at the end, or else at the front.
    """

    def encoder(train: np.ndarray) -> Callable[[np.ndarray], Tensor]:
        counts = Counter(word for text in train for word in text.split())
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        index = {word: n for n, word in enumerate(ranked[: vocabulary - 3], start=3)}

        def encode(texts: np.ndarray) -> Tensor:
            rows = torch.zeros(len(texts), length, dtype=torch.int64)
            for row, text in zip(rows.numpy(), texts, strict=True):
                found = [1, *(index.get(word, 2) for word in text.split())]
                if front:
                    found = found[-length:]
                    row[length - len(found) :] = found
                else:
                    found = found[:length]
                    row[: len(found)] = found
            return rows

        return encode

    return encoder


def _scaled(scaler: type[StandardScaler] | type[MinMaxScaler]) -> Encoder:
    """Encoder by scikit-learn, column by column; an array of shape (N,) is one column."""

    def encoder(train: np.ndarray) -> Callable[[np.ndarray], Tensor]:
        fitted = scaler().fit(_table(train))
        # scikit-learn refuses an empty table, such as the validation part of limit=1.
        return lambda array: _floats(fitted.transform(_table(array)) if len(array) else _table(array))

    return encoder


def _table(array: np.ndarray) -> np.ndarray:
    return array[:, None] if array.ndim == 1 else array


_standard, _min_max = _scaled(StandardScaler), _scaled(MinMaxScaler)


_ENCODE_Y: dict[str, Encoder] = {
    "classification": _indices,
    "binary": lambda _: lambda y: _floats(_table(y)),
    "regression": _min_max,
}

# Loaders that split, of data that comes without a test part.


def _splitting(load: Callable[[Path], Arrays]) -> Loader:
    """Loader of what ``load`` reads from the root; its test part is the same 20 % whatever the split seed."""

    def split(root: Path) -> Raw:
        x, y = load(root)
        rest, test = _hold_out(y, seed=0)
        return Raw((x[rest], y[rest]), (x[test], y[test]))

    return split


def _bundled(load: Callable[[], Arrays]) -> Loader:
    """The same of what needs no file: scikit-learn's, or made by code."""
    return _splitting(lambda _: load())


def _digits(permuted: bool) -> Arrays:
    x, y = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(64) if permuted else np.arange(64)
    return x[:, order].reshape(-1, 8, 8), y


def _digits_words() -> Arrays:
    x, y = load_digits(return_X_y=True)
    return x.astype(np.int64), 1 - y % 2


def _photo_patches() -> Arrays:
    """900 of the 53 x 80 patches of each photograph, (1800, 3, 8, 8) uint8."""
    patches, random = [], np.random.RandomState(0)
    for photo in load_sample_images().images:  # both 427 x 640 x 3: the last three lines of pixels fill no patch
        grid = photo[:424].reshape(53, 8, 80, 8, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 8, 8)
        patches.append(grid[random.permutation(len(grid))[:900]])
    return np.concatenate(patches), np.repeat([0, 1], 900)


def _of_many(load: Callable[[Path], Arrays], label: Callable[[np.ndarray], np.ndarray]) -> Loader:
    """Loader of one of the tasks of images with several labels. The test part is the same 20 % of them for all."""

    def split(root: Path) -> Raw:
        x, labels = load(root)
        rest, test = _hold_out(np.zeros(len(x)), seed=0)  # floats: not stratified by a label that the others lack
        y = label(labels)
        return Raw((x[rest], y[rest]), (x[test], y[test]))

    return split


def _decade(labels: np.ndarray) -> np.ndarray:
    """Ages 0 to 10, 11 to 20, ..., 81 to 90, and all above: the authors' bins."""
    return np.searchsorted(np.arange(10, 100, 10), labels[:, 0])


def _column(number: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda labels: labels[:, number]


_faces = partial(_of_many, readers.utkface)
_drawn = partial(_of_many, lambda _: invented.figures())

_TEN = tuple("0123456789")
_CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
_IMAGES = {"kind": "classification", "encode_x": _pixels(255), "outputs": 10, "batch_size": 512, "bundled": False}
_DIGITS = {"kind": "classification", "encode_x": _pixels(16), "outputs": 10, "batch_size": 64, "labels": _TEN}
_WORDS = {"kind": "binary", "encode_x": _words(10_000, 128), "vocabulary": 10_000, "bundled": False}
_INK = {"kind": "binary", "encode_x": _indices, "vocabulary": 17, "batch_size": 64}
_FACE = {"kind": "classification", "encode_x": _pixels(255), "batch_size": 256, "bundled": False}
_SMALL_PHOTOS = {"kind": "classification", "encode_x": _pixels(255), "batch_size": 64}
_WIRES = {"kind": "classification", "encode_x": _words(30_000, 512, front=True), "vocabulary": 30_000}
_SHORT_WIRES = {"kind": "classification", "encode_x": _words(100, 40, front=True), "vocabulary": 100}
_WIRES |= {"outputs": 46, "batch_size": 256, "bundled": False}
_SHORT_WIRES |= {"outputs": 5, "batch_size": 32}
_SHORT_REVIEWS = {"kind": "binary", "encode_x": _words(100, 40), "vocabulary": 100, "batch_size": 32}
_FACES = (
    "faces, 64 x 64 (published: 256 x 256), labelled by an algorithm and then annotators from how people look: "
    "draw no conclusions about people (UTKFace)"
)
_NUMERALS = "60,000 + 10,000 handwritten digits, 28 x 28 (torchvision)"
_GARMENTS = "60,000 + 10,000 Zalando garments, 28 x 28 (torchvision)"
_OBJECTS = "50,000 + 10,000 photographs of 10 classes, resized to 28 x 28 (CIFAR-10)"
_TRACTS = "506 tracts, median home value, Keras's test split; column b encodes race (CSV)"
_FILMS = "25,000 + 25,000 film reviews, positive 1 or negative 0, first 127 words (aclImdb)"
_SENTENCES = "digits as sentences of 64 words, one for each amount of ink; even 1, odd 0"
_PATCHES = "1,800 patches, 8 x 8, of two photographs: which one? (scikit-learn)"
_NEWSWIRES = "11,228 newswires of 46 topics, last 512 words (Reuters-21578, Distribution 1.0; for research only)"
_REPORTS = "500 invented newswires of 5 subjects, last 40 words (made by code)"
_OPINIONS = "500 invented film reviews, positive 1 or negative 0, first 40 words (made by code)"
_FIGURES = "3,000 drawn figures, 28 x 28 in colour (made by code)"
_WINES = "178 wines, 3 cultivars (scikit-learn)"
_PATIENTS = "442 patients, disease progression after a year (Efron et al. 2004, scikit-learn)"
_wine, _diabetes = (_bundled(partial(load, return_X_y=True)) for load in (load_wine, load_diabetes))
_ROWS = (
    Dataset("mnist", _NUMERALS, partial(readers.idx, "MNIST"), **_IMAGES, labels=_TEN),
    Dataset("fashion", _GARMENTS, partial(readers.idx, "FashionMNIST"), **_IMAGES, labels=_CLOTHES),
    Dataset("boston", _TRACTS, readers.boston, "regression", _min_max, bundled=False),
    Dataset("imdb", _FILMS, readers.imdb, **_WORDS),
    Dataset("cifar10", _OBJECTS, readers.cifar10, **_IMAGES, labels=readers.CIFAR_CLASSES),
    Dataset("reuters", _NEWSWIRES, _splitting(newswires.reuters), **_WIRES),
    Dataset("utkface_age", f"age in 10 bins of {_FACES}", _faces(_decade), **_FACE, outputs=10),
    Dataset("utkface_gender", f"gender, one of 2, of {_FACES}", _faces(_column(1)), **_FACE | {"kind": "binary"}),
    Dataset("utkface_ethnicity", f"ethnicity, one of 5, of {_FACES}", _faces(_column(2)), **_FACE, outputs=5),
    Dataset("digits", "1,797 digits, 8 x 8 (UCI, scikit-learn)", _bundled(partial(_digits, permuted=False)), **_DIGITS),
    Dataset(
        "digits_permuted", "digits, one fixed pixel permutation", _bundled(partial(_digits, permuted=True)), **_DIGITS
    ),
    Dataset("digits_words", _SENTENCES, _bundled(_digits_words), **_INK),
    Dataset("newswires", _REPORTS, _bundled(invented.newswires), **_SHORT_WIRES),
    Dataset("reviews", _OPINIONS, _bundled(invented.reviews), **_SHORT_REVIEWS),
    Dataset("photo_patches", _PATCHES, _bundled(_photo_patches), **_SMALL_PHOTOS, outputs=2),
    Dataset("figure_shape", f"shape, one of 4, of {_FIGURES}", _drawn(_column(0)), **_SMALL_PHOTOS, outputs=4),
    Dataset("figure_colour", f"colour, one of 6, of {_FIGURES}", _drawn(_column(1)), **_SMALL_PHOTOS, outputs=6),
    Dataset("figure_size", f"size, one of 3, of {_FIGURES}", _drawn(_column(2)), **_SMALL_PHOTOS, outputs=3),
    Dataset("wine", _WINES, _wine, "classification", _standard, outputs=3),
    Dataset("diabetes", _PATIENTS, _diabetes, "regression", _standard),
)
_REGISTRY = {row.name: row for row in _ROWS}
