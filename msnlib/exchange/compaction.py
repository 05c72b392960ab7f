"""Smaller equals of plain torch networks: layers in a row made compact, or with sparse weights."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from msnlib.products import CSR, MANY, OWN_MM

ELEMENTWISE = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh)


def leaves(module: nn.Module) -> list[nn.Module]:
    return [leaf for child in module for leaf in leaves(child)] if type(module) is nn.Sequential else [module]


def _layers(row: list[nn.Module]) -> list[int]:
    return [i for i, module in enumerate(row) if isinstance(module, nn.Linear | nn.Conv2d)]


def check_row(row: list[nn.Module], format: str) -> None:
    """Refuse what is not layers in a row, each taking the units or channels of the one before it."""
    refusal = f"format {format!r} is for networks of msnlib's builders, layers in a row: "
    known = (nn.Linear, nn.Conv2d, nn.MaxPool2d, nn.Flatten, nn.Unflatten, nn.Embedding, *ELEMENTWISE)
    for module in row:
        if type(module) not in known or getattr(module, "groups", 1) != 1:
            raise ValueError(f"{refusal}it cannot have {' '.join(str(module).split())}")
    for i, j in pairwise(_layers(row)):
        passed = [m for m in row[i + 1 : j] if type(m) not in ELEMENTWISE]
        kinds, takes = {type(m) for m in passed}, row[j].weight.shape[1]
        if isinstance(row[i], nn.Linear):
            fits = isinstance(row[j], nn.Linear) and not kinds and takes == row[i].out_features
        elif isinstance(row[j], nn.Linear):
            fits = nn.Flatten in kinds and kinds <= {nn.Flatten, nn.MaxPool2d} and takes % row[i].out_channels == 0
            fits &= all((m.start_dim, m.end_dim) == (1, -1) for m in passed if isinstance(m, nn.Flatten))
        else:
            fits = kinds <= {nn.MaxPool2d} and takes == row[i].out_channels
        if not fits:
            raise ValueError(f"{refusal}{row[j]} does not take the units of {row[i]}")


@torch.no_grad()
def compact_row(row: list[nn.Module]) -> None:
    """Fold constant units into the layer behind them, drop those that feed nothing; in place.

    Forwards first, then backwards, leaves nothing to do: folding makes constants only further on, and dropping leaves
    the units that stay with the inputs they have.
    """
    behind = list(pairwise(_layers(row)))
    for i, j in behind:
        layer, after = row[i], row[j]
        constant = (layer.weight == 0).flatten(1).all(1)
        level = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.clone()
        for module in row[i + 1 : j]:
            if type(module) in ELEMENTWISE:
                level = module(level)
        if isinstance(after, nn.Conv2d):
            constant &= level == 0  # another constant image meets the zeros of the padding at its border
        weight = _by_unit(after, len(level))
        folded = (weight[:, constant].double().sum(2) @ level[constant].double()).to(weight)
        weight[:, constant] = 0
        bias = after.bias if after.bias is not None or not folded.any() else torch.zeros_like(folded)
        _fill(after, weight.view(after.weight.shape), bias if bias is None else bias + folded)
    for i, j in reversed(behind):
        layer, after = row[i], row[j]
        weight = _by_unit(after, len(layer.weight))
        feeds = (weight != 0).any(2).any(0)
        if not feeds.any():  # torch has no convolution without channels: one stays, without inputs
            feeds[0] = True
            nn.init.zeros_(layer.weight)
        _fill(layer, layer.weight[feeds], None if layer.bias is None else layer.bias[feeds])
        kernel = after.weight.shape[2:]
        _fill(after, weight[:, feeds].reshape(len(weight), -1, *kernel), after.bias)


def _by_unit(layer: nn.Module, units: int) -> Tensor:
    """A copy of the layer's weight, (outputs, units of the layer before, kernel entries or places behind a Flatten)."""
    return layer.weight.detach().clone(memory_format=torch.contiguous_format).view(len(layer.weight), units, -1)


def _fill(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight)
    layer.bias = None if bias is None else nn.Parameter(bias)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    else:
        layer.out_channels, layer.in_channels = weight.shape[:2]


def sparse_row(row: list[nn.Module], batch_size: int) -> fx.GraphModule:
    """The row with sparse weights and, between them, examples in columns: torch is fast at sparse times dense alone.

    The parts of a sparse weight are parameters, put together in every call: torch cannot copy a sparse parameter. They
    hold indices in int32, which takes less memory to read, and stand at the root, where they are found sooner.
    """
    root, graph = nn.Module(), fx.Graph()
    x = graph.placeholder("input")
    linear = [i for i, module in enumerate(row) if isinstance(module, nn.Linear)]
    for i, module in enumerate(row):
        if i == linear[0]:
            x = graph.call_method("contiguous", (graph.call_method("t", (x,)),))
        if i in linear:
            for name, tensor in _sparse(module).items():
                root.register_parameter(f"{name}_{i}", nn.Parameter(tensor, requires_grad=False))
            rows, columns, values, bias = (graph.get_attr(f"{n}_{i}") for n in ("rows", "columns", "values", "bias"))
            placed = {"dtype": module.weight.dtype, "device": module.weight.device}
            size = tuple(module.weight.shape)
            weight = graph.call_function(CSR, (rows, columns, values, size), placed)
            if batch_size < MANY:
                x = graph.call_function(torch.addmm, (bias, weight, x))
            else:
                x = graph.call_method("add_", (graph.call_function(OWN_MM, (weight, x, "sum")), bias))
        elif isinstance(module, nn.ReLU) and i - 1 in linear:
            x = graph.call_function(torch.relu_, (x,))  # of a product that nobody else sees
        else:
            root.add_module(str(i), module)
            x = graph.call_module(str(i), (x,))
        if i == linear[-1]:
            x = graph.call_method("contiguous", (graph.call_method("t", (x,)),))
    graph.output(x)
    return fx.GraphModule(root, graph, "Subnetwork")


def _sparse(layer: nn.Linear) -> dict[str, Tensor]:
    weight = layer.weight.detach()
    kept = weight != 0
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    return {
        "rows": nn.functional.pad(kept.sum(1).cumsum(0), (1, 0)).int(),
        "columns": kept.nonzero()[:, 1].int(),
        "values": weight[kept],
        "bias": bias[:, None].clone(),
    }
