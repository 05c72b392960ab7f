"""Subnetworks for any PyTorch model: its own modules stay, their tensors are shared out among tasks.

A converted module keeps its class's ``forward`` and its place in the network. Only what it computes with is another:
its parameters and buffers become properties that give the active task's tensors. (A Linear's ``forward`` is that of
:class:`~msnlib.MaskedLinear`, which can leave out the zeros.)
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from msnlib.isolation import load_whole
from msnlib.layers import SharedTensor, linear
from msnlib.subnetworks import check_name
from msnlib.switches import ByTask, TaskCopies

WRAPPERS = (torch.jit.ScriptModule, nn.DataParallel, nn.parallel.DistributedDataParallel)
MASKED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)


def convert(net: nn.Module, task: str | None = None, outputs: Iterable[str] = ()) -> nn.Module:
    """Make any module hold tasks, in place; :func:`~msnlib.allocate`, :func:`~msnlib.fit` and the rest work on it then.

    - Weights and biases of Linear, Conv1d to Conv3d and MultiheadAttention (its projections) are shared out entry by
      entry, as in :class:`~msnlib.MaskedLinear`.
    - What any other module holds itself (BatchNorm, LayerNorm, GroupNorm with their statistics, embeddings, a class
      token, a weight or bias with a single entry) every task gets a copy of, made from the present values when the task
      is allocated.
    - What is frozen (``requires_grad=False``) stays so for ``task`` and in copies; what later tasks are given of a
      shared-out tensor is drawn anew and trained.

    A module's ``weight`` is then put together when it is read, and cannot be written in place: see
    :func:`~msnlib.set_values`. (Where a task owns all of it, it can.)

    Args:
        net: any module; nested and repeated modules are fine.
        task: a task that owns every entry with the module's values, so that its outputs stay what they were; cut it
            with :func:`~msnlib.prune` to make room. Without one the values of the shared-out tensors are dropped, as
            ``allocate`` draws its own.
        outputs: names of the modules whose units are the network's outputs (``["fc"]``): see
            :class:`~msnlib.layers.SharedTensor`.

    Returns:
        ``net``. It can be deep-copied and its ``state_dict`` saved, but not pickled; see :func:`~msnlib.save`.

    Raises:
        ValueError: something that cannot be isolated, by its name: recurrent, lazy or parametrized modules; pruning,
            weight and spectral normalisation of ``torch.nn.utils``; compiled, scripted or parallel ones; a tensor that
            two modules share, modules that hold tasks already, or have attributes of names that are needed here; an
            output that is no masked module. Nothing has changed then.

    Example:
        >>> net = convert(torchvision.models.resnet18(num_classes=10), outputs=["fc"])
        >>> allocate(net, "a", density=0.1, method="random")
        >>> with using(net, "a"):
        ...     net(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """
    if task is not None:
        check_name(task)
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        raise ValueError(f'outputs {outputs!r} must be names of modules, like ["fc"]')
    outputs = set(outputs)
    _check(net, outputs)
    for name, module in list(net.named_modules()):
        shared, own = _parts(module)
        if not own and not shared:
            continue
        for n in (*shared, *own):
            (module._parameters if n in module._parameters else module._buffers).pop(n)
        if own:
            module.copies = TaskCopies(_template(module, own))
            if task is not None:
                module.copies.begin(task)
        if shared:
            module.shared = nn.ModuleDict({n: _share(p, task, name in outputs) for n, p in shared.items()})
        module.__class__ = _reading(type(module), tuple(shared), tuple(own))
    load_whole(net)
    return net


def _parts(module: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, torch.Tensor]]:
    """What of a module is shared out, and of what every task gets a copy: one entry cannot be shared out."""
    parameters = {n: p for n, p in module._parameters.items() if p is not None}
    buffers = {n: b for n, b in module._buffers.items() if b is not None}
    shared = {n: p for n, p in parameters.items() if isinstance(module, MASKED) and p.numel() > 1}
    return shared, {n: t for n, t in (parameters | buffers).items() if n not in shared}


def _template(module: nn.Module, own: dict[str, torch.Tensor]) -> nn.Module:
    template = nn.Module()
    for n, tensor in own.items():
        if isinstance(tensor, nn.Parameter):
            template.register_parameter(n, tensor)
        else:
            template.register_buffer(n, tensor, n not in module._non_persistent_buffers_set)
    return template


def plain(module: nn.Module, task: str) -> nn.Module:
    """A converted module in its original class, with one task's tensors; its children are the same objects."""
    twin = copy.copy(module)
    twin.__class__ = type(module).plain_class
    for name in ("_parameters", "_buffers", "_modules"):
        twin.__dict__[name] = dict(module.__dict__[name])
    for name, tensor in twin._modules.pop("shared", {}).items():
        twin._parameters[name] = nn.Parameter(tensor.tensor(task).detach().clone())
    if copies := twin._modules.pop("copies", None):
        own = copy.deepcopy(copies[task])
        twin._parameters |= own._parameters
        twin._buffers |= own._buffers
    return twin


def is_converted(module: nn.Module) -> bool:
    """Whether :func:`convert` changed what this module itself holds."""
    return hasattr(type(module), "plain_class")


def _share(parameter: nn.Parameter, task: str | None, is_output: bool) -> SharedTensor:
    tensor = SharedTensor(parameter.shape, parameter.device, parameter.dtype)
    tensor.is_output = is_output
    if task is not None:
        positions = torch.arange(parameter.numel(), device=parameter.device)
        tensor.own(task, positions, parameter.detach().flatten().clone(), order=1)
        tensor[task].values.requires_grad_(parameter.requires_grad)
    return tensor


@cache
def _reading(kind: type[nn.Module], shared: tuple[str, ...], own: tuple[str, ...]) -> type[nn.Module]:
    """A subclass of the module's class whose tensors of these names are the active task's."""

    def of_shared(name: str) -> property:
        def get(self):
            shared = self.shared[name]
            tensor, task = shared(), shared.turn()
            if torch.compiler.is_compiling() or sys._getframe(1).f_code.co_name == "forward" or shared.is_whole(task):
                return tensor
            return tensor.as_subclass(ReadOnly)

        return property(get)

    def of_copies(name: str) -> property:
        def put(self, value):  # modules may assign their buffers in forward
            setattr(self.copies.current(), name, value)

        return property(lambda self: getattr(self.copies.current(), name), put)

    properties = {n: of_shared(n) for n in shared} | {n: of_copies(n) for n in own}
    # The state lies in submodules, so a normalisation's own loading of its buffers must not run.
    # Nor may its repr look at them: no task need be active, and what they hold is printed below.
    methods = {"_load_from_state_dict": nn.Module._load_from_state_dict, "extra_repr": nn.Module.extra_repr}
    if kind.forward is nn.Linear.forward and "weight" in shared:
        methods["forward"] = _linear
    return type(kind.__name__, (kind,), properties | methods | {"__module__": kind.__module__, "plain_class": kind})


class ReadOnly(torch.Tensor):
    """A weight put together for whoever reads it outside ``forward``: writing to it would be lost, so it is refused."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        in_place = _IN_PLACE.fullmatch(name) and next(iter((*args, *kwargs.values())), None)
        targets = kwargs.get("out", in_place)
        if any(isinstance(one, ReadOnly) for one in (targets if isinstance(targets, tuple | list) else [targets])):
            raise RuntimeError(
                f"{name}: this weight is put together from a task's entries, writing to it would be lost; "
                "set a task's values with msnlib.set_values(net, task, {name: tensor})"
            )
        result = super().__torch_function__(function, types, args, kwargs)
        if isinstance(result, np.ndarray):
            result.flags.writeable = False
        if type(result) is ReadOnly and not _alias(result, args):
            return result.as_subclass(torch.Tensor)
        return result


_IN_PLACE = re.compile("[a-z_].*[a-z0-9]_|__set(item)?__|__i(add|sub|mul|matmul|truediv|floordiv|mod|pow|and|or|xor)__")


def _alias(result: ReadOnly, args: tuple) -> bool:
    """Whether a result lies in the memory of a read-only argument."""
    memory = result.untyped_storage().data_ptr()
    return any(isinstance(a, ReadOnly) and a.untyped_storage().data_ptr() == memory for a in args)


def _linear(self: nn.Linear, input: torch.Tensor) -> torch.Tensor:
    offset = self.shared["bias"]() if "bias" in self.shared else self.bias
    return linear(input, self.shared["weight"], offset)


def _check(net: nn.Module, outputs: set[str]) -> None:
    """Raise ValueError naming what cannot be isolated."""
    modules = dict(net.named_modules())
    for name in outputs:
        if not isinstance(modules.get(name), MASKED):
            known = ", ".join(n for n, m in modules.items() if isinstance(m, MASKED)) or "none"
            raise ValueError(f"output {name!r} is none of the modules with weights to share out: {known}")
    if not any(isinstance(module, MASKED) for module in modules.values()):
        raise ValueError(f"{type(net).__name__} has no weights to share out: no linear or convolutional module")
    holders: dict[int, str] = {}
    for name, module in modules.items():
        where = f"{name or 'the network itself'} ({type(module).__name__})"
        if reason := _refusal(module):
            raise ValueError(f"{where} {reason}")
        for label, tensor in (*module._parameters.items(), *module._buffers.items()):
            path = f"{name}.{label}" if name else label
            if tensor is not None and holders.setdefault(id(tensor), path) != path:
                raise ValueError(f"{path} is the same tensor as {holders[id(tensor)]}: untie them first")


def _refusal(module: nn.Module) -> str | None:
    """Why a module cannot be isolated, if so."""
    if isinstance(module, ByTask) or is_converted(module):
        return "holds tasks already"
    if isinstance(module, nn.RNNBase):
        return "cannot be isolated: recurrent modules keep a second, flat copy of their weights"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "has no shape yet: run the network on a batch first"
    if isinstance(module, torch.fx.GraphModule) and (module._parameters or module._buffers):
        return "is a traced graph with tensors of its own: convert the module first, then trace it"
    if parametrize.is_parametrized(module):
        return "is parametrized: remove its parametrizations first"
    if isinstance(module, WRAPPERS) or "_orig_mod" in module._modules:  # the latter is torch.compile's
        return "wraps the network: convert what it wraps first, then wrap it"
    for hook in module._forward_pre_hooks.values():
        if type(hook).__module__.startswith("torch.nn.utils."):
            return f"computes its tensors anew in every call ({type(hook).__name__}): remove torch.nn.utils' hook first"
    shared, own = _parts(module)
    needed = {"shared": shared, "copies": own, "plain_class": shared or own}
    if taken := [name for name, use in needed.items() if use and hasattr(module, name)]:
        return f"has an attribute {taken[0]!r} of its own, a name that is needed here: rename it"
    if taken := [name for name in shared if hasattr(nn.ModuleDict, name)]:
        return f"has a parameter {taken[0]!r}, a name that cannot be used here: rename it"
    if isinstance(module, MASKED):
        plain = [n for n, value in vars(module).items() if isinstance(value, torch.Tensor)]
        if plain:
            return f"computes with {plain[0]!r}, which is no parameter"
    return None
