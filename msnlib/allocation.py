"""Allocation: which free entries become a task's subnetwork, and what they start from.

The paper (Renn et al. 2022, arXiv 2207.08821; released as ``mann.utils.mask_model``) scores every weight for every
task and keeps those above a percentile, tensor by tensor. Here the number of entries is fixed first and exactly that
many are taken, so ties cannot change a count and a full tensor is an error, not a dense subnetwork.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from msnlib.layers import SharedTensor
from msnlib.loading import load_whole
from msnlib.seeding import stream
from msnlib.subnetworks import (
    check_dtype,
    check_isolated,
    check_known,
    check_name,
    check_not_read,
    discard,
    evaluating,
    shared_tensors,
    tasks,
    using,
    walk,
)
from msnlib.switches import PerTask, TaskCopies

METHODS = ("gradient", "snip", "magnitude", "random")
INITS = ("he", "glorot", "authors")
READS = ("none", "all")
GRANULARITIES = ("weight", "unit")
FAN_INS = ("free", "constant")

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]
Layer = tuple[str, SharedTensor, SharedTensor | None]


class CapacityError(RuntimeError):
    """A tensor has fewer entries, or whole units, to give than were asked for.

    Attributes:
        layer: name of the tensor, as in :func:`~msnlib.owner_map`.
        asked, free, total: numbers of entries or units.
    """

    def __init__(self, layer: str, asked: int, free: int, total: int, what: str = "entries"):
        message = f"{layer}: asked for {asked} {what}, only {free} of {total} are free"
        if layer.rpartition(".")[2] == "bias" and what == "entries" and asked == 1:
            message += "; every task takes at least one entry of a bias: make the layer wider, leave its bias out "
            message += "(bias=False), or give each task a head of its own"
        super().__init__(message)
        self.layer, self.asked, self.free, self.total, self.what = layer, asked, free, total, what

    def __reduce__(self):
        return type(self), (self.layer, self.asked, self.free, self.total, self.what)


class DeadOutputWarning(UserWarning):
    """Allocation left an output of a network's head without any weight: it cannot depend on the input."""


class OverlapWarning(UserWarning):
    """The released percentile rule gave a task entries that other tasks own."""


def allocate(
    net: nn.Module,
    task: str,
    density: float | Literal["free"],
    method: str = "gradient",
    batches: Batches | None = None,
    loss: Loss | None = None,
    reads: str = "none",
    init: str = "he",
    seed: int | None = None,
    legacy_percentile: bool = False,
    granularity: str = "weight",
    fan_in: str = "free",
) -> None:
    """Give a new task its subnetwork: the most salient free entries of every masked tensor.

    Of a tensor with n entries the task gets exactly ``max(1, round(density * n))``, weights and biases apart; of
    equally salient entries those with the lower flat index. Entries are scored on freshly initialised values in a
    network that holds the task on *all* free entries. With ``init="he"`` the chosen ones are then drawn anew, on their
    kept fan-in; the other inits keep the values that were scored.

    Args:
        net: any module with masked layers.
        task: its name; stems and heads for it must be declared already where the network has some.
        density: share of entries to keep, 0 < density <= 1; ``"free"`` takes every free entry, to be
            trained and then cut by :func:`prune`.
        method: the saliency. ``"gradient"``: abs(dL/dw), the paper's. ``"snip"``: abs(w dL/dw) (Lee et al. 2019).
            ``"magnitude"``: abs(w), on untrained ``"he"`` values a random choice: use ``density="free"``, train and
            :func:`prune`. ``"random"``: uniform.
        batches: pairs (x, y) the gradient is taken on; for ``"gradient"`` and ``"snip"`` only.
        loss: ``loss(prediction, y)`` -> mean over the batch, likewise.
        reads: ``"none"``, the paper's: a task sees its own entries alone. ``"all"``: it also uses the entries of
            the tasks before it, which are frozen from now on (PackNet, Mallya & Lazebnik 2018).
        init: values the subnetwork starts from. ``"he"``: normal with variance 2 / fan-in, counting the inputs a
            unit *keeps*, and a builder's heads start near zero. ``"glorot"``: uniform, the authors' dedicated
            networks. ``"authors"``: N(0, 0.05), their masked layers. Biases start at 0.
        seed: of initial values and random scores; None takes the run's (:func:`~msnlib.seed_everything`).
        legacy_percentile: keep ``score >= percentile`` as released, bug for bug: entries owned once before count
            as score 0, and when the percentile is 0 the task gets *every* entry, other tasks' too.
        granularity: ``"weight"``, the paper's: single entries, scattered. ``"unit"``: whole units (channels of a
            convolution), ``density`` the share of each hidden layer's units; a unit's score is the sum of its entries'.
            Between two hidden layers the task then owns density squared of the weights, and its subnetwork is a smaller
            *dense* network and runs as one. For networks of msnlib's builders.
        fan_in: ``"free"``, the paper's: the best entries of a tensor wherever they stand, so that some units keep many
            inputs and others none. ``"constant"``: every unit (channel) keeps its own best inputs, as many as any
            other up to one; who has fewer free ones leaves the rest to the others (constant fan-in: Lasby et al. 2023,
            arXiv 2305.02299). The number of entries is the same, and no unit is left without inputs that need not be.

    Raises:
        CapacityError: a tensor has too few free entries or units.
        ValueError: any other unusable argument, a NaN score, a task without a stem or head of its own where others
            have one; a buffer outside masked layers and per-task parts, which a task's training could change for all.
            (Not seen: tensors that a module keeps as plain attributes and changes in ``forward``. Make them buffers.)
        In every case no layer has changed.

    Warns:
        DeadOutputWarning: a head's output got no weight.
        SharedParameterWarning: parameters outside masked layers and per-task parts that are not frozen.
        OverlapWarning: ``legacy_percentile`` gave entries away twice.
    """
    check_name(task)
    if task in tasks(net):
        raise ValueError(f"task {task!r} is allocated already; release it first")
    _check_choice("reads", reads, READS)
    _check_choice("init", init, INITS)
    _check_choice("granularity", granularity, GRANULARITIES)
    _check_choice("fan_in", fan_in, FAN_INS)
    if (legacy_percentile or granularity == "unit") and (reads != "none" or density == "free"):
        rule = "legacy_percentile" if legacy_percentile else "granularity='unit'"
        raise ValueError(f"{rule} goes with reads='none' and a number as density")
    if legacy_percentile and granularity == "unit":
        raise ValueError("legacy_percentile goes with granularity='weight'")
    if fan_in == "constant" and (legacy_percentile or granularity == "unit" or density == "free"):
        raise ValueError("fan_in='constant' goes with granularity='weight', exact counts and a number as density")
    if density == "free":
        _check_choice("method", method, METHODS)
    else:
        check_density(density)
        _check_saliency(method, batches, loss)
    _check_declared(net, task)
    tensors = shared_tensors(net, task)
    if not tensors:
        raise ValueError("the network has no masked layers to allocate from")
    check_isolated(net)
    load_whole(net)
    layers = chain(net, task) if granularity == "unit" else []
    if granularity == "weight" and not legacy_percentile:
        _check_capacity(tensors, density)

    order = 1 + max((sub.order for tensor in shared_tensors(net).values() for sub in tensor.values()), default=0)
    before = {name: tensor.owners() for name, tensor in tensors.items()}
    try:
        for module in net.modules():
            if isinstance(module, PerTask):
                module.begin(task)
        for name, tensor in tensors.items():
            start = torch.arange(tensor.numel(), device=tensor.like.device) if legacy_percentile else tensor.free()
            tensor.own(task, start, torch.zeros(len(start)), order, reads == "all")
            _initialise(tensor, task, init, stream("scored values", task, name, seed=seed))
        if density == "free":
            return
        scores = _scores(net, task, tensors, method, batches, loss, seed)
        if granularity == "unit":
            _keep_units(layers, task, scores, density)
        for name, tensor in tensors.items():
            if legacy_percentile:
                _keep(tensor, task, _at_percentile(scores[name], before[name], density))
            elif granularity == "weight":
                units = tensor.unit_of(tensor[task].positions) if fan_in == "constant" else None
                _keep(tensor, task, top(scores[name], entries(tensor.numel(), density), units))
            if init == "he":
                _initialise(tensor, task, init, stream("initial values", task, name, seed=seed))
    except BaseException:
        discard(net, task)
        raise
    _warn_of_dead_outputs(tensors, task)
    overlap = [name for name, tensor in tensors.items() if (before[name][tensor[task].positions] > 0).any()]
    if overlap:
        warnings.warn(
            f"task {task!r} overlaps other tasks in {len(overlap)} of {len(tensors)} tensors ({', '.join(overlap)})",
            OverlapWarning,
            stacklevel=2,
        )


def prune(
    net: nn.Module,
    task: str,
    density: float,
    method: str = "magnitude",
    batches: Batches | None = None,
    loss: Loss | None = None,
    seed: int | None = None,
) -> None:
    """Cut a task down to its most salient entries; the rest is free again, kept values stay as they are.

    With ``allocate(..., density="free")`` before it this is the train, prune, retrain cycle of the paper's
    magnitude method and of PackNet. Of a tensor with n entries, ``max(1, round(density * n))`` are kept. Arguments
    errors and warnings as in :func:`allocate`; CapacityError when the task owns fewer; FrozenTaskError when others
    read it.
    """
    check_known(net, task)
    check_not_read(net, task, "pruned")
    check_density(density)
    _check_saliency(method, batches, loss)
    tensors = {name: tensor for name, tensor in shared_tensors(net, task).items() if task in tensor}
    if any(tensor[task].units for tensor in tensors.values()):
        raise ValueError(f"task {task!r} owns whole units and cannot be cut to single entries; release and allocate it")
    for name, tensor in tensors.items():
        asked, owned = entries(tensor.numel(), density), len(tensor[task].positions)
        if asked > owned:
            raise CapacityError(name, asked, owned, tensor.numel())
    scores = _scores(net, task, tensors, method, batches, loss, seed)
    for name, tensor in tensors.items():
        _keep(tensor, task, top(scores[name], entries(tensor.numel(), density)))
    _warn_of_dead_outputs(tensors, task)


def _warn_of_dead_outputs(tensors: dict[str, SharedTensor], task: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_output and len(tensor.shape) > 1:
            dead = (tensor.used_per_unit(task) == 0).nonzero().squeeze(1).tolist()
            if dead:
                message = f"{name}: outputs {dead} of task {task!r} got no entries"
                warnings.warn(message, DeadOutputWarning, stacklevel=3)


def entries(numel: int, density: float) -> int:
    """How many entries a density means: ``max(1, round(density * numel))``."""
    return max(1, round(density * numel))


def top(scores: Tensor, count: int, groups: Tensor | None = None) -> Tensor:
    """Indices of the ``count`` largest scores, ascending; of equal scores the lower index is taken.

    With ``groups``, (n,) int64 from 0, the largest of every group come first, then the second of every group, and so
    on: all groups give the same number up to one, as far as they have so many.

    Shape: scores (n,) -> (count,) int64.
    """
    best = scores.sort(descending=True, stable=True).indices
    if groups is not None:
        group, place = groups[best].sort(stable=True)
        sizes = torch.bincount(group)
        rank = torch.empty_like(place)
        rank[place] = torch.arange(len(group), device=group.device) - (sizes.cumsum(0) - sizes)[group]
        best = best[rank.sort(stable=True).indices]
    return best[:count].sort().values


def check_density(density: float) -> None:
    """Raise ValueError unless 0 < density <= 1."""
    if isinstance(density, bool) or not isinstance(density, Real) or not 0 < density <= 1:
        raise ValueError(f"density {density!r} must be in 0 < density <= 1 (the share of weights a task keeps)")


def _at_percentile(scores: Tensor, owned: Tensor, density: float) -> Tensor:
    """Indices the released rule keeps. ``owned == 1``, not ``>= 1``, is the release's own test."""
    scores = scores.masked_fill(owned == 1, 0).cpu().numpy()
    kept = scores >= np.percentile(scores, round(100 * (1 - density), 9))
    return torch.from_numpy(kept.nonzero()[0]).to(owned.device)


def _keep_units(layers: list[Layer], task: str, scores: dict[str, Tensor], density: float) -> None:
    """Leave the task whole units of every layer (all of its head), with their inputs from its units before."""
    before: Tensor | None = None
    for name, weight, bias in layers:
        units, inputs, *kernel = weight.shape
        fan = inputs * math.prod(kernel)
        if before is None:
            columns = torch.arange(fan, device=weight.like.device)
        else:  # one of the layer before feeds as many inputs as it has kernel entries here, or places behind a Flatten
            width = fan // before.numel()
            columns = (before.nonzero() * width + torch.arange(width, device=before.device)).flatten()
        free, score = (torch.zeros(weight.numel(), device=weight.like.device) for _ in range(2))
        free[weight[task].positions] = 1
        score[weight[task].positions] = scores[f"{name}.weight"].to(score)
        free, score = free.view(units, fan)[:, columns].all(1), score.view(units, fan)[:, columns].sum(1)
        if bias is not None:
            unused = torch.zeros(units, dtype=torch.bool, device=free.device)
            unused[bias[task].positions] = True
            free &= unused
            score[bias[task].positions] += scores[f"{name}.bias"].to(score)
        asked = units if weight.is_output else entries(units, density)
        if asked > int(free.sum()):
            raise CapacityError(f"{name}.weight", asked, int(free.sum()), units, "units")
        chosen = top(score.masked_fill(~free, -1), asked)
        block = (chosen[:, None] * fan + columns).flatten()
        _keep(weight, task, torch.searchsorted(weight[task].positions, block), asked)
        if bias is not None:
            _keep(bias, task, torch.searchsorted(bias[task].positions, chosen), asked)
        before = torch.zeros(units, dtype=torch.bool, device=free.device).index_fill_(0, chosen, True)


def chain(net: nn.Module, task: str) -> list[Layer]:
    """The masked layers that the task passes, in order: (name, weight, bias); the last is its head.

    Raises:
        ValueError: not a network of msnlib's builders, in which each layer takes what the one before it gives.
    """
    refusal = "granularity='unit' is for networks of msnlib's builders, layers in a row: "
    if not (isinstance(getattr(net, "trunk", None), nn.Sequential) and hasattr(net, "heads")):
        raise ValueError(f"{refusal}not {type(net).__name__}")
    found: list[Layer] = []
    width = None
    for name, module, _ in walk(net, task):
        weight = getattr(module, "weight", None)
        if not isinstance(weight, SharedTensor):
            continue
        if getattr(module, "groups", 1) != 1 or (width is not None and weight.shape[1] % width):
            raise ValueError(f"{refusal}{name} does not take the {width} units before it")
        found.append((name, weight, module.bias))
        width = weight.shape[0]
    if not found or not found[-1][1].is_output:
        raise ValueError(f"{refusal}task {task!r} has no masked head")
    return found


def _keep(tensor: SharedTensor, task: str, index: Tensor, units: int = 0) -> None:
    """Leave the task only these of its entries (indices into its positions, ascending), whole units if so many."""
    sub = tensor[task]
    tensor.own(task, sub.positions[index], sub.values.detach()[index], sub.order, sub.reads, units)


def _initialise(tensor: SharedTensor, task: str, init: str, generator: torch.Generator) -> None:
    """Draw the task's values anew, over the whole tensor, so that an entry's noise does not depend on the mask."""
    values, positions = tensor[task].values.data, tensor[task].positions
    if len(tensor.shape) == 1:
        values.zero_()
        return
    units, inputs, *kernel = tensor.shape
    if init == "glorot":
        bound = math.sqrt(6 / ((units + inputs) * math.prod(kernel)))
        noise = torch.rand(tensor.numel(), generator=generator, dtype=values.dtype).mul_(2 * bound).sub_(bound)
    else:
        noise = torch.randn(tensor.numel(), generator=generator, dtype=values.dtype)
    values.copy_(noise.to(values.device)[positions])
    if init == "authors":
        values.mul_(0.05)
    elif init == "he":
        # He et al. (2015) through a ReLU. Outputs start near zero instead: with logits of unit size the gradient of an
        # output's weights is mostly its chance bias, a few outputs take all entries and others are never predicted.
        gain = 0.1 if tensor.is_output else math.sqrt(2)
        kept = tensor.used_per_unit(task)[tensor.unit_of(positions)]
        values.mul_(gain / kept.sqrt())


def _scores(
    net: nn.Module,
    task: str,
    tensors: dict[str, SharedTensor],
    method: str,
    batches: Batches | None,
    loss: Loss | None,
    seed: int | None,
) -> dict[str, Tensor]:
    """Name of tensor -> (k,) saliency of each entry the task owns there."""
    values = {name: tensor[task].values for name, tensor in tensors.items()}
    if method == "random":
        found = {n: torch.rand(len(v), generator=stream("scores", task, n, seed=seed)) for n, v in values.items()}
    elif method == "magnitude":
        found = {n: v.detach().abs() for n, v in values.items()}
    else:
        gradients = _gradients(net, task, list(values.values()), batches, loss)
        found = dict(zip(values, gradients, strict=True))
        if method == "snip":
            found = {n: g * values[n].detach() for n, g in found.items()}
        found = {n: g.abs() for n, g in found.items()}
    for name, score in found.items():
        if score.isnan().any():
            raise ValueError(f"{name}: {int(score.isnan().sum())} of {len(score)} scores of task {task!r} are NaN")
    return {n: s.to(values[n].device) for n, s in found.items()}


def _gradients(net: nn.Module, task: str, values: list[Tensor], batches: Batches, loss: Loss) -> list[Tensor]:
    """Gradient of the summed loss over all examples with respect to each vector of values."""
    total = [torch.zeros_like(v) for v in values]
    seen = 0
    with evaluating(net), using(net, task), torch.enable_grad():
        for x, y in batches:
            check_dtype(net, task, x)
            x, y = x.to(values[0].device), y.to(values[0].device)
            summed = loss(net(x), y) * len(x)
            for sum_, grad in zip(total, torch.autograd.grad(summed, values, allow_unused=True), strict=True):
                if grad is not None:
                    sum_ += grad
            seen += len(x)
    if not seen:
        raise ValueError("batches held no examples to take gradients on")
    return total


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} {value!r} is not one of {', '.join(allowed)}")


def _check_saliency(method: str, batches: Batches | None, loss: Loss | None) -> None:
    _check_choice("method", method, METHODS)
    if method in ("gradient", "snip") and (batches is None or loss is None):
        raise ValueError(f"method {method!r} needs batches= (pairs x, y) and loss= (of prediction and y)")


def _check_capacity(tensors: dict[str, SharedTensor], density: float | str) -> None:
    for name, tensor in tensors.items():
        free = len(tensor.free())
        asked = 1 if density == "free" else entries(tensor.numel(), density)
        if asked > free:
            raise CapacityError(name, asked, free, tensor.numel())


def _check_declared(net: nn.Module, task: str) -> None:
    """Refuse a task that could not run: some part that every task has its own of holds none for it."""
    for name, module, _ in walk(net, task):
        if isinstance(module, PerTask) and not isinstance(module, TaskCopies) and task not in module:
            raise ValueError(f"{name}: nothing declared for task {task!r}, only for: {', '.join(module) or 'none'}")
