"""Turns: which task a network's switches stand at, in the thread or coroutine that asks."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextvars import ContextVar

import torch
from torch import nn

_latest: ContextVar[Turn | None] = ContextVar("latest turn", default=None)
_open: list[Turn] = []  # of all threads, for those that autograd itself starts


class Turn:
    """A block in which these switches stand at a task, for the thread or coroutine that entered it and for no other.

    Nothing is written on the modules, so a copy made inside the block is at no task, and nothing can be left switched
    on. A generator shares the turns of whoever runs it.
    """

    __slots__ = ("backward", "held", "open", "outer", "since", "task", "thread")

    def __init__(self, switches: Iterable[nn.Module], task: str):
        self.held, self.task, self.open = frozenset(switches), task, False

    def __enter__(self) -> Turn:
        self.outer, self.thread, self.open = _latest.get(), threading.get_ident(), True
        # What autograd numbers from here on is computed in this turn.
        self.since, self.backward = torch._C._autograd._get_sequence_nr(), torch._C._current_graph_task_id() != -1
        _latest.set(self)
        _open.append(self)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.open = False
        _open.remove(self)
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
    turn = _latest.get()
    while turn is not None and not (turn.open and switch in turn.held):
        turn = turn.outer
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        turn = _in_backward(turn, switch)
    return None if turn is None else turn.task


def _in_backward(turn: Turn | None, switch: nn.Module) -> Turn | None:
    if turn is None and isinstance(threading.current_thread(), threading._DummyThread):
        # Autograd has threads of its own for a GPU: the turn is that of the only thread that has one.
        of_others = [other for other in _open if switch in other.held]
        turn = of_others[-1] if len({other.thread for other in of_others}) == 1 else None
    node = torch._C._current_autograd_node()
    if turn is None or not (turn.backward or node is None or node._sequence_nr() >= turn.since):
        raise RuntimeError(
            "a part of the network is computed again in backward (torch.utils.checkpoint), but not in the block in "
            "which it was computed first: call backward inside the same `with using(...)`"
        )
    return turn
