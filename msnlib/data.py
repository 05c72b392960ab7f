"""Named datasets as tasks: read, checked, split and scaled. Damaged data is named in an error, never trained on.

One row of the registry is one dataset: how to load raw arrays, and what kind of task they make. Images and the
Boston table are read from a root folder in torchvision's layout; the other datasets come with scikit-learn.
Every dataset has a fixed test part; 20 % of the rest, drawn by ``split_seed``, is its validation part.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import Tensor

from msnlib import readers
from msnlib.readers import Arrays, Raw
from msnlib.task import Task

Loader = Callable[[Path], Raw]
Encoder = Callable[[np.ndarray], Callable[[np.ndarray], Tensor]]


@dataclass(frozen=True)
class Dataset:
    """One row of the registry.

    Attributes:
        name: what :func:`load_task` calls it.
        description: one line: what it is and where it comes from.
        load: from the root folder to unscaled arrays. Integer y holds class labels, by which the splits are
            stratified.
        kind: the task's kind, see :class:`~msnlib.task.Task`; it says how y is encoded.
        encode_x: given the training x, returns the function that turns the x of any part into a tensor.
        outputs, batch_size, vocabulary: see :class:`~msnlib.task.Task`.
        bundled: whether the data is installed with scikit-learn, so that neither a file nor a network is needed.
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


def datasets() -> list[Dataset]:
    """All datasets that :func:`load_task` knows, in the order of the registry. Reads nothing from disk."""
    return list(_REGISTRY.values())


def load_task(name: str, limit: int | None = None, split_seed: int = 0, root: str | Path | None = None) -> Task:
    """The dataset ``name``, split and scaled. Neither reads nor changes the state of any global random generator.

    Scalers are fitted on the training part only. The test part does not depend on ``split_seed``.

    Args:
        name: one of the names in :func:`datasets`.
        limit: number of examples to keep for training and validation together, a random subset drawn by
            ``split_seed``; all of them if None. The test part is cut to its first ``limit`` examples. With
            ``limit=1`` the validation part is empty.
        split_seed: draws the subset and the validation part.
        root: folder of the data that is not bundled; default ``$MSNLIB_DATA``, else ``~/.cache/msnlib``. MNIST and
            Fashion-MNIST are downloaded into it when they are not there.

    Shape:
        x (N, 28, 28) or (N, 8, 8) for images, in [0, 1]; (N, columns) for tables. y (N,) int64 for classification,
        else (N, 1). Floats have ``torch.get_default_dtype()``. All on the CPU.

    Raises:
        ValueError: unknown name; limit or split_seed not an integer or out of range.
        DataError: a file is damaged, or missing and not to be had.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown dataset {name!r}: choose from {', '.join(_REGISTRY)}")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"limit must be None or an integer of at least 1, not {limit!r}")
    if type(split_seed) is not int or not 0 <= split_seed < 2**32:
        raise ValueError(f"split_seed must be an integer from 0 to 2**32 - 1, not {split_seed!r}")
    dataset = _REGISTRY[name]
    root = Path(root or os.environ.get("MSNLIB_DATA") or "~/.cache/msnlib").expanduser()
    (x, y), (x_test, y_test), source = dataset.load(root)
    train, valid = _hold_out(y, split_seed, limit)
    parts = {"train": (x[train], y[train]), "valid": (x[valid], y[valid]), "test": (x_test[:limit], y_test[:limit])}
    encode_x = dataset.encode_x(parts["train"][0])
    encode_y = _ENCODE_Y[dataset.kind](parts["train"][1])
    copied = ("name", "kind", "outputs", "batch_size", "vocabulary")
    return Task(
        **{attribute: getattr(dataset, attribute) for attribute in copied},
        **{part: (encode_x(a), encode_y(b)) for part, (a, b) in parts.items()},
        description="; ".join(filter(None, (dataset.description, source))),
    )


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
    "classification": lambda _: lambda y: torch.from_numpy(y).to(torch.int64),
    "binary": lambda _: lambda y: _floats(_table(y)),
    "regression": _min_max,
}

# Loaders of what scikit-learn brings.


def _bundled(load: Callable[..., Arrays], **options: bool) -> Loader:
    """Loader of a scikit-learn dataset; its test part is the same 20 % whatever the split seed."""

    def split(_: Path) -> Raw:
        x, y = load(return_X_y=True, **options)
        rest, test = _hold_out(y, seed=0)
        return Raw((x[rest], y[rest]), (x[test], y[test]))

    return split


def _digits(permuted: bool, **options: bool) -> Arrays:
    x, y = load_digits(**options)
    order = np.random.RandomState(0).permutation(64) if permuted else np.arange(64)
    return x[:, order].reshape(-1, 8, 8), y


_MNIST = {"kind": "classification", "encode_x": _pixels(255), "outputs": 10, "batch_size": 512, "bundled": False}
_DIGITS = {"kind": "classification", "encode_x": _pixels(16), "outputs": 10, "batch_size": 64}
_TRACTS = "506 tracts, median home value, Keras's test split; column b encodes race (CSV)"
_MASSES = "569 breast masses, malignant 0 or benign 1 (UCI, scikit-learn)"
_PATIENTS = "442 patients, disease progression after a year (Efron et al. 2004, scikit-learn)"
_ROWS = (
    Dataset(
        "mnist", "60,000 + 10,000 handwritten digits, 28 x 28 (torchvision)", partial(readers.idx, "MNIST"), **_MNIST
    ),
    Dataset(
        "fashion",
        "60,000 + 10,000 Zalando garments, 28 x 28 (torchvision)",
        partial(readers.idx, "FashionMNIST"),
        **_MNIST,
    ),
    Dataset("boston", _TRACTS, readers.boston, "regression", _min_max, bundled=False),
    Dataset("digits", "1,797 digits, 8 x 8 (UCI, scikit-learn)", _bundled(_digits, permuted=False), **_DIGITS),
    Dataset("digits_permuted", "digits, one fixed pixel permutation", _bundled(_digits, permuted=True), **_DIGITS),
    Dataset("breast_cancer", _MASSES, _bundled(load_breast_cancer), "binary", _standard),
    Dataset(
        "wine", "178 wines, 3 cultivars (scikit-learn)", _bundled(load_wine), "classification", _standard, outputs=3
    ),
    Dataset("diabetes", _PATIENTS, _bundled(load_diabetes), "regression", _standard),
)
_REGISTRY = {row.name: row for row in _ROWS}
