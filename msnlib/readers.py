"""Raw files as NumPy arrays: read and checked. Damaged data is named in an error, never returned."""

from __future__ import annotations

import hashlib
import socket
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

Arrays = tuple[np.ndarray, np.ndarray]

DOWNLOAD_TIMEOUT = 5.0  # seconds without an answer, for each address of each mirror


class DataError(RuntimeError):
    """Data that is missing or damaged. The message is one line: what, where, and what to do about it."""


class Raw(NamedTuple):
    """A dataset as read: unscaled pairs (x, y), y of shape (N,), and which source was used where there are several."""

    rest: Arrays
    test: Arrays
    source: str = ""


_IDX_SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
_IDX_MD5 = {  # of the unpacked files, in the order above; torchvision checks only the archives
    "MNIST": (
        *("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
        *("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    ),
    "FashionMNIST": (
        *("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
        *("8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
}


def idx(dataset: str, root: Path) -> Raw:
    """Torchvision's dataset of this name, downloaded when one of its files is absent: x (N, 28, 28) uint8."""
    folder = root / dataset / "raw"
    arrays, reason = _read_present(dataset, folder), ""
    if len(arrays) < len(_IDX_SHAPES):
        reason = _download(dataset, root)
        arrays = _read_present(dataset, folder)
    if absent := [name for name in _IDX_SHAPES if name not in arrays]:
        raise DataError(
            f"{dataset}: {', '.join(absent)} not found in {folder} and not downloaded: go online, or set "
            f"MSNLIB_DATA to a folder that holds {dataset}/raw with the four unpacked files ({reason})"
        )
    x, y, x_test, y_test = arrays.values()
    return Raw((x, y), (x_test, y_test))


def _read_present(dataset: str, folder: Path) -> dict[str, np.ndarray]:
    """Those of the idx files that are in the folder, each of them checked."""
    files = zip(_IDX_SHAPES.items(), _IDX_MD5[dataset], strict=True)
    return {n: _read_idx(folder / n, shape, md5) for (n, shape), md5 in files if (folder / n).is_file()}


def _read_idx(path: Path, shape: tuple[int, ...], md5: str) -> np.ndarray:
    # Not torchvision's reader: it checks less, and would prefer an old processed/*.pt beside the folder.
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    header = bytes((0, 0, 8, len(shape))) + b"".join(n.to_bytes(4, "big") for n in shape)  # 8: unsigned bytes
    size, start = len(header) + prod(shape), content[: len(header)].tobytes()
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if (len(content), start, digest) == (size, header, md5):
        return content[len(header) :].reshape(shape)
    if len(content) != size:
        fault = f"found {len(content)} bytes, expected {size}"
    elif start != header:
        fault = f"found header {start.hex()}, expected {header.hex()} for unsigned bytes of shape {shape}"
    else:
        fault = f"found MD5 {digest}, expected {md5}"
    raise DataError(f"{path}: damaged: {fault}; delete the file to have it downloaded again")


def _download(dataset: str, root: Path) -> str:
    """Lets torchvision download into the root, without its progress bars. Returns what it said, in one line."""
    import torchvision.datasets  # slow to import, and needed for a first download only

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # torchvision sets none and may wait for minutes
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            getattr(torchvision.datasets, dataset)(root, download=True)
    except Exception as error:  # whatever it is: what counts is which files are there now
        return " ".join(f"{type(error).__name__}: {error}".split())
    finally:
        socket.setdefaulttimeout(timeout)
    return "torchvision reported no error"


def boston(root: Path) -> Raw:
    """Boston housing in the split of Keras's ``boston_housing``, which the paper's authors used: 404 and 102 rows."""
    path = root / "boston" / "BostonHousing.csv"
    if not path.is_file():
        raise DataError(
            f"{path} not found: put the Boston housing CSV there (506 rows, 13 columns and then medv, e.g. "
            "BostonHousing of the R package mlbench), or set MSNLIB_DATA to the folder that holds boston/; it is not "
            "downloaded"
        )
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as CSV: {' '.join(str(error).split())}") from None
    values = frame.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    bad = int((~np.isfinite(values)).sum())
    if values.shape != (506, 14) or frame.columns[-1] != "medv" or bad:
        raise DataError(
            f"{path}: damaged: found {len(values)} rows x {values.shape[1]} columns, the last {frame.columns[-1]!r}, "
            f"{bad} cells missing or not numeric; expected 506 rows x 14 numeric columns, the last 'medv'"
        )
    order = np.arange(506)
    np.random.RandomState(113).shuffle(order)
    rest, test = values[order[:404]], values[order[404:]]
    return Raw((rest[:, :-1], rest[:, -1]), (test[:, :-1], test[:, -1]))
