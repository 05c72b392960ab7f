"""Loading: a state dict that is refused has changed nothing, and none leaves a task in parts."""

from __future__ import annotations

import copy
import sys
from typing import Any

from torch import nn

from msnlib.subnetworks import shared_tensors, tasks


def load_whole(net: nn.Module) -> None:
    """Let ``net.load_state_dict`` refuse before anything has changed, and refuse what would leave a task in parts.

    Builders, ``convert``, ``allocate`` and ``load`` do this to the network that they are given. A hand-made one that
    has met none of them, and a module of which it is a part, fill what fits before they refuse, as torch does.
    """
    if not any(getattr(hook, "hook", None) is _try for hook in net._load_state_dict_pre_hooks.values()):
        net.register_load_state_dict_pre_hook(_try)


def load_freely(net: nn.Module) -> nn.Module:
    """The network without what :func:`load_whole` did."""
    for key, hook in list(net._load_state_dict_pre_hooks.items()):
        if getattr(hook, "hook", None) is _try:
            del net._load_state_dict_pre_hooks[key]
    return net


def _try(net: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    if prefix:  # part of a larger module, which does not say what else it loads
        return
    trial = copy.deepcopy(net)
    load_freely(trial)
    strict = _strict()
    trial.load_state_dict(state_dict, strict)
    before, after = _in_parts(net), _in_parts(trial)
    whole = set(tasks(net)) if strict else set(tasks(trial))  # a strict state may hold what a task does not reach
    for task in whole & (after.keys() - before.keys()):
        raise RuntimeError(f"task {task!r} would have no entries in {after[task]}: load all of a task, or nothing")


def _strict() -> bool:
    """Whether the load that is under way is strict: torch tells its hooks that all are."""
    frame = sys._getframe()
    while frame.f_code is not nn.Module.load_state_dict.__code__:
        frame = frame.f_back
    return frame.f_locals["strict"]


def _in_parts(net: nn.Module) -> dict[str, str]:
    """Tasks that have entries in some of the tensors that they reach, and the name of one where they have none."""
    found = {}
    for task in tasks(net):
        lacking = [name for name, tensor in shared_tensors(net, task).items() if task not in tensor]
        found |= {task: lacking[0]} if lacking else {}
    return found
