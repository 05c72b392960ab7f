"""Raw files as NumPy arrays: read and checked. Damaged data is named in an error, never returned."""

from __future__ import annotations

import hashlib
import re
import socket
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

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


# Of the numbers, row by row: the same table is written in several ways.
_BOSTON_SHA256 = "832e894115c56dd24ec63848d4a3d9bd921d268d0be1bee2a8f4ee5ea318f5f7"


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
    digest = hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()
    if digest != _BOSTON_SHA256:
        raise DataError(
            f"{path}: damaged, or another table: found SHA-256 {digest} of its numbers, expected {_BOSTON_SHA256}; "
            "take BostonHousing of the R package mlbench"
        )
    order = np.arange(506)
    np.random.RandomState(113).shuffle(order)
    rest, test = values[order[:404]], values[order[404:]]
    return Raw((rest[:, :-1], rest[:, -1]), (test[:, :-1], test[:, -1]))


_REVIEWS = {"train": 12_500, "test": 12_500}  # of each of the two labels
_NO_WORD = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~', " "))  # Keras's filters: ' is kept


def imdb(root: Path) -> Raw:
    """Film reviews: x (N,) of strings, words in lower case between spaces; y 1 where the review is positive.

    Source: Maas et al. (2011), Learning Word Vectors for Sentiment Analysis.
    """
    advice = (
        f"unpack aclImdb_v1.tar.gz (https://ai.stanford.edu/~amaas/data/sentiment) in {root}, or set MSNLIB_DATA to "
        "the folder that holds aclImdb/; it is not downloaded"
    )
    return _labelled_folders(root / "aclImdb", _REVIEWS, ("neg", "pos"), "*.txt", _read_review, object, advice)


def _read_review(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged: {error}; unpack the archive again") from None
    if not text.strip():
        raise DataError(f"{path}: damaged: empty; unpack the archive again")
    return words_of(text.replace("<br />", " "))


def words_of(text: str) -> str:
    """The text in lower case, without punctuation: words between spaces, as Keras takes them."""
    return text.lower().translate(_NO_WORD)


_CIFAR_COUNTS = {"train": 5_000, "test": 1_000}  # of each class
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR_SIZE = 28  # of 32: the published experiment gives all its images one shape


def cifar10(root: Path) -> Raw:
    """CIFAR-10: x (N, 3, 28, 28) uint8, from torchvision's files if they are there, else from a folder of images.

    Downloaded by torchvision, 170 MB, when there is neither. Source: Krizhevsky (2009), Learning Multiple Layers of
    Features from Tiny Images.
    """
    original, images, reason = root / "cifar-10-batches-py", root / "cifar10", ""
    if not original.is_dir() and not images.is_dir():
        reason = _download("CIFAR10", root)
    if original.is_dir():
        raw = _read_cifar_batches(root)
    elif images.is_dir():
        advice = "put the images back, or remove the folder to have torchvision's files downloaded"
        raw = _labelled_folders(images, _CIFAR_COUNTS, CIFAR_CLASSES, "*.jpg", _read_cifar_image, np.uint8, advice)
        raw = raw._replace(source="from an image folder (JPEG)")
    else:
        raise DataError(
            f"CIFAR-10: neither {original} nor {images} found and not downloaded: go online, or set MSNLIB_DATA to a "
            f"folder that holds one of the two ({reason})"
        )
    (x, y), (x_test, y_test), source = raw
    return Raw((_resized(x), y), (_resized(x_test), y_test), source)


def _read_cifar_batches(root: Path) -> Raw:
    from torchvision.datasets import CIFAR10

    try:
        rest, test = CIFAR10(root, train=True), CIFAR10(root, train=False)
    except RuntimeError:
        raise DataError(
            f"{root / 'cifar-10-batches-py'}: damaged: torchvision finds a file absent or its MD5 wrong; delete the "
            "folder to have it downloaded again"
        ) from None
    return Raw(
        (rest.data, np.array(rest.targets)), (test.data, np.array(test.targets)), "original pixels (torchvision)"
    )


def _read_cifar_image(path: Path) -> np.ndarray:
    image = _read_image(path)
    if image.size != (32, 32):
        raise DataError(f"{path}: found {image.width} x {image.height} pixels, expected 32 x 32; replace the file")
    return np.asarray(image)


def _read_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise many kinds
        raise DataError(f"{path}: not readable as an image: {' '.join(str(error).split())}; replace the file") from None


def _resized(images: np.ndarray) -> np.ndarray:
    """(N, 32, 32, 3) to (N, 3, 28, 28), both uint8: bilinear without antialiasing and rounded, as ``cv2.resize``."""
    out = np.empty((len(images), 3, _CIFAR_SIZE, _CIFAR_SIZE), dtype=np.uint8)
    for start in range(0, len(images), 5_000):  # as floats they take four times the memory
        part = slice(start, start + 5_000)
        floats = torch.from_numpy(images[part]).permute(0, 3, 1, 2).to(torch.float32)
        out[part] = F.interpolate(floats, size=_CIFAR_SIZE, mode="bilinear", align_corners=False).round().numpy()
    return out


def _labelled_folders(
    folder: Path,
    counts: dict[str, int],
    labels: Sequence[str],
    pattern: str,
    read: Callable[[Path], str | np.ndarray],
    dtype: type,
    advice: str,
) -> Raw:
    """Reads ``folder/{train,test}/<label>/<pattern>``, ``counts`` files each; y is the label's number.

    The rest is in the order of labels and names. The test part is mixed, always alike: its first examples are the ones
    that a limit keeps, and they should have all labels.
    """
    paths = {(part, label): sorted((folder / part / label).glob(pattern)) for part in counts for label in labels}
    for (part, label), found in paths.items():
        if len(found) != counts[part]:
            place, expected = folder / part / label, f"expected {counts[part]:,}"
            raise DataError(f"{place}: found {len(found):,} files {pattern}, {expected}; {advice}")
    arrays = []
    for part, count in counts.items():
        x = np.array([read(path) for label in labels for path in paths[part, label]], dtype=dtype)
        arrays.append((x, np.repeat(np.arange(len(labels)), count)))
    rest, (x, y) = arrays
    mixed = np.random.RandomState(0).permutation(len(y))
    return Raw(rest, (x[mixed], y[mixed]))


_FACE = re.compile(r"(\d{1,3})_([01])_([0-4])_.+")
_FACE_SIZE = 64


def utkface(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """UTKFace: x (N, 3, 64, 64) uint8; labels (N, 3): age in years, gender 0 or 1, ethnicity 0 to 4.

    The labels are in the files' names. Age, gender and race were estimated by an algorithm and checked by annotators,
    from how people look, with two genders and five groups. They are not what anyone said of themselves: a network
    that repeats them says nothing about people, and no conclusion about people should be drawn from it.

    The published images were 256 x 256: 18 GB as floats, for each of the three tasks. Here they are 64 x 64.

    Source: Zhang, Song, Qi (2017), Age Progression/Regression by Conditional Adversarial Autoencoder.
    """
    folder = root / "utkface"
    paths = sorted(folder.glob("*.jpg"))
    named = [(path, [int(n) for n in m.groups()]) for path in paths if (m := _FACE.fullmatch(path.name))]
    if not named:
        raise DataError(
            f"{folder}: no file named age_gender_race_date.jpg: put the images of UTKFace there, or set MSNLIB_DATA to "
            "the folder that holds utkface/; they are not downloaded"
        )
    if skipped := len(paths) - len(named):
        warnings.warn(
            f"{folder}: skipped {skipped:,} of {len(paths):,} images, not named age_gender_race_date.jpg", stacklevel=4
        )
    size = (_FACE_SIZE, _FACE_SIZE)
    x = np.stack([np.asarray(_read_image(path).resize(size, Image.Resampling.BILINEAR)) for path, _ in named])
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), np.array([labels for _, labels in named])
