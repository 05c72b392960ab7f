"""Allocation: which free entries become a task's subnetwork, and what they start from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from msnlib.isolation import check_declared, check_dtype, check_isolated, load_whole
from msnlib.layers import SharedTensor
from msnlib.networks import check_in_a_row
from msnlib.seeding import stream
from msnlib.selection import (
    CapacityError,
    Choose,
    Density,
    Kept,
    Offer,
    Rule,
    as_rule,
    budget,
    check_how,
    check_method,
    kept_by,
)
from msnlib.subnetworks import (
    check_known,
    check_name,
    check_not_read,
    discard,
    evaluating,
    shared_tensors,
    tasks,
    using,
)
from msnlib.switches import PerTask

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]
Tensors = Mapping[str, SharedTensor]


class DeadOutputWarning(UserWarning):
    """An output of a network's head is left without any weight: it cannot depend on the input."""


class OverlapWarning(UserWarning):
    """A rule gave a task entries that other tasks own."""


def allocate(
    net: nn.Module,
    task: str,
    density: Density | Literal["free"],
    method: str = "gradient",
    batches: Batches | None = None,
    loss: Loss | None = None,
    reads: str = "none",
    init: str = "he",
    seed: int | None = None,
    rule: str | Rule | Choose = "even_outputs",
) -> None:
    """Give a new task its subnetwork: the most salient free entries of every masked tensor.

    Of a tensor with n entries the task gets exactly ``max(1, round(density * n))``, weights and biases apart; of
    equally salient entries those with the lower flat index. Entries are scored on freshly initialised values in a
    network that holds the task on *all* free entries. With ``init="he"`` the chosen ones are then drawn anew, on their
    kept fan-in; the other inits keep the values that were scored, as the release does.

    Args:
        net: any module with masked layers.
        task: its name; stems and heads for it must be declared already where the network has some.
        density: share of entries to keep, 0 < density <= 1: one for all tensors, one for each by name (say of
            :func:`~msnlib.erk`), or a function of name and shape. ``"free"`` takes every free entry, to be trained and
            then cut by :func:`prune`.
        method: the saliency. ``"gradient"``: abs(dL/dw), the paper's. ``"snip"``: abs(w dL/dw) (Lee et al. 2019).
            ``"magnitude"``: abs(w), on untrained ``"he"`` values a random choice: use ``density="free"``, train and
            :func:`prune`. ``"random"``: uniform.
        batches: pairs (x, y) the gradient is taken on; for ``"gradient"`` and ``"snip"`` only.
        loss: ``loss(prediction, y)`` -> mean over the batch, likewise.
        reads: ``"none"``, the paper's: a task sees its own entries alone. ``"all"``: it also uses the entries of
            the tasks before it, which are frozen from now on (PackNet, Mallya & Lazebnik 2018).
        init: values the subnetwork starts from. ``"he"``: normal with variance 2 / fan-in, counting the inputs a
            unit *keeps*, and a builder's heads start near zero. ``"scored"``: the same from the scored noise.
            ``"glorot"``: uniform, the authors' controls. ``"authors"``: N(0, 0.05), their masks. Biases start at 0.
        seed: of initial values and random scores; None takes the run's (:func:`~msnlib.seed_everything`).
        rule: which of the scored entries are kept: a name from :data:`~msnlib.selection.RULES` or a function of your
            own, from offers by name to what is kept by name (:class:`~msnlib.selection.Offer`). ``"largest"``: the
            paper's. ``"even_outputs"``: the same, but a head's outputs share its entries evenly and none starves
            (ahead below a tenth: notebook 15). ``"constant_fan_in"``: every unit keeps as many inputs as any other.
            ``"whole_units"``: a smaller dense network, in msnlib's builders. ``"released_percentile"``: as released.

    Raises:
        CapacityError: a tensor has too few free entries or units.
        ValueError: any other unusable argument, a score that is not finite, a task without a stem or head of its own
            where others have one; a buffer outside masked layers and per-task parts, which a task's training could
            change for all, or memory that parts of two tasks share.
            (Not seen: tensors that a module keeps as plain attributes and changes in ``forward``. Make them buffers.)
        In every case no layer has changed.

    Warns:
        DeadOutputWarning: a head's output got no weight.
        SharedParameterWarning: parameters outside masked layers and per-task parts that are not frozen.
        OverlapWarning: the rule gave entries away twice.
    """
    rule = as_rule(rule)
    _check_task(net, task, reads, init, rule)
    tensors = shared_tensors(net, task)
    if not tensors:
        raise ValueError("the network has no masked layers to allocate from")
    check_isolated(net)
    if density == "free":
        check_method(method)
        _check_free(tensors, rule)
        densities = {}
    else:
        densities = budget(density, {name: tensor.shape for name, tensor in tensors.items()})
        _check_saliency(method, batches, loss)
        if rule.in_a_row:  # what such a rule can give depends on the scores: one layer's choice bounds the next
            check_in_a_row(net, task, rule.name)
        else:  # on zero scores: what cannot be given is refused before anything changes
            _choose(rule, tensors, densities)
    load_whole(net)
    before = {name: tensor.owners() for name, tensor in tensors.items()}
    with _undone(net, task):
        _own_all(net, task, tensors, reads, init, seed, taken=rule.taken)
        if density == "free":
            return
        kept = _choose(rule, tensors, densities, task, before, _scores(net, task, tensors, method, batches, loss, seed))
        for name, tensor in tensors.items():
            _keep(tensor, task, kept[name])
            if noise := {"he": "initial values", "scored": "scored values"}.get(init):  # scaled to the inputs kept
                _initialise(tensor, task, init, stream(noise, task, name, seed=seed))
    _warn_dead(tensors, task)
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
    density: Density,
    method: str = "magnitude",
    batches: Batches | None = None,
    loss: Loss | None = None,
    seed: int | None = None,
    rule: str | Rule | Choose = "even_outputs",
) -> None:
    """Cut a task down to its most salient entries; the rest is free again, kept values stay as they are.

    With ``allocate(..., density="free")`` before it this is the train, prune, retrain cycle of the paper's
    magnitude method and of PackNet. Of a tensor with n entries, ``max(1, round(density * n))`` are kept. Arguments,
    errors and warnings as in :func:`allocate`; CapacityError when the task owns fewer; FrozenTaskError when others
    read it.
    """
    rule = as_rule(rule)
    check_known(net, task)
    check_not_read(net, task, "pruned")
    _check_saliency(method, batches, loss)
    tensors = {name: tensor for name, tensor in shared_tensors(net, task).items() if task in tensor}
    if any(tensor[task].units for tensor in tensors.values()):
        raise ValueError(f"task {task!r} owns whole units and cannot be cut to single entries; release and allocate it")
    if rule.taken or (not rule.reads and any(tensor[task].reads for tensor in tensors.values())):
        raise ValueError(f"rule {rule.name!r} is for allocate, and a task that reads no other")
    if rule.in_a_row:
        check_in_a_row(net, task, rule.name)
    densities = budget(density, {name: tensor.shape for name, tensor in tensors.items()})
    kept = _choose(rule, tensors, densities, task, None, _scores(net, task, tensors, method, batches, loss, seed))
    for name, tensor in tensors.items():
        _keep(tensor, task, kept[name])
    _warn_dead(tensors, task)


def _choose(
    rule: Rule,
    tensors: Tensors,
    densities: Mapping[str, float],
    task: str | None = None,
    owners: Mapping[str, Tensor] | None = None,
    scores: Mapping[str, Tensor] | None = None,
) -> dict[str, Kept]:
    """What a rule keeps, checked.

    Args:
        rule, tensors, densities: the rule; the others by name of tensor.
        task: who holds the entries on offer; None offers those that a new task could have.
        owners: name -> how many *other* tasks own each entry; None counts now.
        scores: name -> (k,) of the entries on offer; None are zeros.

    Raises:
        ValueError: as :func:`msnlib.selection.kept_by`.
    """
    offers = {}
    for name, tensor in tensors.items():
        if task is not None:
            positions = tensor[task].positions
        else:
            positions = torch.arange(tensor.numel(), device=tensor.like.device) if rule.taken else tensor.free()
        score = positions.new_zeros(len(positions), dtype=tensor.like.dtype) if scores is None else scores[name]
        count = tensor.owners() if owners is None else owners[name]
        offers[name] = Offer(name, tuple(tensor.shape), densities[name], positions, score, count, tensor.is_output)
    return kept_by(rule, offers)


def _own_all(net: nn.Module, task: str, tensors: Tensors, reads: str, init: str, seed: int | None, taken: bool) -> None:
    """Make the task the owner of everything on offer to it, at the values that are to be scored."""
    order = 1 + max((sub.order for tensor in shared_tensors(net).values() for sub in tensor.values()), default=0)
    for module in net.modules():
        if isinstance(module, PerTask):
            module.begin(task)
    for name, tensor in tensors.items():
        start = torch.arange(tensor.numel(), device=tensor.like.device) if taken else tensor.free()
        tensor.own(task, start, torch.zeros(len(start)), order, reads == "all")
        _initialise(tensor, task, init, stream("scored values", task, name, seed=seed))


@contextmanager
def _undone(net: nn.Module, task: str) -> Iterator[None]:
    """After an error inside the block the network does not hold the task."""
    try:
        yield
    except BaseException:
        discard(net, task)
        raise


def _keep(tensor: SharedTensor, task: str, kept: Kept) -> None:
    """Leave the task only these of its entries, with the values they have."""
    sub = tensor[task]
    index = torch.searchsorted(sub.positions, kept.positions)
    tensor.own(task, kept.positions, sub.values.detach()[index], sub.order, sub.reads, kept.units)


def _warn_dead(tensors: Tensors, task: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_output and len(tensor.shape) > 1:
            dead = (tensor.used_per_unit(task) == 0).nonzero().squeeze(1).tolist()
            if dead:
                message = f"{name}: outputs {dead} of task {task!r} got no entries"
                warnings.warn(message, DeadOutputWarning, stacklevel=3)


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
    elif init in ("he", "scored"):
        # He et al. (2015) through a ReLU. Outputs start near zero instead: with logits of unit size the gradient of an
        # output's weights is mostly its chance bias, a few outputs take all entries and others are never predicted.
        gain = 0.1 if tensor.is_output else math.sqrt(2)
        kept = tensor.used_per_unit(task)[tensor.unit_of(positions)]
        values.mul_(gain / kept.sqrt())


def _scores(
    net: nn.Module,
    task: str,
    tensors: Tensors,
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
        if wrong := int((~score.isfinite()).sum()):
            raise ValueError(f"{name}: {wrong} of {len(score)} scores of task {task!r} are NaN or infinite")
    return {n: s.to(values[n].device) for n, s in found.items()}


def _gradients(net: nn.Module, task: str, values: list[Tensor], batches: Batches, loss: Loss) -> list[Tensor]:
    """Gradient of the summed loss over all examples with respect to each vector of values."""
    total, seen = [torch.zeros_like(v, dtype=torch.promote_types(v.dtype, torch.float32)) for v in values], 0
    frozen = [v for v in values if not v.requires_grad]
    try:
        for value in frozen:  # what is not trained has a saliency all the same
            value.requires_grad_(True)
        with evaluating(net), using(net, task), torch.enable_grad():
            for x, y in batches:
                check_dtype(net, task, x)
                x, y = x.to(values[0].device), y.to(values[0].device)
                summed = loss(net(x), y) * len(x)
                for sum_, grad in zip(total, torch.autograd.grad(summed, values, allow_unused=True), strict=True):
                    if grad is not None:
                        sum_ += grad
                seen += len(x)
    finally:
        for value in frozen:
            value.requires_grad_(False)
    if not seen:
        raise ValueError("batches held no examples to take gradients on")
    return total


def _check_saliency(method: str, batches: Batches | None, loss: Loss | None) -> None:
    check_method(method)
    if method in ("gradient", "snip") and (batches is None or loss is None):
        raise ValueError(f"method {method!r} needs batches= (pairs x, y) and loss= (of prediction and y)")


def _check_free(tensors: Tensors, rule: Rule) -> None:
    if rule not in (as_rule("largest"), as_rule("even_outputs")):  # the default looks as if it had been named
        raise ValueError(f"density='free' takes every free entry; give rule {rule.name!r} to prune")
    for name, tensor in tensors.items():
        if not len(tensor.free()):
            raise CapacityError(name, 1, 0, tensor.numel())


def _check_task(net: nn.Module, task: str, reads: str, init: str, rule: Rule) -> None:
    """Refuse a task that cannot join the network so."""
    check_name(task)
    if task in tasks(net):
        raise ValueError(f"task {task!r} is allocated already; release it first")
    check_how(reads, init, rule)
    check_declared(net, task)
