"""Subnetworks for any PyTorch model: its own modules stay, their tensors are shared out among tasks.

A converted module keeps its class's ``forward`` and its place in the network. Only what it computes with is another:
its parameters and buffers become properties that give the active task's tensors. (A Linear's ``forward`` is that of
:class:`~msnlib.MaskedLinear`, which can leave out the zeros.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cache

import torch
from torch import nn
from torch.nn.utils import parametrize

from msnlib.layers import ByTask, SharedTensor, TaskCopies, linear
from msnlib.subnetworks import check_name

MASKED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)


def convert(net: nn.Module, task: str | None = None, outputs: Iterable[str] = ()) -> nn.Module:
    """Make any module hold tasks, in place; :func:`~msnlib.allocate`, :func:`~msnlib.fit` and the rest work on it then.

    - Weights and biases of Linear, Conv1d to Conv3d and MultiheadAttention (its projections) are shared out entry by
      entry, as in :class:`~msnlib.MaskedLinear`.
    - What any other module holds itself (BatchNorm, LayerNorm, GroupNorm with their statistics, embeddings, a class
      token) every task gets a copy of, made from the present values when the task is allocated.

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
        ValueError: something that cannot be isolated, by its name: recurrent, lazy or parametrized modules, a tensor
            that two modules share, modules that hold tasks already; an output that is no masked module. Nothing has
            changed then.

    Example:
        >>> net = convert(torchvision.models.resnet18(num_classes=10), outputs=["fc"])
        >>> allocate(net, "a", density=0.1, method="random")
        >>> with using(net, "a"):
        ...     net(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """
    if task is not None:
        check_name(task)
    outputs = set(outputs)
    _check(net, outputs)
    for name, module in list(net.named_modules()):
        parameters = {n: p for n, p in module._parameters.items() if p is not None}
        own = {n: b for n, b in module._buffers.items() if b is not None}
        shared = parameters if isinstance(module, MASKED) else {}
        if not shared:
            own = parameters | own
        if not own and not shared:
            continue
        if own:
            template = nn.Module()
            for n, tensor in own.items():
                if isinstance(tensor, nn.Parameter):
                    template.register_parameter(n, tensor)
                else:
                    template.register_buffer(n, tensor, n not in module._non_persistent_buffers_set)
        for n in (*shared, *own):
            (module._parameters if n in parameters else module._buffers).pop(n)
        if own:
            module.copies = TaskCopies(template)
            if task is not None:
                module.copies.declare(task)
        if shared:
            module.shared = nn.ModuleDict({n: _share(p, task, name in outputs) for n, p in shared.items()})
        module.__class__ = _reading(type(module), tuple(shared), tuple(own))
    return net


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
    return tensor


@cache
def _reading(kind: type[nn.Module], shared: tuple[str, ...], own: tuple[str, ...]) -> type[nn.Module]:
    """A subclass of the module's class whose tensors of these names are the active task's."""

    def of_shared(name: str) -> property:
        return property(lambda self: self.shared[name]())

    def of_copies(name: str) -> property:
        def put(self, value):  # modules may assign their buffers in forward
            setattr(self.copies.current(), name, value)

        return property(lambda self: getattr(self.copies.current(), name), put)

    properties = {n: of_shared(n) for n in shared} | {n: of_copies(n) for n in own}
    # The state lies in submodules, so a normalisation's own loading of its buffers must not run.
    # Nor may its repr look at them: no task need be active, and what they hold is printed below.
    methods = {"_load_from_state_dict": nn.Module._load_from_state_dict, "extra_repr": nn.Module.extra_repr}
    if kind.forward is nn.Linear.forward:
        methods["forward"] = _linear
    return type(kind.__name__, (kind,), properties | methods | {"__module__": kind.__module__, "plain_class": kind})


def _linear(self: nn.Linear, input: torch.Tensor) -> torch.Tensor:
    return linear(input, self.shared["weight"], self.shared["bias"] if "bias" in self.shared else None)


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
        if isinstance(module, ByTask) or is_converted(module):
            raise ValueError(f"{where} holds tasks already")
        if isinstance(module, nn.RNNBase):
            raise ValueError(f"{where} cannot be isolated: recurrent modules keep a second, flat copy of their weights")
        if isinstance(module, nn.modules.lazy.LazyModuleMixin):
            raise ValueError(f"{where} has no shape yet: run the network on a batch first")
        if parametrize.is_parametrized(module):
            raise ValueError(f"{where} is parametrized: remove its parametrizations first")
        for label, tensor in (*module._parameters.items(), *module._buffers.items()):
            path = f"{name}.{label}" if name else label
            if tensor is not None and holders.setdefault(id(tensor), path) != path:
                raise ValueError(f"{path} is the same tensor as {holders[id(tensor)]}: untie them first")
