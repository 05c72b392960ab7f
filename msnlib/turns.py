"""Turns: which task a network's switches stand at, in the thread or coroutine that asks."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar

import torch
from torch import nn

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
