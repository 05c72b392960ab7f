"""Files that are whole: the old one or the new one, also after a crash."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent  # where notebooks, reports and git's history lie, unless the package is installed alone


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A file to write, which takes the place of the one at ``path`` when the block ends and vanishes if it fails."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would hide it from others
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, name):
            error.filename = str(path)  # a full disk does not say which file
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def storing(what: str, advice: str) -> Iterator[None]:
    """Make of whatever goes wrong while ``what`` is written an `OSError` of one line that ends with ``advice``."""
    try:
        yield
    except Exception as error:  # on a full disk torch and safetensors raise their own
        reason = getattr(error, "strerror", None) or f"disk full? {one_line(error)}"
        raise OSError(f"{what} cannot be written ({reason}){advice}") from None


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path`` as JSON with sorted keys."""
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def move_into_place(part: Path, target: Path) -> None:
    """Rename the folder ``part`` to ``target``, which it replaces."""
    old = part.with_name(part.name + ".old")
    try:
        if target.exists():
            os.replace(target, old)  # a folder that is not empty cannot be replaced in one step
        os.replace(part, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


class UsageError(ValueError):
    """What was asked cannot be done; the message is one line."""


def one_line(error: Exception) -> str:
    """An error's message on one line, 200 characters at most."""
    return " ".join(str(error).split())[:200]
