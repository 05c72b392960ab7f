"""Switches: modules that hold something for each task and give that of the task whose turn it is."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from msnlib.turns import task_of


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
        self.__dict__.setdefault("fresh", {})[task] = [tensor.detach().clone() for tensor in self.unshared(task)]

    def unshared(self, task: str) -> list[Tensor]:
        """What the task's module holds outside shared tensors."""
        modules = list(self[task].modules())
        shared = {part for module in modules if getattr(module, "shares", False) for part in module.modules()}
        rest = [m for m in modules if m not in shared]
        return [t for m in rest for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]

    @torch.no_grad()
    def reset(self, task: str) -> None:
        """Leave the task's module as it was remembered."""
        for tensor, before in zip(self.unshared(task), self.fresh[task], strict=True):
            tensor.copy_(before)
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
