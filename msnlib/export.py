"""Tasks out of msnlib: extract (plain torch: as they are, made smaller, or sparse) and export_onnx."""

from __future__ import annotations

import copy
import os
import time
import warnings
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from msnlib.conversion import is_converted, plain
from msnlib.files import replacing
from msnlib.layers import MaskedConv2d, MaskedLinear, PerTask, check_known
from msnlib.networks import MultitaskNetwork
from msnlib.products import CSR, MANY, OWN_MM
from msnlib.seeding import stream
from msnlib.storage import one_line

FORMATS = ("dense", "compact", "csr", "auto")
ELEMENTWISE = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh)


def extract(net: nn.Module, task: str, format: str = "dense", batch_size: int = 32) -> nn.Module:
    """One task as plain torch; nothing in it needs msnlib.

    Args:
        net: any module with masked layers; for formats other than ``"dense"`` a network of msnlib's builders.
        task: its name.
        format: what the task's layers become.

            - ``"dense"``: the modules of ``torch.nn`` they are in shape, with the same outputs bit for bit. A network
              of msnlib's builders becomes a ``torch.nn.Sequential``; in any other module the masked layers are
              replaced and the rest is copied.
            - ``"compact"``: smaller ones with the same outputs up to rounding. Units without a kept input give a
              constant, which moves into the biases behind them; units that feed nothing are dropped.
            - ``"csr"``: the compact layers, linear ones with sparse weights, as a ``torch.fx.GraphModule``: for
              inference on a CPU, in the dtype and on the device it was extracted in.
            - ``"auto"``: whichever of the three is fastest here at ``batch_size``, ``"dense"`` unless another takes
              5 % less time.
        batch_size: examples in the batches to come, of which ``"auto"`` measures one and for which ``"csr"`` is built;
            others are computed as well.

    Raises:
        ValueError: unknown task or format, a batch without examples, or a network that the format is not for.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size {batch_size!r} must be a whole number of at least 1")
    check_known(net, task)
    if format == "dense":
        return _dense(net, task)
    if not isinstance(net, MultitaskNetwork):
        raise ValueError(f"format {format!r} is for networks of msnlib's builders: not {type(net).__name__}")
    dense = _dense(net, task)
    row = [copy.deepcopy(leaf) for leaf in _leaves(dense)]
    _check_row(row, format)
    _compact(row)
    if format == "csr":
        return _csr(row, batch_size).train(dense.training)
    compact = nn.Sequential(*row).train(dense.training)
    if format == "compact":
        return compact
    csr = _csr(row, batch_size).train(dense.training)
    return _fastest([dense, compact, csr], example_of(net, task, batch_size))


def export_onnx(
    net: nn.Module, task: str, path: str | os.PathLike, example: Tensor | None = None, format: str = "dense"
) -> None:
    """Write one task as an ONNX file, to be run without PyTorch: ``"input"`` (N, \\*inputs) -> ``"output"``, any N.

    Where onnxruntime is installed, it runs the file on batches of two sizes, and its outputs are compared with torch's.
    The network is exported in evaluation mode, all weights included, and the file written atomically.

    Args:
        net: any module with masked layers.
        task: its name.
        path: the file.
        example: a batch of inputs; msnlib's builders need none.
        format: ``"dense"`` or ``"compact"``, as in :func:`extract`.

    Raises:
        ModuleNotFoundError: onnx is not installed.
        ValueError: unknown task or format, no example where one is needed.
        RuntimeError: torch cannot export the task, or onnxruntime gives other outputs; in one line.
        OSError: the file cannot be written. An older one at that path is untouched in every case.
    """
    if format not in ("dense", "compact"):
        raise ValueError(f"format {format!r} is not one of dense, compact")
    check_known(net, task)
    if find_spec("onnx") is None:
        raise ModuleNotFoundError("onnx is not installed: pip install 'msnlib[export]'", name="onnx")
    example = example_of(net, task, 2) if example is None else example
    module = extract(net, task, format).eval()
    with replacing(path) as partial:
        try:
            with warnings.catch_warnings():
                # The exporter by tracing: the one by torch.export needs onnxscript and takes a hundred times as long.
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    module,
                    (example,),
                    str(partial),
                    dynamo=False,
                    input_names=["input"],
                    output_names=["output"],
                    dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
                )
        except Exception as error:  # whatever a user's module makes the tracer raise
            raise RuntimeError(f"{path}: torch cannot export task {task!r} to ONNX ({one_line(error)})") from error
        _verify(module, partial, example, Path(path))


def example_of(net: nn.Module, task: str, count: int) -> Tensor:
    """Random inputs, always the same, of the shape that the network declares for a task: (count, \\*inputs).

    Raises:
        ValueError: the network declares no inputs.
    """
    declared = getattr(net, "declared", {}).get(task)
    if declared is None:
        raise ValueError(f"{type(net).__name__} does not say what task {task!r} takes: give example=, a batch of it")
    shape, vocabulary, generator = (count, *declared["inputs"]), declared["vocabulary"], stream("example", seed=0)
    like = next(net.parameters())
    if vocabulary is not None:
        return torch.randint(vocabulary, shape, generator=generator).to(like.device)
    return torch.rand(shape, generator=generator).to(like)


def _dense(net: nn.Module, task: str) -> nn.Module:
    copies: dict[int, nn.Module] = {}
    for module in reversed(list(net.modules())):  # inner modules first, so that outer ones take in their plain copies
        if isinstance(module, MaskedLinear | MaskedConv2d):
            if task in module.weight:
                copies[id(module)] = module.plain(task)
        elif is_converted(module):
            copies[id(module)] = copy.deepcopy(plain(module, task), copies)
        elif isinstance(module, PerTask):
            if task in module:
                copies[id(module)] = copy.deepcopy(module[task], copies)
        elif isinstance(module, MultitaskNetwork):
            copies[id(module)] = copy.deepcopy(module.plain(task), copies)
    return copy.deepcopy(net, copies)


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [leaf for child in module for leaf in _leaves(child)] if type(module) is nn.Sequential else [module]


def _layers(row: list[nn.Module]) -> list[int]:
    return [i for i, module in enumerate(row) if isinstance(module, nn.Linear | nn.Conv2d)]


def _check_row(row: list[nn.Module], format: str) -> None:
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
def _compact(row: list[nn.Module]) -> None:
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


def _csr(row: list[nn.Module], batch_size: int) -> fx.GraphModule:
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


@torch.no_grad()
def _fastest(modules: list[nn.Module], x: Tensor, rounds: int = 15) -> nn.Module:
    """The module with the lowest median time, interleaved; the first unless another takes 5 % less time."""
    seconds: list[list[float]] = [[] for _ in modules]
    for counts in [False] * 3 + [True] * rounds:
        for module, taken in zip(modules, seconds, strict=True):
            start = time.perf_counter()
            module(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            if counts:
                taken.append(time.perf_counter() - start)
    medians = [sorted(taken)[rounds // 2] for taken in seconds]
    best = min(range(len(modules)), key=medians.__getitem__)
    return modules[best if medians[best] < 0.95 * medians[0] else 0]


def _verify(module: nn.Module, file: Path, example: Tensor, path: Path) -> None:
    """Compare the file with torch, where onnxruntime is installed; ``path`` is what errors call the file."""
    if find_spec("onnxruntime") is None:
        return
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # errors alone
    for x in (example[:1], torch.cat([example, example])):
        with torch.no_grad():
            expected = module(x).cpu()
        try:
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            given = torch.from_numpy(session.run(None, {"input": x.cpu().numpy()})[0])
        except Exception as error:
            raise RuntimeError(f"{path}: onnxruntime cannot run what torch exported ({one_line(error)})") from error
        allowed = 1e3 * torch.finfo(expected.dtype).eps * max(1.0, float(expected.abs().max()))
        difference = float((given - expected).abs().max()) if given.shape == expected.shape else float("inf")
        if not difference <= allowed:
            message = f"{path}: outputs of onnxruntime and torch differ by up to {difference:.2g}, over {allowed:.2g}"
            raise RuntimeError(message)
