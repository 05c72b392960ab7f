"""The outcome of every test example, one file of arrays beside a record."""

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msnlib.files import replacing

if TYPE_CHECKING:
    import numpy

TEST_ROWS = "test rows"  # in place of an arm, beside the outcomes of test examples


def write_examples(path: Path, examples: dict[tuple[str, str], Any]) -> None:
    """Write (task, arm) -> outcomes to ``path``, floats as float32."""
    import numpy  # here, so that a record without them does not wait for it

    arrays = {}
    for (task, arm), outcomes in examples.items():
        array = numpy.asarray(outcomes)
        arrays[f"{task}: {arm}"] = array.astype(numpy.float32) if array.dtype.kind == "f" else array
    with replacing(path) as part, part.open("wb") as file:  # by name, numpy would add a suffix
        numpy.savez_compressed(file, **arrays)


def read_examples(record: Path | str) -> "dict[tuple[str, str], numpy.ndarray]":
    """Return (task, arm) -> the outcome of every test example, as `Run.add` was given them, of one record's file; and
    (task, `TEST_ROWS`) -> the rows of the dataset that they are, where the test part was drawn anew.

    Empty when the record has none. Raises `ValueError` when the file beside the record is broken.
    """
    import numpy

    path = Path(record).with_suffix(".npz")
    try:
        with numpy.load(path) as stored:
            return {tuple(name.split(": ", 1)): stored[name] for name in stored.files}
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: broken ({error})") from None
