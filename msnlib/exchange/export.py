"""Tasks out of msnlib: extract (plain torch: as they are, made smaller, or sparse) and export_onnx."""

from __future__ import annotations

import copy
import ctypes
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from msnlib.exchange.compaction import check_row, compact_row, leaves, sparse_row
from msnlib.exchange.conversion import is_converted, plain
from msnlib.files import one_line, replacing
from msnlib.isolation import load_freely
from msnlib.layers import MaskedConv2d, MaskedLinear
from msnlib.networks import MultitaskNetwork, behaviour
from msnlib.seeding import stream
from msnlib.subnetworks import check_known, walk
from msnlib.switches import PerTask
from msnlib.task import is_count

FORMATS = ("dense", "compact", "csr", "auto")


def extract(net: nn.Module, task: str, format: str = "dense", batch_size: int = 32) -> nn.Module:
    """One task as plain torch; nothing in it needs msnlib.

    Args:
        net: any module with masked layers; for formats other than ``"dense"`` a network of msnlib's builders.
        task: its name.
        format: what the task's layers become.

            - ``"dense"``: the modules of ``torch.nn`` they are in shape, with the same weights and outputs bit for bit.
              Outputs agree to 1e-5 of the largest (float32) where the network itself takes sums in another order:
              :func:`~msnlib.conv_network` lays images out channels last, and linear layers may leave out zeros
              (:func:`~msnlib.sparse_products`). A network of msnlib's builders becomes a ``torch.nn.Sequential``; in
              any other module the masked layers are replaced and the rest is copied.
            - ``"compact"``: smaller ones with the same outputs up to rounding. Units without a kept input give a
              constant, which moves into the biases behind them; units that feed nothing are dropped.
            - ``"csr"``: the compact layers, linear ones with sparse weights, as a ``torch.fx.GraphModule``: for
              inference on a CPU, in the dtype and on the device it was extracted in.
            - ``"auto"``: whichever of the three (on a GPU or in half precision, of the first two) is fastest here at
              ``batch_size``, ``"dense"`` unless another takes 5 % less time.
        batch_size: examples in the batches to come, of which ``"auto"`` measures one and for which ``"csr"`` is built;
            others are computed as well.

    Raises:
        ValueError: unknown task or format, a batch without examples, a network that the format is not for, or one with
            a masked layer, or of msnlib's builders, that has hooks or a ``forward`` of its own: they would be lost. So
            would those of any module, in formats other than ``"dense"``.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if not is_count(batch_size):
        raise ValueError(f"batch_size {batch_size!r} must be a whole number of at least 1")
    check_known(net, task)
    if format == "dense":
        return _dense(net, task)
    if not isinstance(net, MultitaskNetwork):
        raise ValueError(f"format {format!r} is for networks of msnlib's builders: not {type(net).__name__}")
    dense = _dense(net, task)
    for name, module, _ in walk(net, task):
        if addition := behaviour(module):
            raise ValueError(f"{name} has {addition}, which format {format!r} would not have: remove it")
    row = [copy.deepcopy(leaf) for leaf in leaves(dense)]
    check_row(row, format)
    compact_row(row)
    plain = next(dense.parameters()).dtype in (torch.float32, torch.float64)
    if format == "csr":
        if not plain:
            raise ValueError(f"format 'csr' is for float32 and float64, not {next(dense.parameters()).dtype}")
        return sparse_row(row, batch_size).train(dense.training)
    compact = nn.Sequential(*row).train(dense.training)
    if format == "compact":
        return compact
    example = example_of(net, task, batch_size)
    if example.device.type != "cpu" or not plain:  # for which torch has not all products of "csr"
        return _fastest([dense, compact], example)
    csr = sparse_row(row, batch_size).train(dense.training)
    return _fastest([dense, compact, csr], example)


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
            with _quiet(), warnings.catch_warnings():
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on the standard output inside the block, from C++ either: the exporter prints graphs when it fails."""
    c = ctypes.CDLL(None)
    sys.stdout.flush()
    c.fflush(None)
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        c.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


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
    # inner modules first, so that outer ones take in their plain copies
    for name, module in reversed(list(net.named_modules())):
        masked = isinstance(module, MaskedLinear | MaskedConv2d)
        if (masked and task not in module.weight) or (isinstance(module, PerTask) and task not in module):
            continue
        replaced = masked or isinstance(module, PerTask | MultitaskNetwork)
        parts = {name: module} if replaced else {}
        parts |= {f"{name}.{part}".lstrip("."): getattr(module, part) for part in ("weight", "bias") if masked}
        for part, lost in parts.items():
            if lost is not None and (addition := behaviour(lost)):
                raise ValueError(
                    f"{part or 'the network'} has {addition}, which its plain copy would not have: remove it"
                )
        if masked:
            copies[id(module)] = module.plain(task)
        elif is_converted(module):
            copies[id(module)] = copy.deepcopy(plain(module, task), copies)
        elif isinstance(module, PerTask):
            copies[id(module)] = copy.deepcopy(module[task], copies)
        elif isinstance(module, MultitaskNetwork):
            copies[id(module)] = copy.deepcopy(module.plain(task), copies)
    return load_freely(copy.deepcopy(net, copies))


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
