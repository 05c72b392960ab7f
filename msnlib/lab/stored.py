"""Stored trainings: every epoch of a task's training is kept, so that a killed one goes on and none is made twice.

A job is one training, of one task, without an end: `fit` asks for epoch after epoch and its stopping rules decide which
are used. What is there already is read, what is not is trained, whoever asked before and whatever cap they had. Its
folder is named after its `fingerprint`::

    ab/ab12.../facts.json   what decides the training
               last.pt      the rows of all epochs; optimizer and random numbers after the last
               0007.pt      weights and buffers after epoch 7
               kept.json    the epochs that the rule of some finished fit kept

Of the epochs that no rule has kept the latest stay, up to `SPARE` bytes of a job; one that has gone is trained again
when it is asked for. Outcomes on the test set are not stored: they are computed anew from the weights.

diskcache and joblib.Memory store what a call returns: they know no call that goes on from its last epoch. Checkpoints
of Lightning or accelerate belong to their own loops. So a job is files of torch.save (read with ``weights_only``), put
in place whole, under a filelock.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zipfile
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from filelock import FileLock
from torch import Tensor, nn

from msnlib.files import one_line, replacing, storing, write_json
from msnlib.lab.content import Unknown
from msnlib.lab.fingerprint import facts, network
from msnlib.lab.records import digest
from msnlib.learner import Learner, Schedule, train_with
from msnlib.task import Task

SPARE = 2**26  # bytes

_log = logging.getLogger(__name__)


def activate() -> list[dict[str, Any]] | None:
    """Let `fit` of this process use the store in ``$MSNLIB_STORE``, or none where that is empty or not set.

    Returns:
        The trainings that it will look after, as they come: of each task its job's key, its epochs, and how many of
        these the store had; or why it is not stored.

    Raises:
        ValueError: the folder cannot be written to.
    """
    root = os.environ.get("MSNLIB_STORE")
    if not root:
        train_with(None)
        return None
    store = Store(root)
    train_with(store)
    return store.trainings


class Store:
    """A folder of jobs; called as `fit` calls its ``learner``.

    Attributes:
        trainings: see :func:`activate`.

    Raises:
        ValueError: the folder cannot be written to.
    """

    def __init__(self, root: str | os.PathLike):
        self.root, self.trainings = Path(root).expanduser().absolute(), []
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"MSNLIB_STORE {root}: {error.strerror}") from None
        if not os.access(self.root, os.W_OK):
            raise ValueError(f"MSNLIB_STORE {root}: cannot be written to")

    def __call__(self, net: nn.Module, task: Task, schedule: Schedule) -> Learner:
        learner = Learner(net, task, schedule)
        try:
            decide = facts(learner)
        except Unknown as error:
            self.trainings.append({"task": task.name, "not_stored": one_line(error)})
            return learner
        job = Job(self.root, decide)
        self.trainings.append({"task": task.name, "key": job.key, "epochs": 0, "read": 0})
        return StoredLearner(net, task, schedule, job, self.trainings[-1])


class Job:
    """The files of one training.

    Attributes:
        key: the sha256 of what decides it.
        folder: where they lie.
        rows: of `History.table`, one for each epoch that is known.
    """

    def __init__(self, root: Path, decide: dict[str, Any]):
        self.key = digest(decide)
        self.folder = root / self.key[:2] / self.key
        self.rows: list[dict[str, Any]] = []
        self._seen: tuple[int, ...] | None = None
        self.lock = FileLock(self.folder / "lock", mode=0o666)
        with self._storing():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "facts.json").exists():
                write_json(self.folder / "facts.json", decide)
        with suppress(PermissionError):
            os.utime(self.folder / "facts.json")  # for `msn clean --older-than`: it is used

    def refresh(self) -> None:
        """Learn of epochs that others have trained."""
        try:
            found = os.stat(self._last)
        except FileNotFoundError:
            return
        signature = (found.st_mtime_ns, found.st_size, found.st_ino)
        if signature == self._seen:
            return
        self._seen = signature
        last = self.last()
        if last is not None and len(last["rows"]) > len(self.rows):
            self.rows = last["rows"]

    def last(self) -> dict[str, Any] | None:
        """Rows, optimizer and random numbers after the last epoch, if they are whole."""
        return self._read(self._last)

    def tensors(self, epoch: int) -> list[Tensor] | None:
        """What the task trains, after an epoch; None where it has gone or is not whole."""
        found = self._read(self._weights(epoch))
        return None if found is None else found["tensors"]

    def write(self, row: dict[str, Any], tensors: list[Tensor], state: dict[str, Any]) -> None:
        """Add an epoch."""
        self.write_weights(row["epoch"], tensors)
        rows = [*self.rows[: row["epoch"] - 1], row]
        self._write(self._last, {"rows": rows, **state})
        self.rows = rows

    def write_weights(self, epoch: int, tensors: list[Tensor]) -> None:
        self._write(self._weights(epoch), {"tensors": tensors})

    def kept(self) -> set[int]:
        """The epochs that rules of finished fits kept."""
        return set(_json(self.folder / "kept.json") or [])

    def keep(self, epochs: set[int]) -> None:
        """Add to these."""
        if not epochs <= self.kept():
            with self.lock, self._storing():
                write_json(self.folder / "kept.json", sorted(epochs | self.kept()))

    def tidy(self, needed: set[int]) -> None:
        """Remove the weights of old epochs that no rule needs, but for the latest `SPARE` bytes of them."""
        keep, room = needed | self.kept() | {len(self.rows)}, SPARE
        for path in sorted(self.folder.glob("[0-9]*.pt"), reverse=True):
            if int(path.stem) not in keep:
                room -= path.stat().st_size
                if room < 0:
                    path.unlink(missing_ok=True)

    @property
    def _last(self) -> Path:
        return self.folder / "last.pt"

    def _weights(self, epoch: int) -> Path:
        return self.folder / f"{epoch:04}.pt"

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        with self._storing():
            self.folder.mkdir(parents=True, exist_ok=True)  # someone may have freed the space
            with replacing(path) as part:
                torch.save({"key": self.key, **content}, part)

    def _storing(self) -> AbstractContextManager[None]:
        advice = ": make room (msn clean lists what is stored), or run with --no-store"
        return storing(f"the store {self.folder.parent.parent}", advice)

    def _read(self, path: Path) -> dict[str, Any] | None:
        """A file's content; None, and a line that names it, unless it is a whole one of this job."""
        try:
            with zipfile.ZipFile(path) as parts:
                torn = parts.testzip()  # torch.load looks at no checksum
            content = None if torn else torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # torn bytes may raise anything
            torn, content = one_line(error), None
        if content is not None and isinstance(content, dict) and content.get("key") == self.key:
            return content
        reason = f"torn ({torn})" if torn else "of another job"
        _log.warning("the store's %s is %s; it is made again", path.relative_to(self.folder.parent.parent), reason)
        return None


@dataclass(eq=False)
class Kept:
    """An epoch that a rule keeps for as long as this lives, and what it holds where no job does."""

    epoch: int
    tensors: list[Tensor] | None = None
    __hash__ = object.__hash__


class StoredLearner(Learner):
    """A learner that reads the epochs its job has, and trains and stores the others.

    A module of the user's may keep more than tensors from one call to the next: the first epoch shows it, and the
    training then goes on without a job (which is None from there on).
    """

    def __init__(self, net: nn.Module, task: Task, schedule: Schedule, job: Job, training: dict[str, Any]):
        super().__init__(net, task, schedule)
        self.job: Job | None = job
        self.training = training
        self._beside = network(self, tensors=False)
        self._before = [tensor.detach().clone() for tensor in self.tensors]
        self._at: int | None = 0  # the epoch that tensors, optimizer and random numbers are at
        self._shown, self._alive = 0, WeakSet()
        self.job.refresh()

    def epoch(self, number: int) -> dict[str, Any]:
        """The row of the next epoch, which is trained unless it is stored; see :meth:`Learner.epoch`."""
        if self.job is None:
            self._shown = number
            return super().epoch(number)
        if len(self.job.rows) < number:
            with self.job.lock:  # of no other job at the same time, so that no two wait for each other
                self.job.refresh()
                if len(self.job.rows) < number:
                    row = self._train(number)
                    if self.job is None:
                        self._shown = number
                        return row
                else:
                    self.training["read"] += 1
        else:
            self.training["read"] += 1
        self.net.train()
        self._shown = self.training["epochs"] = number
        return dict(self.job.rows[number - 1])

    def _train(self, number: int) -> dict[str, Any]:
        self._go_to(number - 1)
        self._at = None  # until the epoch is whole
        row = super().epoch(number)
        self._at = number
        if self._keeps_more():
            self._leave(number)
            return row
        state = {"optimizer": self.optimizer.state_dict(), "order": self.order.get_state(), "random": self.random}
        self.job.write(row, [tensor.detach().cpu().clone() for tensor in self.tensors], state)
        self.job.tidy({kept.epoch for kept in self._alive})
        if progress := os.environ.get("MSNLIB_PROGRESS"):
            said = {"task": self.task.name, "epoch": number, "seconds": row["seconds"], "time": time.time()}
            write_json(Path(progress), said | {"key": self.job.key})
        return row

    def _keeps_more(self) -> bool:
        """Whether an epoch has changed anything that no file holds."""
        try:
            return network(self, tensors=False) != self._beside
        except Unknown:
            return True

    def _leave(self, number: int) -> None:
        """Go on without the store."""
        what = "the network keeps more than tensors from one call to the next (an attribute or a global changed)"
        if number > 1:
            raise RuntimeError(f"job {self.job.key} of the store, epoch {number}: {what}; train without a store")
        del self.training["key"], self.training["epochs"], self.training["read"]
        self.training["not_stored"] = what
        self.job = None

    def _go_to(self, epoch: int) -> None:
        """Be as after this epoch, the last that is stored."""
        if self._at == epoch:
            return
        last, tensors = self.job.last(), self.job.tensors(epoch)
        if last is None or tensors is None or len(last["rows"]) != epoch:
            self._again(epoch)
            return
        super().put_back(tensors)
        self.begin()
        self.optimizer.load_state_dict(last["optimizer"])
        self.order.set_state(last["order"])
        self.random = last["random"]
        self._at = epoch

    def _again(self, epoch: int) -> None:
        """Train from the start up to this epoch, whose weights, or what it takes to go on, are not there any more."""
        super().put_back(self._before)
        self.begin()
        for number in range(1, epoch + 1):
            row, then = super().epoch(number), self.job.rows[number - 1]
            if {**row, "seconds": 0} != {**then, "seconds": 0}:
                raise RuntimeError(
                    f"job {self.job.key} of the store: epoch {number} gives another loss than when it was stored; "
                    "remove the job (msn clean --job KEY) and start again"
                )
        self._at = epoch
        self.job.write_weights(epoch, [tensor.detach().cpu().clone() for tensor in self.tensors])

    def keep(self) -> Kept:
        """What :meth:`put_back` takes to return to this epoch."""
        kept = Kept(self._shown, None if self.job else super().keep())
        self._alive.add(kept)
        return kept

    def put_back(self, kept: Kept) -> None:
        """Let the task be as after this epoch; if its weights have gone they are trained again."""
        if kept.tensors is not None:
            super().put_back(kept.tensors)
        elif kept.epoch and self._at != kept.epoch:
            tensors = self.job.tensors(kept.epoch)
            if tensors is None:
                self._again(kept.epoch)
                super().end()
            else:
                super().put_back(tensors)
        elif not kept.epoch:
            super().put_back(self._before)
        self._at = None  # the optimizer may be elsewhere

    def end(self) -> None:
        """Let go of what only further epochs need."""
        if self.job is not None:
            self.job.keep({kept.epoch for kept in self._alive} - {0})
        super().end()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
