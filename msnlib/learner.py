"""One task's training: its optimizer, its batches and its random numbers, which no other task shares."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from msnlib.measuring import Batch, joined, measured, norms
from msnlib.seeding import stream
from msnlib.subnetworks import activated, switches, task_buffers, task_parameters
from msnlib.task import Task, is_count


@dataclass(frozen=True)
class Schedule:
    """How :func:`fit` trains each task of a group.

    Attributes:
        epochs: at most.
        steps: batches of an epoch, the same for all tasks.
        batch_size: examples.
        optimizer, learning_rate: see :func:`fit`.
        seed: of batches and random layers.
        precision: what forward and backward compute in, see :func:`fit`.
    """

    epochs: int
    steps: int
    batch_size: int
    optimizer: Callable[..., torch.optim.Optimizer]
    learning_rate: float
    seed: int
    precision: torch.dtype | None = None


def check_schedule(
    epochs: int = 1,
    learning_rate: float = 1.0,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    batch_size: int | None = None,
    precision: torch.dtype | None = None,
    **_: Any,
) -> None:
    """Refuse a :class:`Schedule` that cannot be; other arguments of :func:`fit` may stand beside.

    Raises:
        ValueError: what is out of range or of another kind.
    """
    for name, count in (("epochs", epochs), ("batch_size", 1 if batch_size is None else batch_size)):
        if not is_count(count):
            raise ValueError(f"{name} {count!r} must be at least 1, a whole number")
    if isinstance(learning_rate, bool) or not isinstance(learning_rate, Real) or not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate {learning_rate!r} must be a number above 0 and finite")
    if not callable(optimizer):
        raise ValueError(f"optimizer {optimizer!r} must be one to call, like torch.optim.Adam")
    if precision not in (None, torch.bfloat16):
        raise ValueError(f"precision {precision!r} must be torch.bfloat16, or None for that of the weights")


class Learner:
    """One task's training, an epoch at a time, in which no other task takes part.

    What it learns depends on the network as the task sees it, the task's data and the :class:`Schedule` alone: batches
    and random layers (dropout) draw from streams of their own, named after the task, and leave torch's generators as
    they were.
    """

    def __init__(self, net: nn.Module, task: Task, schedule: Schedule):
        self.values = task_parameters(net, task.name)
        if not self.values:
            raise ValueError(f"task {task.name!r} has no parameter that can be trained")
        self.net, self.schedule, self.task = net, schedule, task.to(self.values[0].device)
        if schedule.precision is not None and self.values[0].dtype != torch.float32:
            found = str(self.values[0].dtype).removeprefix("torch.")
            raise ValueError(f"task {task.name!r}: precision bfloat16 is for weights in float32, not {found}")
        self._kept: list[Tensor] | None = None
        self.begin()

    def begin(self) -> None:
        """Make optimizer and generators anew, as before the first epoch."""
        name, seed, device = self.task.name, self.schedule.seed, self.values[0].device
        self.optimizer = self.schedule.optimizer(self.values, lr=self.schedule.learning_rate)
        _check_steps_alone(self.optimizer)
        self.order = stream("batches", name, seed=seed)
        layers = stream("layers", name, seed=seed)
        self.random = {"cpu": layers.get_state()}
        if device.type == "cuda":
            self.random["cuda"] = torch.Generator(device).manual_seed(layers.initial_seed()).get_state()

    def epoch(self, number: int) -> dict[str, Any]:
        """Train for one epoch, then measure on the validation part.

        Returns:
            The epoch's row of :attr:`History.table`.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        start, name, steps = time.perf_counter(), self.task.name, self.schedule.steps
        self._kept = None
        self.net.train()
        own, batches, losses = switches(self.net), self._batches(), []
        with self._own_numbers():
            for _ in range(steps):
                x, y = next(batches)
                self.optimizer.zero_grad()
                with activated(own, name):
                    with self._precision():
                        outputs = self.net(x)
                    loss = self.task.loss(outputs.to(self.values[0].dtype), y)
                    loss.backward()
                self.optimizer.step()
                losses.append(loss.detach())
        total = 0.0
        for loss in torch.stack(losses).tolist():  # read once an epoch: a step need not wait for a GPU to end
            total += loss
        _check_finite(name, "training", total, number)
        with self._precision():
            found = measured(self.net, self.task, "valid")
        _check_finite(name, "validation", found["loss"], number)
        valid = {"valid_loss": found["loss"], "valid_score": found[self.task.metric]}
        seconds = time.perf_counter() - start
        return {"epoch": number, "task": name, "train_loss": total / steps, **valid, "seconds": seconds}

    @property
    def tensors(self) -> list[Tensor]:
        """What training changes: the task's parameters, then its buffers, which a module may put others in place of."""
        return [*self.values, *task_buffers(self.net, self.task.name)]

    def keep(self) -> Any:
        """What :meth:`put_back` takes to return to this epoch."""
        if self._kept is None:
            self._kept = [tensor.detach().clone() for tensor in self.tensors]
        return self._kept

    def put_back(self, kept: Any) -> None:
        """Let the task be as it was when it was kept."""
        with torch.no_grad():
            for tensor, value in zip(self.tensors, kept, strict=True):
                tensor.copy_(value)

    def end(self) -> None:
        """Let go of what only further epochs need."""
        self.optimizer = self.order = self._kept = None

    def _batches(self) -> Iterator[Batch]:
        join, size = bool(norms(self.net, self.task.name)), self.schedule.batch_size
        while True:
            batches = self.task.batches("train", size, generator=self.order)
            yield from joined(batches) if join else batches

    def _precision(self) -> AbstractContextManager:
        precision = self.schedule.precision
        return nullcontext() if precision is None else torch.autocast(self.values[0].device.type, precision)

    @contextmanager
    def _own_numbers(self) -> Iterator[None]:
        """Torch's generators are the task's own inside the block."""
        devices = [self.values[0].device] if "cuda" in self.random else []
        with torch.random.fork_rng(devices):
            torch.set_rng_state(self.random["cpu"])
            for device in devices:
                torch.cuda.set_rng_state(self.random["cuda"], device)
            yield
            self.random["cpu"] = torch.get_rng_state()
            for device in devices:
                self.random["cuda"] = torch.cuda.get_rng_state(device)


_makes: Callable[[nn.Module, Task, Schedule], Learner] | None = None


def train_with(factory: Callable[[nn.Module, Task, Schedule], Learner] | None) -> None:
    """Let ``factory`` make what :func:`fit` trains each task with, in this process; None: :class:`Learner`."""
    global _makes
    _makes = factory


def make(net: nn.Module, task: Task, schedule: Schedule) -> Learner:
    """What :func:`train_with` said."""
    return (_makes or Learner)(net, task, schedule)


def steps_of(net: nn.Module, task: Task, size: int) -> int:
    """Batches of the task's training part.

    Raises:
        ValueError: a batch of one meets a layer that cannot do with it.
    """
    examples, found = len(task.train[0]), norms(net, task.name)
    for name, norm in found.items():
        if isinstance(norm, nn.BatchNorm1d) and min(examples, size) == 1:
            what = "batch_size 1" if size == 1 else "1 training example"
            raise ValueError(f"task {task.name!r}: {name} (BatchNorm1d) takes batches of two or more, not {what}")
    alone = found and size > 1 and examples > size and examples % size == 1
    return math.ceil(examples / size) - bool(alone)


def _check_steps_alone(optimizer: torch.optim.Optimizer) -> None:
    wanted = [
        parameter.name
        for parameter in inspect.signature(optimizer.step).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if wanted:
        kind = type(optimizer).__name__
        raise ValueError(f"optimizer {kind}: its step wants {', '.join(wanted)}, which fit does not give; use another")


def _check_finite(task: str, part: str, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"task {task!r}: the {part} loss is {loss} in epoch {epoch}; try a lower learning_rate"
        )
