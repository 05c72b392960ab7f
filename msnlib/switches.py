"""Switches: modules that hold something for each task and give that of the task whose turn it is.

Whose turn it is, is a matter of the thread or coroutine that asks (:class:`Turn`); nothing is written on modules.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_latest: ContextVar[Turn | None] = ContextVar("latest turn", default=None)


class Turn:
    """A block in which these switches stand at a task, for the thread or coroutine that entered it and for no other.

    Nothing is written on the modules, so a copy made inside the block is at no task, and nothing can be left switched
    on. A generator shares the turns of whoever runs it.
    """

    __slots__ = ("backward", "held", "open", "outer", "since", "task")

    def __init__(self, switches: Iterable[nn.Module], task: str):
        self.held, self.task, self.open = frozenset(switches), task, False

    def __enter__(self) -> Turn:
        self.outer, self.open = _latest.get(), True
        # What autograd numbers from here on is computed in this turn.
        self.since, self.backward = torch._C._autograd._get_sequence_nr(), torch._C._current_graph_task_id() != -1
        _latest.set(self)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.open = False
        inner = _latest.get()
        left = inner
        while left is not None and not left.open:
            left = left.outer
        _latest.set(left)
        if left is not None and left is self.outer and torch._C._autograd._get_sequence_nr() != self.since:
            left.since = torch._C._autograd._get_sequence_nr()
        if error is None and left is inner and left is not None and left.entered_inside(self):
            raise RuntimeError(
                f"the block of task {self.task!r} ended inside that of {left.task!r}, as two generators that take "
                "turns do: outputs in between may be of either task; call net(x, task=...) there"
            )

    def entered_inside(self, other: Turn) -> bool:
        turn = self.outer
        while turn is not None and turn is not other:
            turn = turn.outer
        return turn is other


def task_of(switch: nn.Module) -> str | None:
    """The task that a switch stands at for whoever asks, None outside every turn.

    Raises:
        RuntimeError: it is computed again in backward, as ``torch.utils.checkpoint`` does, in another turn than before.
    """
    turn = _find(_latest.get(), switch)
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        turn = _in_backward(turn, switch)
    return None if turn is None else turn.task


def _find(turn: Turn | None, switch: nn.Module) -> Turn | None:
    while turn is not None and not (turn.open and switch in turn.held):
        turn = turn.outer
    return turn


def _in_backward(turn: Turn | None, switch: nn.Module) -> Turn | None:
    if turn is None and torch._C._is_key_in_tls("context"):
        # Autograd has threads of its own for a GPU; torch leaves the context of whoever called backward there.
        turn = _find(torch._C._get_obj_in_tls("context").get(_latest), switch)
    node = torch._C._current_autograd_node()
    if turn is None or not (turn.backward or node is None or node._sequence_nr() >= turn.since):
        raise RuntimeError(
            "a part of the network is computed again in backward (torch.utils.checkpoint), but not in the block in "
            "which it was computed first: call backward inside the same `with using(...)`"
        )
    return turn


class _Active:
    """Reads whose turn it is; no data descriptor, so that a replica's own attribute comes first."""

    def __get__(self, switch: ByTask | None, _: type | None = None) -> str | None:
        return None if switch is None else task_of(switch)


class ByTask(nn.ModuleDict):
    """Modules keyed by task, one of which is active inside :func:`using`."""

    active: str | None = _Active()
    shares = False  # whether tasks have entries of one tensor here, not modules of their own

    def turn(self) -> str:
        """The active task.

        Raises:
            RuntimeError: no task is active, or the active one has nothing here.
        """
        task = self.active
        if task in self._modules:
            return task
        known = ", ".join(self) or "none"
        if task is None:
            raise RuntimeError(
                f"no task is active: call net(x, task=...) or use `with using(net, ...)` (tasks: {known})"
            )
        raise RuntimeError(f"task {task!r} has no entries here (tasks: {known})")

    def current(self) -> nn.Module:
        """The active task's module; errors as for :meth:`turn`."""
        return self._modules[self.turn()]

    def _replicate_for_data_parallel(self) -> ByTask:
        replica = super()._replicate_for_data_parallel()
        replica.__dict__["active"] = self.active  # it runs in another thread, for this turn only
        return replica


class PerTask(ByTask):
    """A module for each task, say its input stem or its head; runs the active task's one.

    What a module holds when its task is allocated (or it comes in, if it is loaded later) is what
    :func:`~msnlib.release` puts back, so that the task can start as new.

    Shape: whatever the task's module takes and gives.
    """

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.current()(*inputs)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        super().add_module(name, module)
        self.remember(name)

    def begin(self, task: str) -> None:
        """A task is about to be allocated: what its module holds now is what it starts from."""
        if task in self:
            self.remember(task)

    def remember(self, task: str) -> None:
        """Take what the task's module holds now for what :meth:`reset` puts back."""
        self.__dict__.setdefault("fresh", {})[task] = [
            (tensor.detach().clone(), tensor.requires_grad) for tensor in self.unshared(task)
        ]

    def unshared(self, task: str) -> list[Tensor]:
        """What the task's module holds outside shared tensors."""
        modules = list(self[task].modules())
        shared = {part for module in modules if getattr(module, "shares", False) for part in module.modules()}
        rest = [m for m in modules if m not in shared]
        return [t for m in rest for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]

    @torch.no_grad()
    def reset(self, task: str) -> None:
        """Leave the task's module as it was remembered."""
        for tensor, (before, trained) in zip(self.unshared(task), self.fresh[task], strict=True):
            tensor.copy_(before)
            tensor.requires_grad_(trained)
            tensor.grad = None


class TaskCopies(PerTask):
    """Parameters and buffers of which every task has its own copy, made from a template on allocation.

    Attributes:
        template: what a new task starts from; no part of the network's parameters or of its state.
    """

    def __init__(self, template: nn.Module):
        super().__init__()
        self.__dict__["template"] = template  # past nn.Module, which would register it

    def begin(self, task: str) -> None:
        """Give the task a copy."""
        self[task] = copy.deepcopy(self.template)

    def remember(self, task: str) -> None:
        """Nothing: a new task starts from the template."""

    def reset(self, task: str) -> None:
        """Take the task's copy away."""
        del self[task]

    def get_extra_state(self) -> Tensor:
        return torch.tensor(list(",".join(self).encode()), dtype=torch.uint8)  # whose copies a state dict must hold

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing: the tasks are made before their copies are filled."""

    def _apply(self, fn, recurse=True):
        self.template._apply(fn)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        if (names := state_dict.get(f"{prefix}_extra_state")) is not None:
            stored = bytes(names.tolist()).decode().split(",") if len(names) else []
            for task in set(self) - set(stored):
                del self[task]
            for task in stored:
                if task not in self:
                    self.begin(task)
        super()._load_from_state_dict(state_dict, prefix, *args)
