"""Fingerprints: what decides a training to the last bit, and nothing that does not.

The key of a stored training is its content: the network as the task sees it, its data, its optimizer and random
numbers, and the machine's arithmetic. So neither the notebook nor the arm it is part of matters: the first task pruned
alone has the fingerprint of its training beside others. No cap on epochs is part of it, nor any stopping rule.

joblib, datasets and others hash what an object pickles to. Here that would hold the other tasks, allocation numbers and
hooks, so that no two arms were equal; and where a pickle of code is cut short, unequal ones would be. So values are
hashed by name, and what cannot be told by values (code of a class that is neither torch's nor msnlib's, a hook) is
refused: such a training is made anew each time.
"""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from msnlib.lab.precision import fast_bfloat16
from msnlib.lab.records import NUMERICS, digest
from msnlib.layers import SharedTensor
from msnlib.learner import Learner
from msnlib.switches import ByTask
from msnlib.task import Task

KNOWN = ("torch.nn.", "torchvision.", "msnlib.")  # whose versions are part of it, so that their code need not be
NOT_COMPUTED_WITH = {"training", "config", "declared"}  # of a module; all tasks' sizes are in the last two
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Unknown(ValueError):
    """Something takes part that no value tells, named in one line."""


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
        "network": digest(_module(learner.net, task.name, {})),
        "data": digest([task.kind, task.outputs, [_tensor(t) for pair in (task.train, task.valid) for t in pair]]),
        "optimizer": _optimizer(learner.optimizer),
        "batch_size": schedule.batch_size,
        "steps": schedule.steps,
        "random": digest([_tensor(order), {name: _tensor(state) for name, state in learner.random.items()}]),
        **_arithmetic(learner.values[0].device, schedule.precision),
    }


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
        found["benchmark"] = torch.backends.cudnn.benchmark
    return found


def _optimizer(optimizer: torch.optim.Optimizer) -> list[Any]:
    kind = _class(optimizer)
    if not kind.startswith("torch.optim."):
        raise Unknown(f"the optimizer is a {kind}")
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise Unknown("the optimizer has a hook")
    return [kind, _plain(optimizer.state_dict()["param_groups"], "the optimizer")]


def _module(module: nn.Module, task: str, seen: dict[int, int]) -> list[Any]:
    """A module as the task sees it: class, settings, tensors and parts; what was met before by its number."""
    if id(module) in seen:
        return ["again", seen[id(module)]]
    seen[id(module)] = len(seen)
    if isinstance(module, SharedTensor):
        return _shared(module, task)
    kind = _class(module)
    if not kind.startswith(KNOWN):
        raise Unknown(f"{kind} is neither torch's nor msnlib's, so that its code may change unseen")
    if hooked := [name for name in HOOKS if getattr(module, name)]:
        raise Unknown(f"{kind} has a hook ({hooked[0].strip('_')})")
    parts = module._modules
    if isinstance(module, ByTask):
        settings, parts = {}, {name: part for name, part in parts.items() if name == task}
    else:
        own = {name: value for name, value in vars(module).items() if name[0] != "_" and name not in NOT_COMPUTED_WITH}
        settings = {name: _plain(value, f"{name} of {kind}") for name, value in own.items()}
    tensors = {name: _held(t, seen) for each in (module._parameters, module._buffers) for name, t in each.items()}
    below = [[name, None if part is None else _module(part, task, seen)] for name, part in parts.items()]
    return [kind, settings, tensors, below]


def _shared(tensor: SharedTensor, task: str) -> list[Any]:
    """The task's entries of a tensor, and those that it reads, frozen."""
    if task not in tensor:
        return ["nothing", list(tensor.shape)]
    own = tensor[task]
    below = tensor.sparse_below
    few = below if below is None else len(own.values) < below * tensor.numel()
    read = [[_tensor(tensor[name].positions), _tensor(tensor[name].values)] for name in tensor.read_by(task)]
    held = [_tensor(own.positions), _tensor(own.values), own.values.requires_grad]
    return ["entries", list(tensor.shape), own.units, few, held, read]


def _held(tensor: Tensor | None, seen: dict[int, int]) -> Any:
    if tensor is None:
        return None
    if id(tensor) in seen:  # tied
        return seen[id(tensor)]
    seen[id(tensor)] = len(seen)
    if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
        raise Unknown("a parameter has a hook")
    return [_tensor(tensor), tensor.requires_grad]


def _class(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _plain(value: Any, what: str) -> Any:
    """A setting as JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value if not isinstance(value, float) else repr(value)
    if isinstance(value, tuple | list):
        return [_plain(item, what) for item in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _plain(item, what) for name, item in value.items()}
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Tensor):
        return _tensor(value)
    named = isinstance(value, FunctionType | BuiltinFunctionType | type)
    if named and str(value.__module__).startswith("torch") and "<" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__}"
    raise Unknown(f"{what} is a {type(value).__name__}")


def _tensor(tensor: Tensor) -> str:
    """The sha256 of a tensor: type, shape, layout and every bit."""
    if tensor.layout != torch.strided:
        raise Unknown(f"a tensor is {str(tensor.layout).removeprefix('torch.')}")
    tensor = tensor.detach()
    found = hashlib.sha256(repr((str(tensor.dtype), tuple(tensor.shape), tensor.stride())).encode())
    found.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
