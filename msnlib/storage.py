"""Networks in files and out of msnlib: save and load (safetensors and readable metadata), extract (plain torch)."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from msnlib.convert import is_converted, plain
from msnlib.layers import MaskedConv2d, MaskedLinear, PerTask, check_known, shared_tensors, tasks
from msnlib.networks import BUILDERS, MultitaskNetwork

FORMAT = 1


def extract(net: nn.Module, task: str) -> nn.Module:
    """One task as plain ``torch.nn`` modules with the same outputs; nothing in it needs msnlib.

    A network of msnlib's builders becomes a ``torch.nn.Sequential``; in any other module the masked layers are
    replaced and the rest is copied.

    Raises:
        ValueError: the network holds no such task.
    """
    check_known(net, task)
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


def save(net: nn.Module, path: str | os.PathLike) -> None:
    """Write a network, all its tasks included, to one safetensors file; atomically, and never with pickle.

    The header holds readable JSON under ``msnlib``: format, how to rebuild the network, and per task its entries.

    Raises:
        OSError: the file cannot be written; an older one at that path is untouched.
    """
    path = Path(path)
    # Cloned, because safetensors refuses what a module under two names shares with itself.
    tensors = {n: t.detach().clone(memory_format=torch.contiguous_format) for n, t in net.state_dict().items()}
    described = json.dumps(_describe(net))
    metadata = {"msnlib": described, "sha256": _digest(described, tensors)}
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, partial, metadata)
        os.chmod(partial, 0o644)  # mkstemp's 0600 would hide it from others
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike, net: nn.Module | None = None) -> nn.Module:
    """Read a network written by :func:`save`.

    Args:
        path: the file.
        net: for networks not made by a builder of msnlib: a module of the same structure, filled and returned. Tasks
            it holds are replaced by the file's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut, altered or foreign file, or one that needs ``net``; in one line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: cut short or not a safetensors file ({_line(error)})") from None
    if not {"msnlib", "sha256"} <= header.keys():
        raise ValueError(f"{path}: a safetensors file, but not one that msnlib saved")
    if header["sha256"] != _digest(header["msnlib"], state):
        raise ValueError(f"{path}: the contents were altered after msnlib saved them (checksum differs)")
    metadata = json.loads(header["msnlib"])
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: format {metadata.get('format')!r}; this msnlib reads format {FORMAT}")
    if net is None:
        net = _rebuild(path, metadata)
    held = [tensor.like for tensor in shared_tensors(net).values()] + list(net.state_dict().values())
    if foreign := {t.dtype for t in state.values() if t.is_floating_point()} - {t.dtype for t in held}:
        raise ValueError(f"{path}: does not fit the network (it has no tensors of {', '.join(map(str, foreign))})")
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit the network ({_line(error)})") from None
    return net


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _digest(described: str, tensors: dict[str, Tensor]) -> str:
    """Checksum of the description and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(described.encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _describe(net: nn.Module) -> dict[str, Any]:
    found = {}
    for task in tasks(net):
        own = {name: t for name, t in shared_tensors(net, task).items() if task in t}
        entries, total = sum(len(t[task].positions) for t in own.values()), sum(t.numel() for t in own.values())
        reads = any(t[task].reads for t in own.values())
        found[task] = {"entries": entries, "density": round(entries / total, 6), "reads": "all" if reads else "none"}
    network = None
    if isinstance(net, MultitaskNetwork) and net.config:
        dtype = str(next(iter(shared_tensors(net).values())).like.dtype).removeprefix("torch.")
        network = {**net.config, "dtype": dtype, "declared": net.declared}
    return {"format": FORMAT, "network": network, "tasks": found}


def _rebuild(path: Path, metadata: dict[str, Any]) -> MultitaskNetwork:
    if not metadata.get("network"):
        raise ValueError(f"{path}: not made by a builder of msnlib; give load(path, net=...) a module of its structure")
    config = dict(metadata["network"])
    builder, dtype, declared = config.pop("builder"), config.pop("dtype"), config.pop("declared")
    if builder not in BUILDERS:
        raise ValueError(f"{path}: builder {builder!r} is not one of {', '.join(BUILDERS)}")
    net = BUILDERS[builder](**config)
    for name, task in declared.items():
        net.add_task(name, **task)
    return net.to(getattr(torch, dtype))
