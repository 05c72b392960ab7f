"""Training tasks in parallel or one after another, and measuring them."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from msnlib.allocation import allocate
from msnlib.seeding import stream
from msnlib.selection import Choose, Density, Rule
from msnlib.subnetworks import activated, check_fits, evaluating, switches, task_buffers, task_parameters, using
from msnlib.task import Task


@dataclass(frozen=True)
class Stopping:
    """Early stopping on validation loss; the best epoch's weights are what a rule leaves behind.

    An epoch is an improvement when the loss is below the best one minus ``min_delta``; after ``patience`` epochs
    without one the rule is done.

    Attributes:
        name: what checkpoints and records call it.
        patience: epochs.
        min_delta: in units of the loss.
        per_task: watch each task's own loss, which disjoint subnetworks allow, instead of the sum over the tasks.
    """

    name: str
    patience: int
    min_delta: float
    per_task: bool


AUTHORS = Stopping("authors", patience=3, min_delta=0.01, per_task=False)
"""The released scripts' ``EarlyStopping(min_delta=0.01, patience=3, restore_best_weights=True)``."""

CONVERGED = Stopping("converged", patience=5, min_delta=0.0, per_task=True)
"""Until the validation loss has not improved at all for five epochs."""


@dataclass
class History:
    """What :func:`fit` saw.

    Attributes:
        table: one row per epoch and task: epoch, task, train_loss, valid_loss, valid_score, seconds (of the epoch).
        best: (rule, task) -> the epoch whose weights the rule keeps.
        capped: (rule, task) -> whether the most epochs allowed had passed before the rule would have stopped: what it
            keeps may then say more about that cap than about the rule.
    """

    table: pd.DataFrame
    best: dict[tuple[str, str], int]
    capped: dict[tuple[str, str], bool]
    _state: dict[str, list[Tensor]] = field(repr=False)
    _checkpoints: dict[tuple[str, str], list[Tensor]] = field(repr=False)

    def use(self, rule: Stopping) -> None:
        """Put the trained tasks at the epoch this rule chose.

        Raises:
            ValueError: fit was not given the rule.
        """
        if (rule.name, next(iter(self._state))) not in self._checkpoints:
            raise ValueError(
                f"fit kept nothing for the rule {rule.name!r}; it kept: {sorted({r for r, _ in self.best})}"
            )
        for task, tensors in self._state.items():
            with torch.no_grad():
                for tensor, value in zip(tensors, self._checkpoints[rule.name, task], strict=True):
                    tensor.copy_(value)

    def seconds(self, rule: Stopping, task: str) -> float:
        """Training time up to the epoch that the rule kept for the task."""
        rows = self.table[(self.table.task == task) & (self.table.epoch <= self.best[rule.name, task])]
        return float(rows.seconds.sum())


@dataclass
class _Watch:
    """One rule's view of one group of tasks."""

    rule: Stopping
    group: list[str]
    best: float = math.inf
    epoch: int = 0
    waited: int = 0

    @property
    def done(self) -> bool:
        return self.waited >= self.rule.patience

    def improves(self, epoch: int, losses: dict[str, float]) -> bool:
        total = sum(losses[name] for name in self.group)
        if total < self.best - self.rule.min_delta:
            self.best, self.epoch, self.waited = total, epoch, 0
            return True
        self.waited += 1
        return False


def fit(
    net: nn.Module,
    tasks: Task | Sequence[Task],
    epochs: int = 100,
    stopping: Stopping | Sequence[Stopping] = AUTHORS,
    learning_rate: float = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    batch_size: int | None = None,
    seed: int | None = None,
) -> History:
    """Train tasks in parallel: in every step each of them takes one batch of its own data.

    Each task has its own optimizer over its own :func:`~msnlib.task_parameters`, and a batch order of its own from
    the seed and its name. So, given the batch size and the steps of an epoch (the group's), what a task learns does
    not depend on what is trained beside it.

    Args:
        net: holds the tasks already (see :func:`~msnlib.allocate`).
        tasks: whose data to train on.
        epochs: at most; an epoch ends when the longest task's data does, shorter ones start over meanwhile.
        stopping: when to stop and which epoch to keep. With several rules training goes on until all are done, the
            net is left as the first says, and :meth:`History.use` changes between them: one run, several answers.
        learning_rate: the authors' is 1e-3.
        optimizer: called as ``optimizer(parameters, lr=learning_rate)``.
        batch_size: None takes the tasks' own (in a group the largest, as published).
        seed: of the batch order; None takes the run's.

    Raises:
        ValueError: a task that the net does not hold or that does not fit it, one without training or validation
            examples, or a size or rate out of range; nothing was trained.
        FrozenTaskError: a later task reads one of these.
        FloatingPointError: a loss is not finite any more.
    """
    group = [tasks] if isinstance(tasks, Task) else list(tasks)
    rules = [stopping] if isinstance(stopping, Stopping) else list(stopping)
    if not group or not rules:
        raise ValueError("fit needs at least one task and one stopping rule")
    _check_schedule(epochs, learning_rate, batch_size)
    for task in group:
        check_fits(net, task, "train", "valid")
    parameters = {task.name: task_parameters(net, task.name) for task in group}
    if len(parameters) < len(group):
        raise ValueError(f"a task is given more than once: {', '.join(task.name for task in group)}")
    device = next(iter(parameters.values()))[0].device
    group = [task.to(device) for task in group]
    size = batch_size or max(task.batch_size for task in group)
    steps = max(math.ceil(len(task.train[0]) / size) for task in group)
    optimizers = {name: optimizer(values, lr=learning_rate) for name, values in parameters.items()}
    orders = {task.name: stream("batches", task.name, seed=seed) for task in group}

    names = list(parameters)
    watches = [_Watch(r, g) for r in rules for g in ([[n] for n in names] if r.per_task else [names])]
    rows: list[dict[str, Any]] = []
    state = {name: [*values, *task_buffers(net, name)] for name, values in parameters.items()}
    checkpoints: dict[tuple[str, str], list[Tensor]] = {}
    bar = dict(desc=" + ".join(names), unit="epoch", leave=False, disable=not _watched())
    for epoch in tqdm(range(1, epochs + 1), **bar):
        going = [task for task in group if any(task.name in w.group and not w.done for w in watches)]
        if not going:
            break
        trained = _epoch(net, going, optimizers, size, steps, orders, epoch)
        for task in going:
            start = time.perf_counter()
            measured = evaluate(net, task, split="valid")[task.name]
            _check_finite(task.name, "validation", measured["loss"], epoch)
            loss, seconds = trained[task.name]
            seconds += time.perf_counter() - start
            valid = {"valid_loss": measured["loss"], "valid_score": measured[task.metric]}
            rows.append({"epoch": epoch, "task": task.name, "train_loss": loss, **valid, "seconds": seconds})
        losses = {row["task"]: row["valid_loss"] for row in rows if row["epoch"] == epoch}
        for watch in watches:
            if not watch.done and watch.improves(epoch, losses):
                for name in watch.group:
                    checkpoints[watch.rule.name, name] = [t.detach().clone() for t in state[name]]
    best = {(w.rule.name, name): w.epoch for w in watches for name in w.group}
    capped = {(w.rule.name, name): not w.done for w in watches for name in w.group}
    history = History(pd.DataFrame(rows), best, capped, state, checkpoints)
    history.use(rules[0])
    return history


def _watched() -> bool:
    """Whether somebody sees a progress bar: at a terminal, or in a notebook that is open.

    A notebook run by papermill, nbconvert or nbval would keep it in its output; those, unlike a person, tell the
    kernel that nobody answers its questions.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    return sys.stderr.isatty() if kernel is None else bool(getattr(kernel, "_allow_stdin", False))


def _check_schedule(epochs: int = 1, learning_rate: float = 1.0, batch_size: int | None = None, **_: Any) -> None:
    if epochs < 1 or not 0 < learning_rate < math.inf:
        raise ValueError(f"epochs {epochs} must be at least 1 and learning_rate {learning_rate} above 0")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")


def _epoch(
    net: nn.Module,
    group: list[Task],
    optimizers: dict[str, torch.optim.Optimizer],
    size: int,
    steps: int,
    orders: dict[str, torch.Generator],
    epoch: int,
) -> dict[str, tuple[float, float]]:
    """One pass; task -> (mean training loss, seconds)."""
    net.train()
    found = switches(net)
    total = {task.name: 0.0 for task in group}
    seconds = {task.name: 0.0 for task in group}
    streams = {task.name: _cycle(task, size, orders[task.name]) for task in group}
    for _, task in itertools.product(range(steps), group):
        start = time.perf_counter()
        x, y = next(streams[task.name])
        optimizers[task.name].zero_grad()
        with activated(found, task.name):
            loss = task.loss(net(x), y)
            loss.backward()
        optimizers[task.name].step()
        total[task.name] += loss.item()
        seconds[task.name] += time.perf_counter() - start
    for name, loss in total.items():
        _check_finite(name, "training", loss, epoch)
    return {name: (total[name] / steps, seconds[name]) for name in total}


def _check_finite(task: str, part: str, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"task {task!r}: the {part} loss is {loss} in epoch {epoch}; try a lower learning_rate"
        )


def _cycle(task: Task, size: int, order: torch.Generator) -> Iterable[tuple[Tensor, Tensor]]:
    while True:
        yield from task.batches("train", size, generator=order)


@torch.no_grad()
def predict(net: nn.Module, task: Task, split: str = "test", batch_size: int = 1024) -> Tensor:
    """The task's outputs on one split, in order; the model is left as it was found.

    Shape: (N, outputs).

    Raises:
        ValueError: the network holds no such task, or unknown split.
    """
    check_fits(net, task, split, targets=False)
    device = next(iter(net.parameters())).device
    with evaluating(net), using(net, task.name):
        return torch.cat([net(x.to(device)) for x, _ in task.batches(split, batch_size)])


def evaluate(net: nn.Module, tasks: Task | Sequence[Task], split: str = "test") -> dict[str, dict[str, float]]:
    """Task -> its metric (accuracy in %, or mse) and its loss on one split; the model is left as it was found.

    Raises:
        ValueError: the network holds no such task, or unknown split.
    """
    group = [tasks] if isinstance(tasks, Task) else list(tasks)
    for task in group:
        check_fits(net, task, split)
    found = {}
    for task in group:
        prediction = predict(net, task, split)
        target = task.split(split)[1].to(prediction.device)
        found[task.name] = {task.metric: task.score(prediction, target), "loss": task.loss(prediction, target).item()}
    return found


@dataclass
class SequenceHistory:
    """What :func:`fit_sequence` saw.

    Attributes:
        matrix: a row before and after each phase, a column per task: its metric on the test split, NaN while the
            network does not hold the task.
        forgetting: task -> what it lost since its own phase ended, in its metric's units; positive is worse.
        moved: task -> largest absolute change of any of its test outputs since its own phase ended.
        histories: one per phase.
    """

    matrix: pd.DataFrame
    forgetting: dict[str, float]
    moved: dict[str, float]
    histories: list[History]


def fit_sequence(
    net: nn.Module,
    tasks: Sequence[Task | Sequence[Task]],
    density: Density,
    method: str = "gradient",
    reads: str = "none",
    init: str = "he",
    sample: int | None = None,
    seed: int | None = None,
    rule: str | Rule | Choose = "largest",
    **fitting: Any,
) -> SequenceHistory:
    """Learn tasks one after another: each phase's tasks are allocated when their turn comes, then trained in parallel.

    Nothing about a later task is known to the network before its phase.

    Args:
        net: holds none of the tasks yet; stems and heads of a task it does not declare are added in its phase.
        tasks: the phases in order; a phase is one task or several that are trained in parallel.
        density, method, init, rule: as for :func:`~msnlib.allocate`.
        reads: likewise; the first phase has nothing earlier to read. With ``"all"`` a later phase must be one task,
            as two would freeze each other.
        sample: training examples to score on; None takes all.
        seed: of allocation and batch order; None takes the run's.
        fitting: passed to :func:`fit`.

    Raises:
        CapacityError: a phase's task does not fit; earlier phases are trained.
        ValueError, FrozenTaskError, FloatingPointError: as :func:`~msnlib.allocate` and :func:`fit`.
    """
    _check_schedule(**fitting)
    phases = [[phase] if isinstance(phase, Task) else list(phase) for phase in tasks]
    rows: dict[str, dict[str, float]] = {}
    histories: list[History] = []
    learned: dict[str, tuple[Task, Tensor]] = {}
    for phase in phases:
        for task in phase:
            if task.name not in getattr(net, "declared", {task.name}):
                net.add_task(task.name, task.inputs, task.outputs, task.vocabulary)
            sampled, earlier = task.batches("train", limit=sample), reads if learned else "none"
            how = dict(reads=earlier, init=init, seed=seed, rule=rule)
            allocate(net, task.name, density, method, sampled, task.loss, **how)
        label, seen = " + ".join(task.name for task in phase), [t for t, _ in learned.values()] + phase
        rows[f"before {label}"] = scores(net, seen)
        histories.append(fit(net, phase, seed=seed, **fitting))
        rows[f"after {label}"] = scores(net, seen)
        learned |= {task.name: (task, predict(net, task)) for task in phase}
    matrix = pd.DataFrame.from_dict(rows, orient="index", columns=list(learned))
    forgetting, moved = {}, {}
    for name, (task, outputs) in learned.items():
        own = next(f"after {' + '.join(t.name for t in phase)}" for phase in phases if task in phase)
        lost = matrix.loc[own, name] - matrix[name].iloc[-1]
        forgetting[name] = float(-lost if task.metric == "mse" else lost) + 0.0  # no negative zero
        moved[name] = float((predict(net, task) - outputs).abs().max())
    return SequenceHistory(matrix, forgetting, moved, histories)


def scores(net: nn.Module, group: Sequence[Task], split: str = "test") -> dict[str, float]:
    """Task -> its one metric on a split."""
    return {task.name: measured[task.metric] for task in group for measured in [evaluate(net, task, split)[task.name]]}
