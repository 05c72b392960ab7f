"""Training tasks in parallel or one after another, and when to stop."""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from msnlib.allocation import allocate
from msnlib.isolation import check_fits, check_sizes
from msnlib.learner import Learner, Schedule, check_schedule, make, steps_of
from msnlib.measuring import group_of, predict, scores
from msnlib.selection import Choose, Density, Rule, as_rule, budget, check_how
from msnlib.subnetworks import check_name, shared_tensors
from msnlib.subnetworks import tasks as held_by
from msnlib.task import SPLITS, Task


@dataclass(frozen=True)
class Stopping:
    """Early stopping on validation loss; the best epoch's weights are what a rule leaves behind.

    An epoch is an improvement when the loss is below the best one minus ``min_delta``; after ``patience`` epochs
    without one the rule is done.

    Attributes:
        name: what checkpoints and records call it.
        patience: epochs, at least 1.
        min_delta: in units of the loss; ``-math.inf`` takes every epoch for an improvement, so that the last is kept.
        per_task: watch each task's own loss, which disjoint subnetworks allow, instead of the sum over the tasks.

    Raises:
        ValueError: no name, or a patience or min_delta out of range.
    """

    name: str
    patience: int
    min_delta: float
    per_task: bool

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a stopping rule's name is {self.name!r}, but must be a text")
        if isinstance(self.patience, bool) or not isinstance(self.patience, Integral) or self.patience < 1:
            raise ValueError(f"rule {self.name!r}: patience {self.patience!r} must be at least 1, a whole number")
        if not isinstance(self.min_delta, Real) or not self.min_delta < math.inf:
            raise ValueError(f"rule {self.name!r}: min_delta {self.min_delta!r} must be a number below infinity")


AUTHORS = Stopping("authors", patience=3, min_delta=0.01, per_task=False)
"""The released scripts' ``EarlyStopping(min_delta=0.01, patience=3, restore_best_weights=True)``."""

CONVERGED = Stopping("converged", patience=5, min_delta=0.0, per_task=True)
"""Until the validation loss has not improved at all for five epochs."""


@dataclass
class _Watch:
    """One rule's view of one group of tasks, and what it keeps of each."""

    rule: Stopping
    group: list[str]
    kept: dict[str, Any]
    best: float = math.inf
    epoch: int = 0
    waited: int = 0

    @property
    def done(self) -> bool:
        return self.waited >= self.rule.patience

    def see(self, epoch: int, losses: dict[str, float], learners: dict[str, Learner]) -> None:
        if self.done:
            return
        total = sum(losses[name] for name in self.group)
        if total < self.best - self.rule.min_delta:
            self.best, self.epoch, self.waited = total, epoch, 0
            self.kept = {name: learners[name].keep() for name in self.group}
        else:
            self.waited += 1


@dataclass
class History:
    """What :func:`fit` saw."""

    _rows: list[dict[str, Any]] = field(repr=False)
    _watches: list[_Watch] = field(repr=False)
    _learners: dict[str, Learner] = field(repr=False)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per epoch and task: epoch, task, train_loss, valid_loss, valid_score, seconds (of the epoch)."""
        return pd.DataFrame(self._rows)

    @property
    def best(self) -> dict[tuple[str, str], int]:
        """(rule, task) -> the epoch whose weights the rule keeps."""
        return {(watch.rule.name, name): watch.epoch for watch in self._watches for name in watch.group}

    @property
    def capped(self) -> dict[tuple[str, str], bool]:
        """(rule, task) -> whether the most epochs allowed had passed before the rule would have stopped.

        What the rule keeps may then say more about that cap than about the rule.
        """
        return {(watch.rule.name, name): not watch.done for watch in self._watches for name in watch.group}

    def use(self, rule: Stopping) -> None:
        """Put the trained tasks at the epoch this rule chose. A task that reads them sees the change.

        Raises:
            ValueError: fit was not given the rule, or a task is not what was trained any more: it was pruned, released,
                allocated, or loaded with other entries since. Nothing was changed.
        """
        watches = [watch for watch in self._watches if watch.rule.name == rule.name]
        if not watches:
            raise ValueError(
                f"fit kept nothing for the rule {rule.name!r}; it kept: {sorted({r for r, _ in self.best})}"
            )
        for name, learner in self._learners.items():
            held = set(map(id, learner.net.parameters()))
            if not all(id(values) in held for values in learner.values):
                raise ValueError(
                    f"task {name!r} was pruned, released, allocated or loaded since: no kept epoch fits it"
                )
        for watch in watches:
            for name, kept in watch.kept.items():
                self._learners[name].put_back(kept)

    def seconds(self, rule: Stopping, task: str) -> float:
        """Training time up to the epoch that the rule kept for the task."""
        rows = self.table[(self.table.task == task) & (self.table.epoch <= self.best[rule.name, task])]
        return float(rows.seconds.sum())


def fit(
    net: nn.Module,
    tasks: Task | Sequence[Task],
    epochs: int = 100,
    stopping: Stopping | Sequence[Stopping] = AUTHORS,
    learning_rate: float = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    batch_size: int | None = None,
    seed: int | None = None,
    precision: torch.dtype | None = None,
    learner: Callable[[nn.Module, Task, Schedule], Learner] = make,
) -> History:
    """Train tasks in parallel: epoch by epoch, each of them on its own data.

    Each task has its own optimizer over its own :func:`~msnlib.task_parameters`; the order of its batches and the
    random numbers of its layers (dropout) come from the seed and its name. So, given the batch size and the steps of
    an epoch (the group's), what a task learns does not depend, to the last bit, on what is trained beside it: the
    tasks' steps may be taken in any order (in one thread: modes and torch's random numbers are everybody's). After an
    error too, the best weights so far are put back, and every module is in the mode that it was in.

    Args:
        net: holds the tasks already (see :func:`~msnlib.allocate`).
        tasks: whose data to train on.
        epochs: at most; an epoch ends when the longest task's data does, shorter ones start over meanwhile. Beside
            batch normalisation, which cannot do with one example, a single one left over at the end of the data joins
            the batch before.
        stopping: when to stop and which epoch to keep. With several rules training goes on until all are done, the
            net is left as the first says, and :meth:`History.use` changes between them: one run, several answers.
        learning_rate: the authors' is 1e-3.
        optimizer: called as ``optimizer(parameters, lr=learning_rate)``; one whose step needs no closure.
        batch_size: None takes the tasks' own (in a group the largest, as published).
        seed: of batches and random layers; None takes the run's.
        precision: of forward and backward. None is that of the weights; ``torch.bfloat16`` is bfloat16 wherever
            ``torch.autocast`` finds it safe: about twice as fast on a CPU with AVX512-bf16 or AMX and on most GPUs.
            Weights, losses and optimizer stay in float32.
        learner: what trains each task; :class:`Learner` unless a store of epochs is in use (``msnlib.lab.stored``).

    Raises:
        ValueError: a task that the net does not hold or that does not fit it, one without training or validation
            examples, two rules of one name, an optimizer that wants a closure, or a size or rate out of range; nothing
            was trained.
        FrozenTaskError: a later task reads one of these.
        FloatingPointError: a loss is not finite any more.
    """
    group = group_of(tasks)
    how = dict(epochs=epochs, learning_rate=learning_rate, optimizer=optimizer, batch_size=batch_size)
    rules = _check_rules(stopping, **how, precision=precision)
    if not group or not rules:
        raise ValueError("fit needs at least one task and one stopping rule")
    for task in group:
        check_fits(net, task, "train", "valid")
    names = [task.name for task in group]
    size = batch_size or max(task.batch_size for task in group)
    steps = max(steps_of(net, task, size) for task in group)
    seed = torch.initial_seed() if seed is None else seed
    schedule = Schedule(epochs, steps, size, optimizer, learning_rate, seed, precision)
    learners = {task.name: learner(net, task, schedule) for task in group}
    groups = [(rule, each) for rule in rules for each in ([[name] for name in names] if rule.per_task else [names])]
    watches = [_Watch(rule, each, {name: learners[name].keep() for name in each}) for rule, each in groups]
    history = History([], watches, learners)
    modes = [(module, module.training) for module in net.modules()]
    bar = dict(desc=" + ".join(names), unit="epoch", leave=False, disable=not _watched())
    try:
        for epoch in tqdm(range(1, epochs + 1), **bar):
            going = [name for name in names if any(name in watch.group and not watch.done for watch in watches)]
            if not going:
                break
            rows = [learners[name].epoch(epoch) for name in going]
            history._rows += rows
            for watch in watches:
                watch.see(epoch, {row["task"]: row["valid_loss"] for row in rows}, learners)
    finally:
        history.use(rules[0])
        for each in learners.values():
            each.end()
        for module, mode in modes:
            module.training = mode
    return history


def _watched() -> bool:
    """Whether somebody sees a progress bar: at a terminal, or in a notebook that is open.

    A notebook run by papermill, nbconvert or nbval would keep it in its output; those, unlike a person, tell the
    kernel that nobody answers its questions.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    return sys.stderr.isatty() if kernel is None else bool(getattr(kernel, "_allow_stdin", False))


def _check_rules(stopping: Stopping | Sequence[Stopping] = AUTHORS, **fitting: Any) -> list[Stopping]:
    """The stopping rules, after them and the rest of what is given to :func:`fit` are checked."""
    check_schedule(**fitting)
    rules = [stopping] if isinstance(stopping, Stopping) or not isinstance(stopping, Sequence) else list(stopping)
    if wrong := [rule for rule in rules if not isinstance(rule, Stopping)]:
        given = stopping if isinstance(stopping, str) else wrong[0]
        raise ValueError(f"stopping {given!r} must be a Stopping, like msnlib.CONVERGED, or several of them")
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names):
        raise ValueError(f"two stopping rules have one name: {', '.join(names)}")
    return rules


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
    rule: str | Rule | Choose = "even_outputs",
    **fitting: Any,
) -> SequenceHistory:
    """Learn tasks one after another: each phase's tasks are allocated when their turn comes, then trained in parallel.

    Nothing about a later task is known to the network before its phase.

    Args:
        net: holds none of the tasks yet; stems and heads of a task it does not declare are added in its phase.
        tasks: the phases in order; a phase is one task or several that are trained in parallel.
        density, method, init, rule: as for :func:`~msnlib.allocate`; densities by name must fit every task's tensors.
        reads: likewise. With ``"all"`` each phase after the first must be one task: two would freeze each other.
        sample: training examples to score on; None takes all.
        seed: of allocation and batch order; None takes the run's.
        fitting: passed to :func:`fit`.

    Raises:
        CapacityError: a phase's task does not fit; earlier phases are trained.
        TypeError, ValueError: no argument of fit, or phases that cannot follow one another; nothing was allocated.
        ValueError, FrozenTaskError, FloatingPointError: as :func:`~msnlib.allocate` and :func:`fit`.
    """
    inspect.signature(fit).bind(net, tasks, **fitting)
    _check_rules(**fitting)
    phases = [[phase] if isinstance(phase, Task) else list(phase) for phase in tasks]
    check_how(reads, init, as_rule(rule))
    _check_phases(net, phases, reads, density)
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


def _check_phases(net: nn.Module, phases: list[list[Task]], reads: str, density: Density) -> None:
    """Refuse before the first phase what a later one would stumble over."""
    if not (phases and all(phases)):
        raise ValueError("each phase of a sequence needs at least one task")
    for place, task in enumerate(group := sum(phases, [])):
        if task.name in held_by(net) + [earlier.name for earlier in group[:place]]:
            raise ValueError(f"task {task.name!r} is in the network, or earlier in the sequence, already")
        if empty := [part for part in SPLITS if not len(task.split(part)[0])]:
            raise ValueError(f"task {task.name!r} has no {' and no '.join(empty)} examples")
    if reads == "all" and (several := [phase for phase in phases[1:] if len(phase) > 1]):
        together = " and ".join(task.name for task in several[0])
        raise ValueError(f"reads='all': {together} would freeze each other; give each its own phase")
    trial = copy.deepcopy(net)
    for task in group:
        check_name(task.name)
        if task.name not in getattr(trial, "declared", {task.name}):
            trial.add_task(task.name, task.inputs, task.outputs, task.vocabulary)
        check_sizes(trial, task)
        budget(density, {name: tensor.shape for name, tensor in shared_tensors(trial, task.name).items()})
