"""Fingerprints: what decides a training to the last bit, and nothing that does not.

The key of a stored training is its content: the network as the task sees it, its data, its optimizer and random
numbers, and the machine's arithmetic. So neither the notebook nor the arm it is part of matters: the first task pruned
alone has the fingerprint of its training beside others. No cap on epochs is part of it, nor any stopping rule.

joblib, datasets and others hash what an object pickles to. Here that would hold the other tasks, allocation numbers and
hooks, so that no two arms were equal; and where a pickle of code is cut short, unequal ones would be. So values are
hashed by name, classes that are neither torch's nor msnlib's by their code (`msnlib.lab.content`), and what neither
tells (a hook, an object) is refused: such a training is made anew each time.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from msnlib.lab.content import Unknown, class_name, tensor, value
from msnlib.lab.precision import fast_bfloat16
from msnlib.lab.records import NUMERICS, digest
from msnlib.layers import SharedTensor
from msnlib.learner import Learner
from msnlib.switches import ByTask
from msnlib.task import Task

KNOWN = ("torch.nn.", "torchvision.", "msnlib.")  # whose versions are part of it, so that their code need not be
NOT_COMPUTED_WITH = {"training", "config", "declared"}  # of a module; all tasks' sizes are in the last two
OF_ANY_MODULE = frozenset(vars(nn.Module()))
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def facts(learner: Learner) -> dict[str, Any]:
    """What decides the training of a learner that has just begun.

    Returns:
        JSON values; of what is large the sha256.

    Raises:
        Unknown: something takes part whose values do not tell what it does.
    """
    task, schedule = learner.task, learner.schedule
    if type(task) is not Task:
        raise Unknown(f"task {task.name!r} is a {type(task).__name__}")
    order = learner.order.get_state()
    return {
        "task": task.name,
        "numerics": NUMERICS,
        "network": network(learner),
        "data": digest([task.kind, task.outputs, [tensor(t) for pair in (task.train, task.valid) for t in pair]]),
        "optimizer": _optimizer(learner.optimizer),
        "batch_size": schedule.batch_size,
        "steps": schedule.steps,
        "random": digest([tensor(order), {name: tensor(state) for name, state in learner.random.items()}]),
        **_arithmetic(learner.values[0].device, schedule.precision),
    }


def network(learner: Learner, tensors: bool = True) -> str:
    """The sha256 of the network as the task sees it, or of what no file of the store holds: all but its tensors."""
    return digest(_module(learner.net, learner.task.name, {}, tensors))


def _arithmetic(device: torch.device, precision: torch.dtype | None) -> dict[str, Any]:
    """What sums and products depend on, beside their operands."""
    found = {
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "default_dtype": str(torch.get_default_dtype()),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "mkl": torch.backends.mkl.is_available(),  # whether products can leave out zeros
        "mkldnn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
    }
    if precision is not None:
        found["autocast"] = [str(precision), fast_bfloat16(device)]
    elif torch.is_autocast_enabled(device.type):
        found["autocast"] = str(torch.get_autocast_dtype(device.type))
    if device.type == "cuda":
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        found |= {"benchmark": torch.backends.cudnn.benchmark, "tf32": torch.backends.cudnn.allow_tf32}
    return found


def _optimizer(optimizer: torch.optim.Optimizer) -> list[Any]:
    kind = class_name(optimizer)
    if not kind.startswith("torch.optim."):
        raise Unknown(f"the optimizer is a {kind}")
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise Unknown("the optimizer has a hook")
    return [kind, value(optimizer.state_dict()["param_groups"], "the optimizer")]


def _module(module: nn.Module, task: str, seen: dict[int, int], tensors: bool) -> list[Any]:
    """A module as the task sees it: class, settings, tensors and parts; what was met before by its number."""
    if id(module) in seen:
        return ["again", seen[id(module)]]
    seen[id(module)] = len(seen)
    if isinstance(module, SharedTensor):
        return _shared(module, task) if tensors else []
    kind = class_name(module)
    if hooked := [name for name in HOOKS if getattr(module, name)]:
        raise Unknown(f"{kind} has a hook ({hooked[0].strip('_')})")
    parts = module._modules
    if isinstance(module, ByTask):
        parts = {name: part for name, part in parts.items() if name == task}
    settings = {name: value(given, f"{name} of {kind}") for name, given in _settings(module, kind).items()}
    held = [*module._parameters.items(), *module._buffers.items()] if tensors else []
    told = {name: _held(given, seen) for name, given in held}
    below = [[name, None if part is None else _module(part, task, seen, tensors)] for name, part in parts.items()]
    code = [] if kind.startswith(KNOWN) else [value(type(module), kind)]
    return [kind, settings, told, below, *code]


def _settings(module: nn.Module, kind: str) -> dict[str, Any]:
    """What a module holds beside tensors and parts; what of it a class of the user's computes with, nobody knows."""
    if not kind.startswith(KNOWN):
        return {name: given for name, given in vars(module).items() if name not in OF_ANY_MODULE}
    if isinstance(module, ByTask):
        return {}
    return {name: v for name, v in vars(module).items() if name[0] != "_" and name not in NOT_COMPUTED_WITH}


def _shared(shared: SharedTensor, task: str) -> list[Any]:
    """The task's entries of a tensor, and those that it reads, frozen."""
    if task not in shared:
        return ["nothing", list(shared.shape)]
    own = shared[task]
    below = shared.sparse_below
    few = below if below is None else len(own.values) < below * shared.numel()
    read = [[tensor(shared[name].positions), tensor(shared[name].values)] for name in shared.read_by(task)]
    held = [tensor(own.positions), tensor(own.values), own.values.requires_grad]
    return ["entries", list(shared.shape), own.units, few, held, read]


def _held(given: Tensor | None, seen: dict[int, int]) -> Any:
    if given is None:
        return None
    if id(given) in seen:  # tied
        return seen[id(given)]
    seen[id(given)] = len(seen)
    if given._backward_hooks or getattr(given, "_post_accumulate_grad_hooks", None):
        raise Unknown("a parameter has a hook")
    return [tensor(given), given.requires_grad]
