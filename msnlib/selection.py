"""Selection rules: from the entries on offer to those a task keeps. Pure: they run no network and change none.

The paper (Renn et al. 2022, arXiv 2207.08821; released as ``mann.utils.mask_model``) keeps, tensor by tensor, what
scores above a percentile. Here the number of entries is fixed first and exactly that many are taken, so ties cannot
change a count and a full tensor is an error, not a dense subnetwork.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Density = float | Mapping[str, float] | Callable[[str, tuple[int, ...]], float]
METHODS = ("gradient", "snip", "magnitude", "random")
INITS = ("he", "scored", "glorot", "authors")
READS = ("none", "all")


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


@dataclass(frozen=True, eq=False)
class Offer:
    """One tensor as a rule sees it: n entries, k of them on offer.

    Attributes:
        name: of the tensor, as in :func:`~msnlib.owner_map`.
        shape: of the tensor; its first dimension are the units.
        density: share of its n entries that the task is to keep.
        positions: (k,) int64, ascending: flat indices of the entries on offer.
        scores: (k,): the saliency of each; zeros where only the capacity is asked about.
        owners: (n,) int64: how many tasks own each entry.
        is_output: whether its units are a network's outputs.
    """

    name: str
    shape: tuple[int, ...]
    density: float
    positions: Tensor
    scores: Tensor
    owners: Tensor
    is_output: bool = False

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """How many entries the density means."""
        return entries(self.numel, self.density)

    @property
    def units(self) -> Tensor:
        """(k,) int64: the unit (row) in which each entry on offer lies."""
        return self.positions // (self.numel // self.shape[0])

    def best(self, by_unit: bool = False) -> Kept:
        """The :attr:`count` most salient entries on offer; by unit, every unit gives as many as any other up to one.

        Raises:
            CapacityError: there are fewer.
        """
        if self.count > len(self.positions):
            raise CapacityError(self.name, self.count, len(self.positions), self.numel)
        return Kept(self.positions[top(self.scores, self.count, self.units if by_unit else None)])


class Kept(NamedTuple):
    """What a task keeps of one tensor.

    Attributes:
        positions: (m,) int64, ascending: flat indices.
        units: 0, or, when these are a block of whole units, how many: the layer then computes with that block alone.
    """

    positions: Tensor
    units: int = 0


Choose = Callable[[Mapping[str, Offer]], Mapping[str, Kept]]


@dataclass(frozen=True)
class Rule:
    """How a task's entries are chosen.

    Attributes:
        choose: offers by name, in the order in which the task passes them -> what is kept, by name.
        reads: whether a task chosen so may read the tasks before it.
        taken: whether entries that other tasks own are on offer as well.
        in_a_row: whether the layers must stand in a row, each taking what the one before it gives (msnlib's builders).
    """

    choose: Choose
    reads: bool = True
    taken: bool = False
    in_a_row: bool = False

    @property
    def name(self) -> str:
        return getattr(self.choose, "__name__", type(self.choose).__name__)


def kept_by(rule: Rule, offers: Mapping[str, Offer]) -> dict[str, Kept]:
    """What a rule keeps of each offer.

    Raises:
        ValueError: it is not some entries of every offer by name, ascending, or their number is none of whole units.
    """
    chosen = rule.choose(offers)
    if not isinstance(chosen, Mapping) or set(chosen) != set(offers):
        said = list(chosen) if isinstance(chosen, Mapping) else type(chosen).__name__
        raise ValueError(f"rule {rule.name!r} must return what is kept by name of {', '.join(offers)}, not {said}")
    found = {name: Kept(*one) if isinstance(one, tuple) else Kept(one) for name, one in chosen.items()}
    for name, (kept, units) in found.items():
        is_index = isinstance(kept, Tensor) and kept.dtype == torch.int64 and kept.dim() == 1 and len(kept)
        if not (is_index and (kept.diff() > 0).all() and torch.isin(kept, offers[name].positions).all()):
            raise ValueError(f"rule {rule.name!r} must keep some of the entries on offer in {name}, ascending, int64")
        if units != 0 and not (isinstance(units, Integral) and units > 0 and len(kept) % units == 0):
            raise ValueError(f"rule {rule.name!r}: {len(kept)} entries of {name} are not {units!r} whole units")
        if units and not _is_block(kept.view(units, -1), offers[name].numel // offers[name].shape[0]):
            raise ValueError(f"rule {rule.name!r}: the entries of {name} are not {units!r} units with the same inputs")
    return {name: Kept(one.positions.clone(), one.units) for name, one in found.items()}  # the rule may keep its own


def _is_block(kept: Tensor, fan: int) -> bool:
    """Whether these positions, (units, entries of each), are a unit a row, all with the same inputs."""
    row, column = kept // fan, kept % fan
    return bool((row == row[:, :1]).all() and (column == column[:1]).all())


def largest(offers: Mapping[str, Offer]) -> dict[str, Kept]:
    """The paper's: the best entries of a tensor wherever they stand; some units may keep many, others none."""
    return {name: offer.best() for name, offer in offers.items()}


def constant_fan_in(offers: Mapping[str, Offer]) -> dict[str, Kept]:
    """Every unit (channel) keeps its own best inputs, as many as any other up to one; who has fewer free ones leaves
    the rest to the others (Lasby et al. 2023, arXiv 2305.02299). No unit is left without inputs that need not be.
    """
    return {name: offer.best(by_unit=True) for name, offer in offers.items()}


def even_outputs(offers: Mapping[str, Offer]) -> dict[str, Kept]:
    """As :func:`largest`, but the outputs of a head share its entries evenly, each its own best: no class starves."""
    return {name: offer.best(by_unit=offer.is_output) for name, offer in offers.items()}


def whole_units(offers: Mapping[str, Offer]) -> dict[str, Kept]:
    """Whole units (channels of a convolution), ``density`` the share of each hidden layer's; all units of the head.

    A unit's score is the sum over its entries. Between two hidden layers the task then owns density squared of the
    weights, and its subnetwork is a smaller *dense* network and runs as one.
    """
    kept: dict[str, Kept] = {}
    before: Tensor | None = None  # (units of the layer before,) bool: which of them the task has
    for name, offer in offers.items():
        if len(offer.shape) == 1:  # a bias goes with its weight
            continue
        units, fan = offer.shape[0], offer.numel // offer.shape[0]
        if before is None:
            columns = torch.arange(fan, device=offer.positions.device)
        else:  # one of the layer before feeds as many inputs as it has kernel entries here, or places behind a Flatten
            width = fan // len(before)
            columns = (before.nonzero() * width + torch.arange(width, device=before.device)).flatten()
        score = _scattered(offer).view(units, fan)[:, columns].sum(1)  # -inf where an entry is not on offer
        bias = offers.get(f"{name.removesuffix('weight')}bias")
        if bias is not None:
            score = score + _scattered(bias).to(score)
        asked, free = units if offer.is_output else entries(units, offer.density), int((score > -math.inf).sum())
        if asked > free:
            raise CapacityError(name, asked, free, units, "units")
        chosen = top(score, asked)
        kept[name] = Kept((chosen[:, None] * fan + columns).flatten(), asked)
        if bias is not None:
            kept[bias.name] = Kept(chosen, asked)
        before = torch.zeros(units, dtype=torch.bool, device=chosen.device).index_fill_(0, chosen, True)
    return kept


def released_percentile(offers: Mapping[str, Offer]) -> dict[str, Kept]:
    """``score >= percentile`` as released, bug for bug: entries owned once before count as score 0, and when the
    percentile is 0 the task gets *every* entry, other tasks' too.
    """
    kept = {}
    for name, offer in offers.items():
        scores = offer.scores.masked_fill(offer.owners == 1, 0).cpu().numpy()  # == 1, not >= 1, is the release's test
        above = scores >= np.percentile(scores, round(100 * (1 - offer.density), 9))
        kept[name] = Kept(torch.from_numpy(above.nonzero()[0]).to(offer.positions.device))
    return kept


RULES: dict[str, Rule] = {
    "largest": Rule(largest),
    "even_outputs": Rule(even_outputs),
    "constant_fan_in": Rule(constant_fan_in),
    "whole_units": Rule(whole_units, reads=False, in_a_row=True),
    "released_percentile": Rule(released_percentile, reads=False, taken=True),
}
"""Name -> rule, for ``rule=`` of :func:`~msnlib.allocate` and :func:`~msnlib.prune`."""


def as_rule(rule: str | Rule | Choose) -> Rule:
    """The rule of this name, the rule itself, or one around a function of the caller's own.

    Raises:
        ValueError: neither.
    """
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, str) and rule in RULES:
        return RULES[rule]
    if not callable(rule):
        raise ValueError(f"rule {rule!r} is not one of {', '.join(RULES)}, nor a function of offers")
    return Rule(rule)


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


def check_density(density: Any, name: str = "") -> None:
    """Raise ValueError unless 0 < density <= 1."""
    if isinstance(density, bool) or not isinstance(density, Real) or not 0 < density <= 1:
        where = f"{name}: " if name else ""
        raise ValueError(f"{where}density {density!r} must be in 0 < density <= 1 (the share of weights a task keeps)")


def budget(density: Density, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Name of tensor -> its density, from one for all, one for each by name, or a function of name and shape.

    Raises:
        ValueError: a density out of range, or names that are not those of the tensors.
    """
    if callable(density):
        found = {name: density(name, tuple(shape)) for name, shape in shapes.items()}
    elif isinstance(density, Mapping):
        if wrong := sorted(density.keys() ^ shapes.keys()):
            raise ValueError(f"density must name each of {', '.join(shapes)}, and no other; wrong: {', '.join(wrong)}")
        found = {name: density[name] for name in shapes}
    else:
        check_density(density)
        found = dict.fromkeys(shapes, density)
    for name, one in found.items():
        check_density(one, name)
    return found


def erk(tensors: Mapping[str, Any], density: float, most: float = 1.0) -> dict[str, float]:
    """A budget by layer: small tensors keep a larger share (Erdos-Renyi-Kernel: Evci et al. 2020, arXiv 1911.11134).

    The density of a weight of shape (out, in, \\*kernel) is proportional to the sum of its sizes over their product;
    all weights together keep ``density`` of their entries. Biases keep ``density``.

    Args:
        tensors: name -> anything with a ``shape``: ``shared_tensors(net, task)``, or a state dict.
        density: of all weights together.
        most: the largest a tensor may keep; ``1 / T`` leaves room for T tasks. What it cuts goes to the others.

    Raises:
        ValueError: a density out of range, or above ``most``.

    Example:
        >>> erk({"wide": torch.ones(100, 100), "head": torch.ones(10, 100)}, 0.1)
        {'wide': 0.0709..., 'head': 0.3903...}
    """
    check_density(density)
    check_density(most)
    if density > most:
        raise ValueError(f"density {density!r} is above most, {most!r}")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    share = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items() if len(shape) > 1}
    full: set[str] = set()
    while True:
        rest = density * sum(math.prod(shapes[n]) for n in share) - most * sum(math.prod(shapes[n]) for n in full)
        scale = rest / (sum(share[n] * math.prod(shapes[n]) for n in share if n not in full) or 1)
        over = {n for n in share if n not in full and scale * share[n] > most}
        if not over:
            break
        full |= over
    found = {n: most if n in full else scale * share[n] for n in share}
    return {name: found.get(name, density) for name in shapes}


def _scattered(offer: Offer) -> Tensor:
    """(n,): the score of every entry, -inf where it is not on offer."""
    full = offer.scores.new_full((offer.numel,), -math.inf)
    return full.index_copy_(0, offer.positions, offer.scores)


def check_method(method: str) -> None:
    """Refuse a saliency that there is not."""
    _check_choice("method", method, METHODS)


def check_how(reads: str, init: str, rule: Rule) -> None:
    """Refuse a way to allocate that no task could take."""
    _check_choice("reads", reads, READS)
    _check_choice("init", init, INITS)
    if reads != "none" and not rule.reads:
        raise ValueError(f"rule {rule.name!r} goes with reads='none'")


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} {value!r} is not one of {', '.join(allowed)}")
