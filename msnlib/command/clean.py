"""Stored trainings as files: which there are, and removing them. Nothing here waits for torch."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout


@dataclass(frozen=True)
class Training:
    """A training in the store (see `msnlib.lab.stored`)."""

    folder: Path
    task: str
    epochs: int
    bytes: int
    used: float

    @property
    def key(self) -> str:
        """Its whole key."""
        return self.folder.name

    def __str__(self) -> str:
        days = max(0.0, time.time() - self.used) / 86400
        size = f"{self.epochs:3} epochs' weights  {self.bytes / 1e6:9.1f} MB"
        return f"{self.key[:12]}  {self.task:16}  {size}  {days:6.1f} days ago"

    def remove(self) -> bool:
        """Remove it and say so; not while an epoch of it is trained. Raises `OSError` when some of it stays."""
        try:
            with FileLock(self.folder / "lock").acquire(timeout=0):
                shutil.rmtree(self.folder)
        except Timeout:
            return False
        except OSError:
            if self.folder.exists():  # else somebody else has removed it
                raise
        return True


def kept_trainings(root: Path, days: float = 0.0, key: str = "") -> list[Training]:
    """Return the trainings under ``root`` that were not used for so many days and whose key starts so, oldest first."""
    found = []
    for folder in Path(root).glob("[0-9a-f][0-9a-f]/*"):
        if not folder.name.startswith(key):
            continue
        try:
            task = json.loads((folder / "facts.json").read_text(encoding="utf-8"))["task"]
        except (OSError, ValueError, KeyError, TypeError):
            task = "?"
        files = [path.stat() for path in folder.iterdir() if path.is_file()]
        used = max((file.st_mtime for file in files), default=0.0)
        if used <= time.time() - days * 86400:
            epochs = len(list(folder.glob("[0-9]*.pt")))
            found.append(Training(folder, task, epochs, sum(file.st_size for file in files), used))
    return sorted(found, key=lambda training: training.used)
