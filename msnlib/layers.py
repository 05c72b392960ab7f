"""Masked layers: tensors of which every named task owns some entries.

A layer stores no dense weight. For each task it keeps the *positions* the task owns and a compact vector of their
*values*; the dense weight is scattered together in ``forward``. Isolation follows from the storage: an optimizer
that is given one task's values does not hold another's, so no momentum and no weight decay can move them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from msnlib.products import Pattern, available, pays, sparse_linear
from msnlib.switches import ByTask


class Subnetwork(nn.Module):
    """What one task owns of one tensor.

    Attributes:
        positions: (k,) int64, ascending: flat indices into the tensor. Worked out anew from the pattern, and not to be
            changed, once there is one.
        values: (k,) parameter: what stands at these positions.
        order: allocation number of the task in its network, from 1.
        reads: whether the task also uses, frozen, the entries of tasks allocated before it.
        units: 0, or, when the task owns whole units, how many: the entries are then a block of so many rows, and the
            layer computes with that block alone, as a smaller dense layer.
    """

    def __init__(self, positions: Tensor, values: Tensor, order: int, reads: bool = False, units: int = 0):
        super().__init__()
        self._buffers["positions"] = positions  # past register_buffer, which takes the property for the buffer
        self.values = nn.Parameter(values)
        self.order = order
        self.reads = reads
        self.units = units
        self.compressed: Pattern | None = None

    @property
    def positions(self) -> Tensor:
        held = self._buffers["positions"]
        return self.compressed.positions() if held is None else held

    def pattern(self, shape: tuple[int, int]) -> Pattern:
        """The :class:`~msnlib.products.Pattern` of a matrix of this shape; from now on it is what is held."""
        if self.compressed is None:
            self.compressed = Pattern(self.positions, shape)
            self._buffers["positions"] = None
        return self.compressed

    def expand(self) -> None:
        """Hold the positions again."""
        self._buffers["positions"], self.compressed = self.positions, None

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}positions"] = self.positions

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.order, int(self.reads), self.units])

    def set_extra_state(self, state: Tensor) -> None:
        self.order, self.reads = int(state[0]), bool(state[1])
        self.units = int(state[2]) if len(state) > 2 else 0  # files of msnlib 0.1.0 have two numbers

    def extra_repr(self) -> str:
        return f"entries={len(self.values)}, order={self.order}, reads={self.reads}, units={self.units}"


class SharedTensor(ByTask):
    """A tensor whose entries are owned by tasks: ``shared["fashion"]`` is fashion's :class:`Subnetwork`.

    Calling it gives the active task's tensor: dense, zero where the task owns nothing, or the block of its units.

    Attributes:
        is_output: whether its rows are a network's outputs. Builders set it on their heads: such a tensor starts
            near zero, and :func:`~msnlib.allocate` warns when an output is left without entries.
        sparse_below: density of a task's entries below which a linear layer leaves out the zeros in its products; None
            is by the table of :mod:`msnlib.products`. See :func:`~msnlib.sparse_products`.
    """

    shares = True
    like: Tensor
    is_output: bool = False
    sparse_below: float | None = None

    def __init__(self, shape: tuple[int, ...], device=None, dtype=None):
        super().__init__()
        self.shape = torch.Size(shape)
        # Follows .to(device) and .to(dtype), so that a later task starts where the layer is.
        self.register_buffer("like", torch.empty(0, device=device, dtype=dtype), persistent=False)

    def numel(self) -> int:
        return math.prod(self.shape)

    def forward(self) -> Tensor:
        return self.tensor(self.turn())

    def tensor(self, task: str) -> Tensor:
        """What the task's layer computes with: the block of its units if it owns whole ones, else :meth:`dense`."""
        own = self[task]
        if not own.units:
            return self.dense(task)
        return own.values.view(own.units, -1, *self.shape[2:]) if len(self.shape) > 1 else own.values

    def dense(self, task: str) -> Tensor:
        """The task's tensor, (\\*shape): its values at its positions, zero or frozen values elsewhere."""
        own = self[task]
        if len(own.values) == self.numel():
            return own.values.view(self.shape)
        flat = own.values.new_zeros(self.numel())
        for name in self.read_by(task):
            _write(flat, self[name].positions, self[name].values.detach())
        return _write(flat, own.positions, own.values).view(self.shape)

    def is_whole(self, task: str) -> bool:
        """Whether :meth:`tensor` gives the task's values themselves, nothing put together from them."""
        return bool(self[task].units) or len(self[task].values) == self.numel()

    def read_by(self, task: str) -> list[str]:
        """Tasks whose frozen entries ``task`` uses: all allocated before it if it reads, else none; in that order."""
        own = self[task]
        earlier = [name for name, sub in self.items() if sub.order < own.order] if own.reads else []
        return sorted(earlier, key=lambda name: self[name].order)

    def owners(self) -> Tensor:
        """(numel,) int64: how many tasks own each entry; 0 or 1 except after the rule ``released_percentile``."""
        count = torch.zeros(self.numel(), dtype=torch.int64, device=self.like.device)
        for sub in self.values():
            count[sub.positions] += 1
        return count

    def free(self) -> Tensor:
        """Flat positions no task owns, ascending, int64."""
        return (self.owners() == 0).nonzero().squeeze(1)

    def used_per_unit(self, task: str) -> Tensor:
        """(shape[0],) int64: the kept fan-in of every unit: entries the task owns or reads in its row."""
        at = torch.cat([self[name].positions for name in (task, *self.read_by(task))])
        return torch.bincount(self.unit_of(at), minlength=self.shape[0])

    def unit_of(self, positions: Tensor) -> Tensor:
        """The unit (row) in which each flat position lies, same shape."""
        return positions // (self.numel() // self.shape[0])

    def own(
        self, task: str, positions: Tensor, values: Tensor, order: int, reads: bool = False, units: int = 0
    ) -> None:
        """Make ``task`` the owner of exactly these positions (int64, ascending). Frozen values of its stay frozen."""
        frozen = task in self and not self[task].values.requires_grad
        self[task] = Subnetwork(positions, values.to(self.like), order, reads, units)
        self[task].values.requires_grad_(not frozen)

    def extra_repr(self) -> str:
        return f"shape={tuple(self.shape)}"

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.shape)

    def set_extra_state(self, state: Tensor) -> None:
        if state.tolist() != list(self.shape):
            raise RuntimeError(f"a tensor of shape {tuple(state.tolist())} does not fit one of {tuple(self.shape)}")

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # The tasks in a state dict are data, not structure: hold exactly those, at their sizes. One that has nothing of
        # this tensor is part of a network's, and leaves it as it is.
        errors, suffix = args[-1], ".positions"
        keys = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
        stored = {key.removesuffix(suffix) for key in keys if key.endswith(suffix)}
        for task in set(self) - stored if keys else ():
            del self[task]
        for task in sorted(stored):
            positions = state_dict[f"{prefix}{task}.positions"]
            if f"{prefix}{task}.values" not in state_dict:
                errors.append(f"{prefix}{task}: positions without values")
            elif len(positions) and not (0 <= positions[0] and positions[-1] < self.numel() and _ascend(positions)):
                errors.append(f"{prefix}{task}: positions are no ascending indices of {self.numel()} entries")
            elif task in self and self[task].positions.equal(positions.to(self.like.device)):
                self[task].expand()  # filled in place: an optimizer that holds these values goes on holding them
            else:
                self.own(task, positions.to(self.like.device, copy=True), torch.zeros(len(positions)), order=0)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _write(flat: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Values at their positions, which are distinct; in place, as ``index_copy`` copies what it is given first."""
    if not flat.is_cuda or torch.compiler.is_compiling() or not torch.are_deterministic_algorithms_enabled():
        return flat.index_copy_(0, positions, values)
    # Lest two positions be one, torch would sort them in every call. Of distinct ones every order writes the same.
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch._C._set_deterministic_algorithms(False)
    try:
        return flat.index_copy_(0, positions, values)
    finally:
        torch._C._set_deterministic_algorithms(True, warn_only=warn_only)


def _ascend(positions: Tensor) -> bool:
    return bool((positions[1:] > positions[:-1]).all())


def linear(input: Tensor, weight: SharedTensor, offset: Tensor | None) -> Tensor:
    """The active task's linear map, (\\*, in) -> (\\*, out), with or without the zeros of its weight."""
    if weight._forward_hooks or weight._forward_pre_hooks:
        return nn.functional.linear(input, weight(), offset)
    task = weight.turn()
    own, below, numel = weight[task], weight.sparse_below, weight.numel()
    if below is None:
        few = pays(len(own.values), numel, input.numel() // weight.shape[1])
    else:
        few = len(own.values) < below * numel
    fits = input.shape[-1] == weight.shape[1]  # else torch's own error
    if few and fits and not own.units and not own.reads and available(input, own.values):
        return sparse_linear(input, own.values, own.pattern(weight.shape), offset)
    return nn.functional.linear(input, weight.tensor(task), offset)


class MaskedLinear(nn.Linear):
    """``torch.nn.Linear`` that holds any number of named tasks. Same arguments.

    ``weight`` and ``bias`` are :class:`SharedTensor` s and empty until :func:`~msnlib.allocate`.

    Shape: (\\*, in_features) -> (\\*, out_features).

    Example:
        >>> layer = MaskedLinear(4, 3)
        >>> allocate(layer, "a", density=0.5, method="random")
        >>> with using(layer, "a"):
        ...     layer(torch.ones(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device=None, dtype=None):
        super().__init__(in_features, out_features, bias, device="meta", dtype=dtype)
        _share(self, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, None if self.bias is None else self.bias())

    def plain(self, task: str) -> nn.Linear:
        """The task's layer as ``torch.nn.Linear``, with the task's units alone if it owns whole ones."""
        units, inputs = self.weight.tensor(task).shape
        return _fill(nn.Linear(inputs, units, self.bias is not None, device="meta"), self, task)


class MaskedConv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` that holds any number of named tasks. Same arguments; see :class:`MaskedLinear`.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H', W').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device=None,
        dtype=None,
    ):
        geometry = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        super().__init__(*geometry, device="meta", dtype=dtype)
        self._geometry = geometry
        _share(self, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight(), None if self.bias is None else self.bias())

    def plain(self, task: str) -> nn.Conv2d:
        """The task's layer as ``torch.nn.Conv2d``, with the task's channels alone if it owns whole ones."""
        units, inputs = self.weight.tensor(task).shape[:2]
        return _fill(nn.Conv2d(inputs * self.groups, units, *self._geometry[2:], device="meta"), self, task)


def _share(layer: nn.Module, device, dtype) -> None:
    """Put shared tensors where torch put parameters (on the meta device, so none were ever filled)."""
    for name, parameter in list(layer.named_parameters(recurse=False)):
        delattr(layer, name)
        setattr(layer, name, SharedTensor(parameter.shape, device, dtype))


def _fill(plain: nn.Module, masked: nn.Module, task: str) -> nn.Module:
    plain.training = masked.training
    plain.weight = nn.Parameter(masked.weight.tensor(task).detach().clone())
    if masked.bias is not None:
        plain.bias = nn.Parameter(masked.bias.tensor(task).detach().clone())
    return plain
