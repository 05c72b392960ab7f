"""Datasets: splits, scaling, and what happens to data that is missing or damaged. No test uses the network."""

import errno
import hashlib
import os
import random
import shutil
import socket
import sys
from math import prod
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits, load_sample_images, load_wine

from msnlib.data import bundled, invented, newswires, readers
from msnlib.data import registry as data
from msnlib.data.readers import DataError
from msnlib.data.registry import datasets, load_task
from msnlib.task import SPLITS

BUNDLED = {  # name: kind, outputs, batch size, shape of x, sizes of the three parts
    "digits": ("classification", 10, 64, (8, 8), (1149, 288, 360)),
    "digits_permuted": ("classification", 10, 64, (8, 8), (1149, 288, 360)),
    "digits_words": ("binary", 1, 64, (64,), (1149, 288, 360)),
    "photo_patches": ("classification", 2, 64, (3, 8, 8), (1152, 288, 360)),
    "newswires": ("classification", 5, 32, (40,), (320, 80, 100)),
    "reviews": ("binary", 1, 32, (40,), (320, 80, 100)),
    "figure_shape": ("classification", 4, 64, (3, 28, 28), (1920, 480, 600)),
    "figure_colour": ("classification", 6, 64, (3, 28, 28), (1920, 480, 600)),
    "figure_size": ("classification", 3, 64, (3, 28, 28), (1920, 480, 600)),
    "wine": ("classification", 3, 32, (13,), (113, 29, 36)),
    "diabetes": ("regression", 1, 32, (10,), (282, 71, 89)),
}
KERAS_FIRST_TEST_ROWS = [415, 112, 339]
real_data = pytest.mark.skipif(
    not os.environ.get("MSNLIB_DATA"), reason="set MSNLIB_DATA to a folder with the real data to run this"
)


def real_data_in(*folders):
    root = Path(os.environ.get("MSNLIB_DATA") or "/nowhere")
    return pytest.mark.skipif(
        not any((root / folder).is_dir() for folder in folders),
        reason=f"set MSNLIB_DATA to a folder with {' or '.join(folders)} to run this",
    )


@pytest.fixture(autouse=True)
def requests(monkeypatch):
    """Every request fails as on a machine without a network. The value lists the addresses that were asked for."""
    asked = []

    def refuse(request, *args, **kwargs):
        asked.append(request.full_url)
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return asked


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def same(a, b):
    return all(torch.equal(s, t) for part in SPLITS for s, t in zip(a.split(part), b.split(part), strict=True))


def rows(x):
    """The rows of x in lexicographic order: equal for equal multisets of examples."""
    return np.array(sorted(x.reshape(len(x), -1).tolist()))


def all_x(task):
    return torch.cat([task.split(part)[0] for part in SPLITS])


# The registry and the arguments


def test_the_registry_lists_every_dataset_with_its_kind_and_description():
    listed = {d.name: (d.kind, d.bundled) for d in datasets()}
    assert listed == {
        "mnist": ("classification", False),
        "fashion": ("classification", False),
        "boston": ("regression", False),
        "imdb": ("binary", False),
        "cifar10": ("classification", False),
        "reuters": ("classification", False),
        "utkface_age": ("classification", False),
        "utkface_gender": ("binary", False),
        "utkface_ethnicity": ("classification", False),
        **{name: (facts[0], True) for name, facts in BUNDLED.items()},
    }
    assert all(d.description and "\n" not in d.description for d in datasets())
    assert "column b encodes race" in next(d for d in datasets() if d.name == "boston").description
    faces = [d.description for d in datasets() if d.name.startswith("utkface")]
    assert all("labelled by an algorithm" in text and "draw no conclusions about people" in text for text in faces)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError) as error:
        load_task("mnits")
    assert str(error.value) == (
        "unknown dataset 'mnits': choose from "
        "mnist, fashion, boston, imdb, cifar10, reuters, utkface_age, utkface_gender, utkface_ethnicity, "
        "digits, digits_permuted, digits_words, newswires, reviews, photo_patches, "
        "figure_shape, figure_colour, figure_size, wine, diabetes"
    )


@pytest.mark.parametrize("limit", [0, -1, 2.5, "10", True])
def test_a_limit_that_is_no_positive_integer_is_an_error(limit):
    with pytest.raises(ValueError, match=f"limit must be None or an integer of at least 1, not {limit!r}"):
        load_task("wine", limit=limit)


@pytest.mark.parametrize("seed", [None, -1, 2**32, 0.5])
def test_a_split_seed_out_of_range_is_an_error(seed):
    with pytest.raises(ValueError, match="split_seed must be an integer from 0 to"):
        load_task("wine", split_seed=seed)
    with pytest.raises(ValueError, match="test_seed must be an integer from 0 to"):
        load_task("wine", test_seed=-1 if seed is None else seed)


# Bundled datasets


@pytest.mark.parametrize("name", BUNDLED)
def test_kind_shapes_and_types(name):
    kind, outputs, batch_size, shape, sizes = BUNDLED[name]
    task = load_task(name)
    assert (task.name, task.kind, task.outputs, task.batch_size) == (name, kind, outputs, batch_size)
    assert task.description == next(d.description for d in datasets() if d.name == name)
    for part, size in zip(SPLITS, sizes, strict=True):
        x, y = task.split(part)
        assert x.shape == (size, *shape) and x.dtype == (torch.int64 if task.vocabulary else torch.float32)
        assert y.shape == ((size,) if kind == "classification" else (size, 1))
        assert y.dtype == (torch.int64 if kind == "classification" else torch.float32)


@pytest.mark.parametrize("name", BUNDLED)
def test_floats_have_the_default_dtype(name, float64):
    task = load_task(name, limit=20)
    x, y = task.train
    assert x.dtype == (torch.int64 if task.vocabulary else torch.float64)
    assert y.dtype == (torch.int64 if BUNDLED[name][0] == "classification" else torch.float64)


def test_digits_are_split_into_disjoint_parts_that_keep_every_image(float64):
    images = load_digits().images / 16
    assert len(np.unique(images, axis=0)) == 1797  # no two are equal, so equal multisets mean disjoint parts
    assert np.array_equal(rows(all_x(load_task("digits"))), rows(images))


def test_labels_stay_with_their_images(float64):
    label = {tuple(x): y for x, y in zip(*load_digits(return_X_y=True), strict=True)}
    task = load_task("digits")
    for part in SPLITS:
        x, y = task.split(part)
        assert y.tolist() == [label[tuple(image)] for image in (x.reshape(-1, 64) * 16).tolist()]


def test_permuted_digits_are_the_same_images_under_one_permutation_of_the_pixels(float64):
    order = np.random.RandomState(0).permutation(64)
    assert sorted(order) == list(range(64)) and order.tolist() != list(range(64))
    for seed in (0, 1):
        plain, permuted = load_task("digits", split_seed=seed), load_task("digits_permuted", split_seed=seed)
        for part in SPLITS:
            (x, y), (x_permuted, y_permuted) = plain.split(part), permuted.split(part)
            assert torch.equal(x_permuted.flatten(1), x.flatten(1)[:, order])
            assert torch.equal(y_permuted, y)


@pytest.mark.parametrize("name", ["digits", "digits_words", "photo_patches", "wine"])
def test_every_part_has_its_share_of_every_class(name):
    task = load_task(name)
    counts = {part: torch.bincount(task.split(part)[1].flatten().long()) for part in SPLITS}
    rest = counts["train"] + counts["valid"]
    assert (counts["valid"] - rest / 5).abs().max() < 1
    assert (counts["test"] - (rest + counts["test"]) / 5).abs().max() < 1
    assert task.train[1][:50].unique().numel() == task.train[1].unique().numel()  # and is not sorted by class


def test_digits_words_are_the_digits_row_by_row_and_y_says_which_are_even():
    x, y = load_digits(return_X_y=True)
    even = {tuple(image): label % 2 == 0 for image, label in zip(x, y, strict=True)}
    task = load_task("digits_words")
    assert task.vocabulary == 17 and np.array_equal(rows(all_x(task)), rows(x))
    for part in SPLITS:
        words, target = task.split(part)
        assert target.flatten().bool().tolist() == [even[tuple(sentence)] for sentence in words.tolist()]


def test_photo_patches_are_patches_of_the_photograph_that_y_names(float64):
    # A patch starts at every eighth line and column; channels come first.
    grids = [
        {tuple(photo[i : i + 8, j : j + 8].transpose(2, 0, 1).flat) for i in range(0, 424, 8) for j in range(0, 640, 8)}
        for photo in load_sample_images().images
    ]
    task = load_task("photo_patches")
    counts = torch.zeros(2)
    for part in SPLITS:
        x, y = task.split(part)
        patches = (x * 255).round().to(torch.uint8).flatten(1).tolist()
        assert all(tuple(patch) in grids[label] for patch, label in zip(patches, y.tolist(), strict=True))
        counts += torch.bincount(y)
    assert counts.tolist() == [900, 900]


@pytest.mark.parametrize(("name", "load"), [("wine", load_wine)])
def test_standardisation_is_fitted_on_the_training_part_only(name, load, float64):
    task = load_task(name)
    x = task.train[0]
    assert torch.allclose(x.mean(0), torch.zeros(x.shape[1]), atol=1e-10)
    assert torch.allclose(x.std(0, correction=0), torch.ones(x.shape[1]), atol=1e-10)
    assert all(task.split(part)[0].mean(0).abs().min() > 1e-6 for part in ("valid", "test"))
    # One map per column for all parts: undone, they give the published table back.
    raw, scaled = load().data, all_x(task).numpy()
    scale = raw.std(0) / scaled.std(0)
    assert np.allclose(rows((scaled - scaled.mean(0)) * scale + raw.mean(0)), rows(raw), rtol=1e-6, atol=1e-9)


def test_diabetes_y_is_min_max_scaled_on_the_training_part_only(float64):
    raw = load_diabetes().target
    tasks = [load_task("diabetes", split_seed=seed) for seed in range(20)]
    assert all(task.train[1].min() == 0 for task in tasks)
    assert all(task.train[1].max().item() == pytest.approx(1, abs=1e-12) for task in tasks)
    # In some of these splits the largest y is in validation, where it exceeds 1.
    assert any(task.valid[1].max() > 1.001 for task in tasks)
    y = np.sort(torch.cat([tasks[0].split(part)[1] for part in SPLITS]).numpy().ravel())
    assert np.allclose((y - y[0]) / (y[-1] - y[0]), (np.sort(raw) - raw.min()) / (raw.max() - raw.min()))


def test_pixels_span_exactly_0_to_1():
    x = load_task("digits").train[0]
    assert x.min() == 0 and x.max() == 1
    assert torch.equal(x * 16, (x * 16).round())


@pytest.mark.parametrize("name", BUNDLED)
def test_the_split_is_reproducible_and_split_seed_moves_validation_but_not_test(name):
    first, again, other = load_task(name), load_task(name), load_task(name, split_seed=1)
    assert same(first, again)
    assert not torch.equal(first.valid[0], other.valid[0])
    assert torch.equal(first.test[1], other.test[1]) or first.kind == "regression"  # there y is scaled by train
    if name.startswith(("digits", "photo")):
        assert torch.equal(first.test[0], other.test[0])


@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_a_test_part_drawn_anew_is_as_large_shares_nothing_with_training_and_says_its_rows(name):
    own, first, again, other = (load_task(name, test_seed=seed) for seed in (None, 3, 3, 4))
    assert own.test_rows is None and same(own, load_task(name))
    assert same(first, again) and first.test_rows == again.test_rows != other.test_rows
    everything = sum(len(own.split(part)[0]) for part in SPLITS)
    for task in (first, other):
        assert [len(task.split(part)[0]) for part in SPLITS] == [len(own.split(part)[0]) for part in SPLITS]
        assert len(set(task.test_rows)) == len(task.test[0]) and set(task.test_rows) < set(range(everything))
    unscaled = [first.split(part)[0] for part in SPLITS]
    rows = {tuple(row) for part in unscaled for row in part.tolist()}
    assert len(rows) == everything or name == "wine"  # nothing is in two parts
    assert load_task(name, limit=5, test_seed=3).test_rows == first.test_rows[:5]
    assert load_task(name, split_seed=7, test_seed=3).test_rows == first.test_rows


def test_the_rows_of_a_test_part_follow_its_classes():
    task = load_task("wine", test_seed=1)
    few = task.classes([2, 0], "few")
    labels = [dict(zip(few.test_rows, few.test[1].tolist(), strict=True)).get(row) for row in task.test_rows]
    assert labels == [{0: 1, 2: 0}.get(label) for label in task.test[1].tolist()]


def states():
    name, keys, *rest = np.random.get_state()
    return random.getstate(), (name, keys.tolist(), *rest), torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", BUNDLED)
def test_global_random_state_is_neither_used_nor_changed(name):
    before, first = states(), load_task(name, limit=50)
    assert states() == before
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    assert same(first, load_task(name, limit=50))


def test_limit_draws_a_subset_before_the_split_and_cuts_the_test_part():
    full, few = load_task("digits"), load_task("digits", limit=100)
    assert [len(few.split(part)[0]) for part in SPLITS] == [80, 20, 100]
    assert torch.equal(few.test[0], full.test[0][:100]) and torch.equal(few.test[1], full.test[1][:100])
    known = {tuple(r) for part in ("train", "valid") for r in full.split(part)[0].flatten(1).tolist()}
    drawn = {tuple(r) for part in ("train", "valid") for r in few.split(part)[0].flatten(1).tolist()}
    assert len(drawn) == 100 and drawn < known
    assert not torch.equal(few.train[0], load_task("digits", limit=100, split_seed=1).train[0])


@pytest.mark.parametrize(("limit", "sizes"), [(1, (1, 0, 1)), (2, (1, 1, 2)), (6, (5, 1, 6)), (10, (8, 2, 10))])
@pytest.mark.parametrize("name", ["digits", "diabetes"])
def test_small_limits(name, limit, sizes):
    assert tuple(len(load_task(name, limit=limit).split(part)[0]) for part in SPLITS) == sizes


def test_a_limit_beyond_the_data_keeps_everything():
    assert same(load_task("wine", limit=10_000), load_task("wine"))


# Boston, from a table made by hand: zn is the row number; medv is 5 or 50, and 95 in the first test row


def boston_lines():
    header = "crim,zn,indus,chas,nox,rm,age,dis,rad,tax,ptratio,b,lstat,medv"
    medv = [95 if row == KERAS_FIRST_TEST_ROWS[0] else (5, 50)[row % 2] for row in range(506)]
    return [header, *(f'7,{row},7,"0",7,7,7,7,7,7,7,7,7,{medv[row]}' for row in range(506))]


def write_boston(root, lines):
    path = root / "boston" / "BostonHousing.csv"
    path.parent.mkdir()
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def made_boston(monkeypatch):
    """Make the table made by hand the one to be expected."""
    values = np.array([[float(cell.strip('"')) for cell in line.split(",")] for line in boston_lines()[1:]])
    monkeypatch.setattr(readers, "_BOSTON_SHA256", hashlib.sha256(values.tobytes()).hexdigest())


def test_boston_has_the_split_of_keras_and_scales_by_its_training_part(tmp_path, float64, made_boston):
    write_boston(tmp_path, boston_lines())
    keras = np.arange(506)
    np.random.RandomState(113).shuffle(keras)
    outside = 0
    for seed in range(8):
        task = load_task("boston", split_seed=seed, root=tmp_path)
        assert (task.kind, task.outputs, task.batch_size) == ("regression", 1, 32)
        assert [tuple(task.split(part)[0].shape) for part in SPLITS] == [(323, 13), (81, 13), (102, 13)]
        zn = {part: task.split(part)[0][:, 1] for part in SPLITS}
        # Test rows 415 and 112 are 303 apart, which gives the unit, and so every part's row numbers.
        unit = 303 / (zn["test"][0] - zn["test"][1]).item()
        first = 415 - zn["test"][0].item() * unit
        row = {part: [round(v * unit + first) for v in zn[part].tolist()] for part in SPLITS}
        assert row["test"][:3] == KERAS_FIRST_TEST_ROWS and row["test"] == keras[404:].tolist()
        assert sorted(row["train"] + row["valid"]) == sorted(keras[:404])
        assert (min(row["train"]), max(row["train"])) == (round(first), round(first + unit))
        outside += min(row["valid"]) < min(row["train"]) or max(row["valid"]) > max(row["train"])
        assert task.train[1].unique().tolist() == pytest.approx([0, 1])
        assert task.test[1][0].item() == pytest.approx(2)  # (95 - 5) / (50 - 5)
        assert (task.train[0][:, [0, 2, 3, 12]] == 0).all()  # constant columns
    assert outside > 0  # in some split the validation part has the extreme, and the scaler did not see it


def test_boston_is_the_same_again_and_touches_no_global_random_state(tmp_path, made_boston):
    write_boston(tmp_path, boston_lines())
    before, first = states(), load_task("boston", root=tmp_path)
    assert states() == before
    assert same(first, load_task("boston", root=tmp_path))


def test_root_comes_from_the_environment(tmp_path, monkeypatch, made_boston):
    write_boston(tmp_path, boston_lines())
    monkeypatch.setenv("MSNLIB_DATA", str(tmp_path))
    assert len(load_task("boston").test[0]) == 102
    monkeypatch.delenv("MSNLIB_DATA")
    monkeypatch.setattr(Path, "expanduser", lambda path: tmp_path / "home" / str(path))
    with pytest.raises(DataError, match=r"\.cache/msnlib/boston/BostonHousing\.csv not found"):
        load_task("boston")


def test_a_missing_boston_table_is_an_error_that_says_where_to_get_it(tmp_path, requests):
    with pytest.raises(DataError, match="mlbench.*MSNLIB_DATA.*not downloaded") as error:
        load_task("boston", root=tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'boston' / 'BostonHousing.csv'} not found: ")
    assert "\n" not in str(error.value) and requests == []


@pytest.mark.parametrize("name", ["boston", "mnist", "imdb", "cifar10", "utkface_age"])
def test_what_may_not_be_read_is_a_data_error(tmp_path, monkeypatch, requests, name):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for method in ("is_file", "is_dir", "glob"):
        monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(DataError, match="^/.*: cannot be read: Permission denied$"):
        load_task(name, root=tmp_path)


def test_bundled_data_needs_no_home_and_other_data_says_that_there_is_none(monkeypatch):
    def homeless(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MSNLIB_DATA", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert len(load_task("wine").test[0]) == 36
    with pytest.raises(DataError, match="^~/.cache/msnlib: there is no home folder; set MSNLIB_DATA"):
        load_task("boston")


@pytest.mark.parametrize("name", bundled.SHA256)
def test_bundled_data_is_checked_by_content(monkeypatch, name):
    monkeypatch.setitem(bundled.SHA256, name, "0" * 64)
    uses = {"digits": "digits_words", "china": "photo_patches", "flower": "photo_patches"}
    task = uses.get(name.partition(".")[0]) or name.replace("_data", "").replace("_raw", "").replace("_target", "")
    with pytest.raises(DataError, match=rf"{name}: damaged, or another version of the data: found SHA-256 "):
        load_task(task.partition(".")[0])


def edit(line, old, new):
    return lambda lines: [*lines[:line], lines[line].replace(old, new, 1), *lines[line + 1 :]]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda lines: lines[:-1], "found 505 rows x 14 columns, the last 'medv', 0 cells"),
        (lambda lines: [*lines, lines[-1]], "found 507 rows x 14 columns, the last 'medv', 0 cells"),
        (lambda lines: [*lines[:-1], "7,505,7"], "found 506 rows x 14 columns, the last 'medv', 11 cells"),
        (lambda lines: [line.rpartition(",")[0] for line in lines], "found 506 rows x 13 columns, the last 'lstat', 0"),
        (lambda lines: [lines[0]], "found 0 rows x 14 columns, the last 'medv', 0 cells"),
        (edit(3, "7,", ","), "found 506 rows x 14 columns, the last 'medv', 1 cells"),
        (edit(3, "7,", "NA,"), "found 506 rows x 14 columns, the last 'medv', 1 cells"),
        (edit(3, "7,", "inf,"), "found 506 rows x 14 columns, the last 'medv', 1 cells"),
        (edit(3, "7,", "seven,"), "found 506 rows x 14 columns, the last 'medv', 1 cells"),
        (edit(0, "medv", "cmedv"), "found 506 rows x 14 columns, the last 'cmedv', 0 cells"),
        (edit(9, "7,", "7,7,"), "cannot be read as CSV: "),
        (edit(9, ",7,", ",7.0000001,"), "damaged, or another table: found SHA-256 "),
        (lambda lines: [lines[0], *lines[:1:-1], lines[1]], "damaged, or another table: found SHA-256 "),
        (lambda lines: [], "cannot be read as CSV: "),
    ],
)
def test_a_damaged_boston_table_is_named_and_not_used(tmp_path, made_boston, damage, found):
    path = write_boston(tmp_path, damage(boston_lines()))
    with pytest.raises(DataError) as error:
        load_task("boston", root=tmp_path)
    assert str(error.value).startswith(f"{path}: ") and found in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None  # so that one traceback is shown


# MNIST and Fashion-MNIST, from files made by hand: image n has all pixels n, and label n % 10


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def idx_files(sizes=(50, 10)):
    files = {}
    for part, n in zip(("train", "t10k"), sizes, strict=True):
        number = np.arange(n, dtype=np.uint8)
        files[f"{part}-images-idx3-ubyte"] = idx(np.broadcast_to(number[:, None, None], (n, 28, 28)))
        files[f"{part}-labels-idx1-ubyte"] = idx(number % 10)
    return files


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A root folder with an MNIST of 50 + 10 images, which is made the one to be expected. The value is raw/."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in idx_files().items():
        (folder / name).write_bytes(content)
    n = {"train": 50, "t10k": 10}
    shapes = {name: (n[name.split("-")[0]], *shape[1:]) for name, shape in readers._IDX_SHAPES.items()}
    monkeypatch.setattr(readers, "_IDX_SHAPES", shapes)
    digests = tuple(hashlib.md5((folder / name).read_bytes()).hexdigest() for name in shapes)
    monkeypatch.setitem(readers._IDX_MD5, "MNIST", digests)
    return folder


def test_images_are_read_scaled_and_kept_with_their_labels(small, tmp_path, requests):
    before, task = states(), load_task("mnist", root=tmp_path)
    assert states() == before and requests == []
    assert (task.kind, task.outputs, task.batch_size, task.inputs) == ("classification", 10, 512, (28, 28))
    assert [len(task.split(part)[1]) for part in SPLITS] == [40, 10, 10]
    numbers = {}
    for part in SPLITS:
        x, y = task.split(part)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert torch.equal(x, x[:, :1, :1].expand_as(x))
        numbers[part] = (x[:, 0, 0] * 255).round().long()
        assert torch.equal(x[:, 0, 0], numbers[part] / 255) and torch.equal(y, numbers[part] % 10)
    assert numbers["test"].tolist() == list(range(10))
    assert sorted(torch.cat([numbers["train"], numbers["valid"]]).tolist()) == list(range(50))
    assert sorted((numbers["valid"] % 10).tolist()) == list(range(10))  # one of the five images of each digit


@pytest.mark.parametrize(
    ("name", "damage", "found"),
    [
        ("train-images-idx3-ubyte", lambda c: c[:-1], "found 39215 bytes, expected 39216"),
        ("t10k-images-idx3-ubyte", lambda c: c + b"\0", "found 7857 bytes, expected 7856"),
        ("t10k-labels-idx1-ubyte", lambda c: b"", "found 0 bytes, expected 18"),
        ("train-labels-idx1-ubyte", lambda c: b"\0\0\x08\x01\0\0\0\x31" + c[8:], "found header 0000080100000031, "),
        ("train-labels-idx1-ubyte", lambda c: c[:-1] + b"\0", "found MD5 "),
    ],
)
def test_a_damaged_image_file_is_named_and_not_used(small, tmp_path, requests, name, damage, found):
    (small / name).write_bytes(damage((small / name).read_bytes()))
    (small / "t10k-labels-idx1-ubyte.gz").touch()  # other files do not matter
    with pytest.raises(DataError) as error:
        load_task("mnist", root=tmp_path)
    assert str(error.value).startswith(f"{small / name}: damaged: {found}")
    assert "\n" not in str(error.value) and requests == []


def test_a_file_of_the_real_size_but_cut_short_is_named(tmp_path, requests):
    path = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (60_000, 28, 28)) + bytes(1000))
    with pytest.raises(DataError) as error:
        load_task("fashion", root=tmp_path)  # the other three are absent, but the damage comes first
    assert str(error.value) == (
        f"{path}: damaged: found 1016 bytes, expected {16 + prod((60_000, 28, 28))}; "
        "delete the file to have it downloaded again"
    )
    assert requests == []


@pytest.mark.parametrize("name, folder", [("mnist", "MNIST"), ("fashion", "FashionMNIST")])
def test_missing_images_without_a_network_are_one_line_and_nothing_is_printed(tmp_path, requests, capsys, name, folder):
    socket.setdefaulttimeout(123)
    try:
        with pytest.raises(DataError) as error:
            load_task(name, root=tmp_path)
        assert socket.getdefaulttimeout() == 123
    finally:
        socket.setdefaulttimeout(None)
    message = str(error.value)
    assert message.startswith(f"{folder}: train-images-idx3-ubyte, train-labels-idx1-ubyte, ")
    assert f"not found in {tmp_path / folder / 'raw'} and not downloaded: go online, or set MSNLIB_DATA" in message
    assert "no network" in message and "\n" not in message
    assert error.value.__context__ is None and capsys.readouterr() == ("", "")
    assert requests  # it was tried, and this test's network refused


def test_three_of_four_files_count_as_absent(small, tmp_path, requests):
    (small / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="^MNIST: t10k-labels-idx1-ubyte not found in ") as error:
        load_task("mnist", root=tmp_path)
    assert requests and "\n" not in str(error.value)


def fake_download(files, monkeypatch, seen):
    def download(self):
        seen.append(socket.getdefaulttimeout())
        print("noise")
        print("a progress bar", file=sys.stderr)
        Path(self.raw_folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (Path(self.raw_folder) / name).write_bytes(content)

    monkeypatch.setattr("torchvision.datasets.MNIST.download", download)


def test_absent_images_are_downloaded_once_and_quietly(small, tmp_path, monkeypatch, capsys):
    seen, here = [], load_task("mnist", root=tmp_path)
    fake_download(idx_files(), monkeypatch, seen)
    assert same(load_task("mnist", root=tmp_path / "new"), here)
    assert same(load_task("mnist", root=tmp_path / "new"), here)
    assert seen == [readers.DOWNLOAD_TIMEOUT] and socket.getdefaulttimeout() is None
    assert capsys.readouterr() == ("", "")


def test_a_download_that_is_damaged_is_not_trusted(small, tmp_path, monkeypatch):
    files = idx_files()
    files["t10k-labels-idx1-ubyte"] = idx(np.zeros(10, dtype=np.uint8))
    fake_download(files, monkeypatch, [])
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: damaged: found MD5"):
        load_task("mnist", root=tmp_path / "new")


# Reviews, from files made by hand: "the" most often, then "film" and "isn't", then a word of each review's own


@pytest.fixture
def reviews(tmp_path, monkeypatch):
    """A root folder with 5 + 2 reviews of each label, made the number to be expected. The value is aclImdb/."""
    monkeypatch.setattr(readers, "_REVIEWS", {"train": 5, "test": 2})
    for label in ("neg", "pos"):
        (tmp_path / "aclImdb" / "train" / label).mkdir(parents=True)
        (tmp_path / "aclImdb" / "test" / label).mkdir(parents=True)
        for n in range(5):
            text = f"THE film<br /><br />isn't the {label}{n}."
            (tmp_path / "aclImdb" / "train" / label / f"{n}_7.txt").write_text(text)
    test = tmp_path / "aclImdb" / "test"
    (test / "neg" / "0_1.txt").write_text("Isn't--the (film) Caf\u00e9?", encoding="utf-8")
    (test / "neg" / "1_1.txt").write_text("caf\u00e9 " * 50 + "film", encoding="utf-8")
    (test / "pos" / "0_9.txt").write_text("film " + "the " * 200)
    (test / "pos" / "1_9.txt").write_text("the " * 126 + "film the film")
    return tmp_path / "aclImdb"


def test_reviews_are_indices_of_words_counted_in_the_training_part_only(reviews, tmp_path, requests):
    before, task = states(), load_task("imdb", root=tmp_path)
    assert states() == before and requests == []
    assert (task.kind, task.outputs, task.batch_size, task.vocabulary) == ("binary", 1, 32, 10_000)
    assert [tuple(task.split(part)[0].shape) for part in SPLITS] == [(8, 128), (2, 128), (4, 128)]
    assert all(task.split(part)[0].dtype == torch.int64 for part in SPLITS)
    # the 3, film 4, isn't 5, then the training reviews' own words; the validation reviews' own are unknown: 2
    assert {tuple(r[:5]) for r in task.train[0].tolist()} == {(1, 3, 4, 5, 3)}
    assert sorted(task.train[0][:, 5].tolist()) == list(range(6, 14))
    own = sorted(zip(task.train[0][:, 5].tolist(), task.train[1].flatten().tolist(), strict=True))
    assert [label for _, label in own] == [0.0] * 4 + [1.0] * 4  # alphabetical: neg0 to neg4, then pos0 to pos4
    assert task.valid[0][:, :7].tolist() == [[1, 3, 4, 5, 3, 2, 0]] * 2
    assert (task.train[0][:, 6:] == 0).all() and sorted(task.valid[1].flatten().tolist()) == [0, 1]
    assert sorted(zip(task.test[1].flatten().tolist(), task.test[0].tolist(), strict=True)) == [
        (0, [1, *[2] * 50, 4, *[0] * 76]),
        (0, [1, 5, 3, 4, 2, *[0] * 123]),
        (1, [1, *[3] * 126, 4]),
        (1, [1, 4, *[3] * 126]),
    ]
    assert same(task, load_task("imdb", root=tmp_path))
    assert [len(load_task("imdb", limit=2, root=tmp_path).split(part)[0]) for part in SPLITS] == [1, 1, 2]


def test_the_most_frequent_words_are_kept_and_ties_are_alphabetical():
    encode = data._words(vocabulary=6, length=5)(np.array(["d b c", "c b a d", "d"], dtype=object))
    assert encode(np.array(["d b c a e d", "", "a"], dtype=object)).tolist() == [
        [1, 3, 4, 5, 2],
        [1, 0, 0, 0, 0],
        [1, 2, 0, 0, 0],
    ]
    assert encode(np.array([], dtype=object)).shape == (0, 5)


@pytest.mark.parametrize("absent", ["train/neg/3_7.txt", "test/pos/0_9.txt", "test/pos", ""])
def test_missing_reviews_are_an_error_that_says_where_to_get_them(reviews, tmp_path, requests, absent):
    path = reviews / absent
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(
        DataError, match=r"files \*\.txt, expected . *; unpack aclImdb_v1\.tar\.gz .*ai\.stanford"
    ) as error:
        load_task("imdb", root=tmp_path)
    folder = path.parent if absent.endswith("txt") else path if absent else reviews / "train" / "neg"
    assert str(error.value).startswith(f"{folder}: found ")
    assert f"in {tmp_path}, or set MSNLIB_DATA" in str(error.value)
    assert "\n" not in str(error.value) and requests == []


@pytest.mark.parametrize("content", [b"", b" \n", b"caf\xe9 \xff"])
def test_a_damaged_review_is_named_and_not_used(reviews, tmp_path, content):
    path = reviews / "train" / "pos" / "2_7.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_task("imdb", root=tmp_path)
    assert str(error.value).startswith(f"{path}: damaged: ") and "\n" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


# CIFAR-10, from images made by hand: those of class c have one colour, (25 c, 255 - 25 c, 128)


def colour(label):
    return (25 * label, 255 - 25 * label, 128)


@pytest.fixture
def objects(tmp_path, monkeypatch):
    """A root folder with 5 + 1 images of each class, which is made the number to be expected. The value is cifar10/."""
    monkeypatch.setattr(readers, "_CIFAR_COUNTS", {"train": 5, "test": 1})
    for part, count in readers._CIFAR_COUNTS.items():
        for label, name in enumerate(readers.CIFAR_CLASSES):
            folder = tmp_path / "cifar10" / part / name
            folder.mkdir(parents=True)
            for n in range(count):
                Image.new("RGB", (32, 32), colour(label)).save(folder / f"{n:04}.jpg", quality=95)
    return tmp_path / "cifar10"


def check_objects(task):
    assert (task.kind, task.outputs, task.batch_size, task.inputs) == ("classification", 10, 512, (3, 28, 28))
    assert [len(task.split(part)[1]) for part in SPLITS] == [40, 10, 10]
    for part in SPLITS:
        x, y = task.split(part)
        expected = torch.tensor([colour(label) for label in y.tolist()])[:, :, None, None] / 255
        assert (x - expected).abs().max() < 3 / 255  # JPEG
        assert sorted(set(y.tolist())) == list(range(10))


def test_colour_images_are_read_from_a_folder(objects, tmp_path, requests):
    before, task = states(), load_task("cifar10", root=tmp_path)
    assert states() == before and requests == []
    check_objects(task)
    assert task.test[1].tolist() != list(range(10))  # mixed, so that a limit keeps several classes
    assert task.description.endswith("(CIFAR-10); from an image folder (JPEG)")
    assert same(task, load_task("cifar10", root=tmp_path))


def test_torchvisions_colour_images_come_before_the_folder(objects, tmp_path, monkeypatch, requests):
    class CIFAR10:
        def __init__(self, root, train):
            assert root == tmp_path
            self.targets = list(range(10)) * (5 if train else 1)
            self.data = np.array([np.full((32, 32, 3), colour(y), dtype=np.uint8) for y in self.targets])

    monkeypatch.setattr("torchvision.datasets.CIFAR10", CIFAR10)
    (tmp_path / "cifar-10-batches-py").mkdir()
    task = load_task("cifar10", root=tmp_path)
    check_objects(task)
    assert task.description.endswith("(CIFAR-10); original pixels (torchvision)")
    assert task.test[1].tolist() == list(range(10)) and requests == []


def test_damaged_files_of_torchvision_are_named_and_the_folder_is_not_used_instead(objects, tmp_path, requests):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"damaged")
    with pytest.raises(
        DataError, match="cifar-10-batches-py: damaged: torchvision finds .*; delete the folder"
    ) as error:
        load_task("cifar10", root=tmp_path)
    assert "\n" not in str(error.value) and requests == []


def test_missing_colour_images_without_a_network_are_one_line(tmp_path, requests, capsys):
    with pytest.raises(DataError, match="^CIFAR-10: neither .* found and not downloaded: go online, or set") as error:
        load_task("cifar10", root=tmp_path)
    assert "no network" in str(error.value) and "\n" not in str(error.value)
    assert requests and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda path: path.unlink(), "found 4 files *.jpg, expected 5; put the images back"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "not readable as an image: "),
        (lambda path: path.write_text("no image"), "not readable as an image: "),
        (lambda path: Image.new("RGB", (32, 31)).save(path), "found 32 x 31 pixels, expected 32 x 32; replace"),
    ],
)
def test_a_damaged_colour_image_is_named_and_not_used(objects, tmp_path, damage, found):
    path = objects / "train" / "dog" / "0003.jpg"
    damage(path)
    with pytest.raises(DataError) as error:
        load_task("cifar10", root=tmp_path)
    assert str(error.value).startswith(f"{path if path.is_file() else path.parent}: {found}")
    assert "\n" not in str(error.value)


def test_a_grey_image_is_read_as_colour(objects, tmp_path):
    Image.new("L", (32, 32), 100).save(objects / "test" / "frog" / "0000.jpg")
    x, y = load_task("cifar10", root=tmp_path).test
    assert torch.allclose(x[y == 6], torch.tensor(100 / 255), atol=2 / 255)


def test_images_are_resized_by_interpolation_between_the_nearest_two_pixels():
    images = np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    centre = (np.arange(28) + 0.5) * 32 / 28 - 0.5
    weights = np.clip(1 - abs(centre[:, None] - np.arange(32)), 0, None)
    expected = np.einsum("ih,jw,nhwc->ncij", weights, weights, images)
    assert abs(readers._resized(images) - expected).max() < 0.501


# UTKFace, from images made by hand: all pixels of a face are its age, so that a face is known by its colour

AGES = [1, 10, 11, 20, 21, 45, 90, 91, 100, 116]
BINS = {1: 0, 10: 0, 11: 1, 20: 1, 21: 2, 45: 4, 90: 8, 91: 9, 100: 9, 116: 9}


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "utkface"
    folder.mkdir()
    for n, age in enumerate(AGES):
        Image.new("RGB", (70, 80), (age, age, age)).save(
            folder / f"{age}_{n % 2}_{n % 5}_2017.jpg.chip.jpg", quality=95
        )
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "outputs", "label"),
    [
        ("utkface_age", "classification", 10, lambda n: BINS[AGES[n]]),
        ("utkface_gender", "binary", 1, lambda n: n % 2),
        ("utkface_ethnicity", "classification", 5, lambda n: n % 5),
    ],
)
def test_faces_have_the_labels_in_their_names(faces, tmp_path, requests, name, kind, outputs, label):
    before, task = states(), load_task(name, root=tmp_path)
    assert states() == before and requests == []
    assert (task.kind, task.outputs, task.batch_size, task.inputs) == (kind, outputs, 256, (3, 64, 64))
    assert [len(task.split(part)[0]) for part in SPLITS] == [6, 2, 2]
    seen = []
    for part in SPLITS:
        x, y = task.split(part)
        ages = (x.mean((1, 2, 3)) * 255).tolist()
        numbers = [min(range(10), key=lambda n, age=age: abs(AGES[n] - age)) for age in ages]
        assert y.flatten().tolist() == [label(n) for n in numbers]
        seen += numbers
    assert sorted(seen) == list(range(10))


def test_the_three_tasks_of_faces_share_their_test_images_whatever_the_seed(faces, tmp_path):
    tests = [
        load_task(f"utkface_{label}", split_seed=seed, root=tmp_path).test[0]
        for label in ("age", "gender", "ethnicity")
        for seed in (0, 1)
    ]
    assert all(torch.equal(x, tests[0]) for x in tests)


def test_faces_without_labels_in_their_names_are_skipped_with_a_warning(faces, tmp_path):
    bad = ["39_1_20170116174525125.jpg", "61_3_1_2017.jpg", "20_0_5_2017.jpg", "me.jpg"]
    for name in bad:
        (faces / name).write_bytes(b"not read")
    (faces / "README.txt").touch()
    with pytest.warns(UserWarning) as caught:
        task = load_task("utkface_age", root=tmp_path)
    assert [str(w.message) for w in caught] == [f"{faces}: skipped 4 of 14 images, not named age_gender_race_date.jpg"]
    assert caught[0].filename == __file__ and sum(len(task.split(part)[0]) for part in SPLITS) == 10


def test_missing_faces_are_an_error_and_a_damaged_one_is_named(faces, tmp_path, requests):
    path = next(faces.glob("45_*"))
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError) as error:
        load_task("utkface_gender", root=tmp_path)
    assert str(error.value).startswith(f"{path}: not readable as an image: ")
    shutil.rmtree(faces)
    with pytest.raises(
        DataError, match="utkface: no file named age_gender_race_date.jpg: put .*not downloaded"
    ) as error:
        load_task("utkface_gender", root=tmp_path)
    assert "\n" not in str(error.value) and requests == []


# Reuters-21578, from documents made by hand in the official layout


def document(topics, text):
    named = "".join(f"<D>{topic}</D>" for topic in topics)
    return (
        f'<REUTERS TOPICS="YES" LEWISSPLIT="TRAIN">\n<TOPICS>{named}</TOPICS>\n<PLACES><D>usa</D></PLACES>\n'
        f'<TEXT TYPE="NORM">&#2;\n<TITLE>{text}</TITLE>\n<BODY>Body, of \xe9 &lt;Co> &amp; more.\n&#3;</BODY></TEXT>\n'
        "</REUTERS>\n"
    )


@pytest.fixture
def wires(tmp_path, monkeypatch):
    """22 files: 15 documents whose first topic is tin, 15 zinc, 14 gold, 3 without a topic."""
    topics = [("tin", "zinc")] * 15 + [("zinc",)] * 15 + [("gold", "tin")] * 14 + [()] * 3
    documents = [document(names, f"Number {n}") for n, names in enumerate(topics)]
    folder = tmp_path / "reuters21578"
    folder.mkdir()
    for n in range(22):
        text = '<!DOCTYPE lewis SYSTEM "lewis.dtd">\n' + "".join(documents[n::22])
        (folder / f"reut2-{n:03d}.sgm").write_text(text, encoding="latin-1")
    monkeypatch.setattr(newswires, "_DOCUMENTS", len(documents))
    return folder


def test_a_newswire_has_its_first_topic_and_rare_topics_are_left_out(wires, tmp_path):
    x, y = newswires.reuters(tmp_path)
    number = [int(text.split()[1]) for text in x]
    assert sorted(number) == list(range(30)) and y.tolist() == [int(n >= 15) for n in number]
    assert set(x[0].split()) >= {"number", "body", "of", "\xe9", "co", "more"}
    assert not set("<>&#;,.") & set("".join(x))


def test_missing_and_damaged_newswires_are_named(wires, tmp_path, monkeypatch):
    monkeypatch.setattr(newswires, "_DOCUMENTS", 21_578)
    with pytest.raises(DataError, match="reuters21578: damaged: found 47 documents, expected 21,578; unpack it again"):
        load_task("reuters", root=tmp_path)
    (wires / "reut2-007.sgm").unlink()
    with pytest.raises(DataError, match="1 of 22 files not found, the first reut2-007.sgm: .*not downloaded") as error:
        load_task("reuters", root=tmp_path)
    assert "\n" not in str(error.value)


def test_texts_are_padded_and_cut_at_the_end_or_at_the_front():
    texts = np.array(["a b b", "b a c d", ""], dtype=object)
    end, front = (data._words(5, 4, front)(texts)(texts).tolist() for front in (False, True))
    assert end == [[1, 4, 3, 3], [1, 3, 4, 2], [1, 0, 0, 0]]  # b is the most frequent, then a; no room for c
    assert front == [[1, 4, 3, 3], [3, 4, 2, 2], [0, 0, 0, 1]]


# What is made by code


def test_invented_texts_can_be_told_apart_by_their_words_but_not_by_one():
    for make, own in (
        (invented.newswires, invented._SUBJECTS.values()),
        (invented.reviews, (invented._BLAME, invented._PRAISE)),
    ):
        x, y = make()
        counts = np.array([[sum(word in names for word in text.split()) for names in own] for text in x])
        right = (counts.argmax(1) == y).mean()
        assert 0.7 < right < 1 and np.array_equal(make()[0], x)


def test_a_figure_has_the_colour_and_the_size_of_its_labels():
    x, labels = invented.figures()
    spread = x.astype(int).max(1) - x.min(1)  # grey ground has none, beside noise
    fills = np.array(list(invented.COLOURS.values()))
    right = []
    for image, (_, colour, _), coloured in zip(x, labels, spread > 80, strict=True):
        mean = image[:, coloured].mean(1) if coloured.any() else image.mean((1, 2))
        right.append(abs(fills - mean).sum(1).argmin() == colour)
    assert np.mean(right) > 0.8
    area = [(spread > 80)[labels[:, 2] == size].sum((1, 2)).mean() for size in range(3)]
    assert area[0] * 1.5 < area[1] and area[1] * 1.5 < area[2]


def test_the_labels_of_a_figure_say_nothing_about_each_other():
    _, labels = invented.figures()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        table = np.histogram2d(labels[:, a], labels[:, b], bins=labels.max(0)[[a, b]] + 1)[0]
        expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
        degrees = (table.shape[0] - 1) * (table.shape[1] - 1)
        assert ((table - expected) ** 2 / expected).sum() < 2 * degrees + 10


def test_the_tasks_of_figures_share_their_test_images_whatever_the_seed():
    tests = [load_task(f"figure_{n}", split_seed=seed).test[0] for n in ("shape", "colour", "size") for seed in (0, 1)]
    assert all(torch.equal(x, tests[0]) for x in tests)


# Real data

MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@real_data
@pytest.mark.parametrize(
    ("name", "counts", "test_counts", "first_test_labels", "mean"),
    [
        ("mnist", MNIST_COUNTS, MNIST_TEST_COUNTS, [7, 2, 1, 0, 4], 0.1307),
        ("fashion", [6000] * 10, [1000] * 10, [9, 2, 1, 1, 6], 0.2860),
    ],
)
def test_real_images(name, counts, test_counts, first_test_labels, mean):
    task = load_task(name)
    assert [tuple(task.split(part)[0].shape) for part in SPLITS] == [(n, 28, 28) for n in (48_000, 12_000, 10_000)]
    assert torch.bincount(torch.cat([task.train[1], task.valid[1]])).tolist() == counts
    assert torch.bincount(task.test[1]).tolist() == test_counts
    assert task.test[1][:5].tolist() == first_test_labels
    (x, _), (x_valid, _) = task.train, task.valid
    assert (x.min(), x.max(), x.dtype) == (0, 1, torch.float32)
    assert 0.8 * x.double().mean() + 0.2 * x_valid.double().mean() == pytest.approx(mean, abs=5e-5)


@real_data
@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_real_images_with_a_limit(name):
    task = load_task(name, limit=1000)
    assert [len(task.split(part)[0]) for part in SPLITS] == [800, 200, 1000]


@real_data
def test_real_boston():
    task = load_task("boston")
    assert [len(task.split(part)[0]) for part in SPLITS] == [323, 81, 102]
    x, y = task.train
    assert (x.amin(0) == 0).all() and (x.amax(0) == 1).all()
    assert (y.min(), y.max()) == (0, 1)
    # Keras's first test row has medv 7.2, age 100 and ptratio 20.2; medv spans 5 to 50, ptratio 12.6 to 22.
    x_test, y_test = task.test
    assert y_test[0].item() == pytest.approx((7.2 - 5) / 45)
    assert x_test[0, 6].item() == pytest.approx(1)
    assert x_test[0, 10].item() == pytest.approx((20.2 - 12.6) / 9.4)


@real_data_in("aclImdb")
def test_real_reviews():
    task = load_task("imdb")
    assert [tuple(task.split(part)[0].shape) for part in SPLITS] == [(n, 128) for n in (20_000, 5_000, 25_000)]
    assert [task.split(part)[1].mean().item() for part in SPLITS] == [0.5, 0.5, 0.5]
    x = task.train[0]
    assert (x[:, 0] == 1).all() and (x.min(), x.max()) == (0, 9_999)
    # "the" is the most frequent English word; one word in twenty is outside the vocabulary.
    words = torch.bincount(x[:, 1:].flatten())
    assert words[3:].argmax() == 0
    assert 0.03 < words[2] / words[2:].sum() < 0.08


@real_data_in("cifar10", "cifar-10-batches-py")
def test_real_colour_images():
    task = load_task("cifar10")
    assert [tuple(task.split(part)[0].shape) for part in SPLITS] == [(n, 3, 28, 28) for n in (40_000, 10_000, 10_000)]
    assert [torch.bincount(task.split(part)[1]).tolist() for part in SPLITS] == [[n] * 10 for n in (4000, 1000, 1000)]
    x, _ = task.train
    assert 0 <= x.min() and x.max() <= 1
    assert x.mean((0, 2, 3)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.003)  # often quoted


@real_data_in("reuters21578")
def test_real_newswires():
    x, y = newswires.reuters(Path(os.environ["MSNLIB_DATA"]))
    counts = sorted(np.bincount(y), reverse=True)
    assert (len(x), len(counts), counts[:2]) == (11_228, 46, [3_972, 2_423])  # earn and acq
    task = load_task("reuters")
    assert [len(task.split(part)[0]) for part in SPLITS] == [7_185, 1_797, 2_246] and task.inputs == (512,)
    assert task.train[0][:, -1].min() > 0  # padded at the front
