"""Networks in files: save, load and inspect (safetensors, compressed positions, readable metadata)."""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from msnlib.files import one_line, replacing
from msnlib.isolation import load_whole
from msnlib.layers import Subnetwork
from msnlib.networks import BUILDERS, MultitaskNetwork, behaviour
from msnlib.products import Pattern
from msnlib.subnetworks import shared_tensors, tasks

FORMAT = 3
_CODE = ".positions:gaps"


def save(net: nn.Module, path: str | os.PathLike) -> None:
    """Write a network, all its tasks included, to one safetensors file; atomically, and never with pickle.

    Values are written as they are, positions compressed by :func:`encode`: the file has at most 1.05 times the bytes of
    the values and the entropy of the positions, headers apart (:func:`inspect` shows both). The header holds
    readable JSON under ``msnlib``: format, how to rebuild the network, and per task its entries. What is frozen is
    not in it, nor what later tasks of a converted network start from: both are as in the network it is loaded into.

    Raises:
        OSError: the file cannot be written; an older one at that path is untouched.
    """
    # Cloned, because safetensors refuses what a module under two names shares with itself.
    tensors = {n: t.detach().clone(memory_format=torch.contiguous_format) for n, t in net.state_dict().items()}
    for name, sub in net.named_modules(remove_duplicate=False):
        if isinstance(sub, Subnetwork):
            tensors[f"{name}{_CODE}"] = torch.from_numpy(encode(tensors.pop(f"{name}.positions").cpu().numpy()))
    described = json.dumps(_describe(net))
    where = _digest(described, {n: t for n, t in tensors.items() if _structural(n)})
    whole = _digest(where, {n: t for n, t in tensors.items() if not _structural(n)})
    try:
        with replacing(path) as partial:
            save_file(tensors, partial, {"msnlib": described, "sha256_positions": where, "sha256": whole})
    except SafetensorError as error:  # a full disk, for one
        raise OSError(f"{path} cannot be written ({one_line(error)})") from None


def load(path: str | os.PathLike, net: nn.Module | None = None) -> nn.Module:
    """Read a network written by :func:`save`.

    Args:
        path: the file.
        net: for networks not made by a builder of msnlib, or changed since: a module of the same structure, filled and
            returned. Tasks it holds are replaced by the file's. After an error it is what it was.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut, altered or foreign file, or one that needs ``net``; in one line.
    """
    path = Path(path)
    metadata, state = _read(path)
    state = _with_positions(state)
    net = _rebuild(path, metadata) if net is None else net
    held = [tensor.like for tensor in shared_tensors(net).values()] + list(net.state_dict().values())
    if foreign := {t.dtype for t in state.values() if t.is_floating_point()} - {t.dtype for t in held}:
        raise ValueError(f"{path}: does not fit the network (it has no tensors of {', '.join(map(str, foreign))})")
    try:
        load_whole(net)
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit the network ({one_line(error)})") from None
    return net


def inspect(path: str | os.PathLike) -> dict[str, Any]:
    """What a file of :func:`save` holds; reads its header and positions, not its values.

    Returns:
        - ``format``; ``network``: how to rebuild it, None if no builder of msnlib made it as it is.
        - ``tasks``: name -> entries, density, reads; in the order in which they were allocated.
        - ``overlap``: (task, task) -> how many entries both own; only pairs that share some.
        - ``bytes``: of the values, the positions, the tensors that are no shares (``own``: embeddings, norms), the rest
          (``header``), and of the whole ``file``.
        - ``bound``: bytes that no file can do without: values, own tensors, and the entropy of the positions, which is
          the logarithm of the number of ways to share out each tensor in the same counts (of a block of whole units, to
          choose its rows and columns).

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut, altered or foreign file, in one line; values are not checked.
    """
    path = Path(path)
    metadata, state = _read(path, values=False)
    with safe_open(path, framework="pt") as file:
        size = {name: _bytes(file.get_slice(name)) for name in file.keys()}
    parts = {"values": 0, "positions": 0, "own": 0}
    # What has values and an extra state, as its parent has (its shape).
    owners = {name.removesuffix(".values") for name in size if name.endswith(".values")}
    subnetworks = {o for o in owners if {f"{o}._extra_state", f"{o.rpartition('.')[0]}._extra_state"} <= size.keys()}
    for name, count in size.items():
        owner, _, what = name.rpartition(".")
        if owner in subnetworks and what != "_extra_state":
            parts["values" if what == "values" else "positions"] += count
        elif what != "_extra_state":
            parts["own"] += count
    parts["file"] = path.stat().st_size
    parts["header"] = 2 * parts["file"] - sum(parts.values())

    overlap: dict[tuple[str, str], int] = {}
    bits = 0.0
    order = list(metadata["tasks"])
    where = _with_positions(state)
    for tensor in sorted({name.rpartition(".")[0] for name in subnetworks}):
        shape = where[f"{tensor}._extra_state"].tolist()
        owned = {t: where[f"{tensor}.{t}.positions"].numpy() for t in order if f"{tensor}.{t}" in subnetworks}
        free = total = math.prod(shape)
        disjoint = True
        for one, other in combinations(owned, 2):
            if count := len(np.intersect1d(owned[one], owned[other], assume_unique=True)):
                overlap[one, other] = overlap.get((one, other), 0) + count
                disjoint = False
        for positions in owned.values():
            block = _block(positions, shape)
            if block is None:
                bits += _choices(free if disjoint else total, len(positions))
            else:
                bits += _choices(shape[0], len(block[0])) + _choices(total // shape[0], len(block[1]))
            free -= len(positions)
    bound = parts["values"] + parts["own"] + math.ceil(bits / 8)
    return {
        **{key: metadata[key] for key in ("format", "network", "tasks")},
        "overlap": overlap,
        "bytes": parts,
        "bound": bound,
    }


def encode(positions: np.ndarray) -> np.ndarray:
    """Ascending positions, (k,) int64 -> uint8: the gaps between them, compressed by lzma.

    A file of float32 values and random positions, of a density from 0.001 to 0.5, is at most 1.5 % larger than with the
    entropy of these positions. Layout: how many bytes a gap has, then raw LZMA2 of them, little-endian.
    """
    gaps = np.diff(positions, prepend=-1) - 1
    width = next(w for w in (1, 2, 4, 8) if gaps.max(initial=0) < 1 << 8 * w)
    code = lzma.compress(gaps.astype(f"<u{width}").tobytes(), lzma.FORMAT_RAW, filters=_filters(width))
    return np.frombuffer(bytes([width]) + code, np.uint8).copy()


def decode(code: np.ndarray) -> np.ndarray:
    """What :func:`encode` was given.

    Raises:
        ValueError: no code of :func:`encode`.
    """
    try:
        width = int(code[0])
        gaps = np.frombuffer(
            lzma.decompress(code[1:].tobytes(), lzma.FORMAT_RAW, filters=_filters(width)), f"<u{width}"
        )
    except (lzma.LZMAError, IndexError, OverflowError, TypeError, ValueError):
        raise ValueError("no code of positions") from None
    return np.cumsum(gaps.astype(np.int64) + 1) - 1


def _filters(width: int) -> list[dict[str, int]]:
    """What tells lzma that bytes come in groups: those of one gap are unlike each other."""
    place = width.bit_length() - 1
    return [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20, "lc": 0, "lp": place, "pb": place}]


def _bytes(slice: Any) -> int:
    """Bytes of a tensor of an open file, from its header."""
    shape = slice.get_shape()
    return math.prod(shape) * (slice[:0] if shape else slice[...]).element_size()


def _read(path: Path, values: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a file, checked; without ``values`` the structural ones alone."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            chosen = [n for n in file.keys() if values or _structural(n)]
            state = {name: file.get_tensor(name) for name in chosen}
    except SafetensorError as error:
        raise ValueError(f"{path}: cut short or not a safetensors file ({one_line(error)})") from None
    if not {"msnlib", "sha256_positions", "sha256"} <= header.keys():
        raise ValueError(f"{path}: a safetensors file, but not one that msnlib saved")
    described, where, whole = (header[key] for key in ("msnlib", "sha256_positions", "sha256"))
    rest = {n: t for n, t in state.items() if not _structural(n)}
    intact = where == _digest(described, {n: t for n, t in state.items() if _structural(n)})
    if not intact or (values and whole != _digest(where, rest)):
        raise ValueError(f"{path}: the contents were altered after msnlib saved them (checksum differs)")
    metadata = json.loads(described)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: format {metadata.get('format')!r}; this msnlib reads format {FORMAT}")
    return metadata, state


def _structural(name: str) -> bool:
    """Whether a tensor of a file says where entries are, not what they are."""
    return name.endswith((_CODE, "_extra_state"))


def _block(positions: np.ndarray, shape: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and columns, if the positions are all the crossings of some, as those of whole units are."""
    if len(shape) < 2 or not len(positions):
        return None
    row, column = np.divmod(positions, math.prod(shape[1:]))
    rows, columns = np.unique(row), column[row == row[0]]
    crossings = (rows[:, None] * math.prod(shape[1:]) + columns).ravel()
    return (rows, columns) if np.array_equal(positions, crossings) else None


def _with_positions(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with positions as :class:`~msnlib.layers.Subnetwork` has them instead of their codes."""
    coded = [name for name in state if name.endswith(_CODE)]
    found = {f"{n.removesuffix(_CODE)}.positions": torch.from_numpy(decode(state[n].numpy())) for n in coded}
    return {name: tensor for name, tensor in state.items() if name not in coded} | found


def _choices(n: int, k: int) -> float:
    """Bits that tell which k of n."""
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


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
        if _structure(_built(network)) != _structure(net):  # changed since: what is built anew would not be this one
            network = None
    return {"format": FORMAT, "network": network, "tasks": found}


def _structure(net: nn.Module) -> list[tuple[str, type, str, str | None]]:
    """All of a network but its tasks' entries."""
    parts = ((name, module) for name, module in net.named_modules() if not isinstance(module, Subnetwork | Pattern))
    return [(name, type(module), module.extra_repr(), behaviour(module)) for name, module in parts]


def _rebuild(path: Path, metadata: dict[str, Any]) -> MultitaskNetwork:
    if not metadata.get("network"):
        raise ValueError(
            f"{path}: not made by a builder of msnlib, or changed afterwards; "
            "give load(path, net=...) a module of its structure"
        )
    if (builder := metadata["network"]["builder"]) not in BUILDERS:
        raise ValueError(f"{path}: builder {builder!r} is not one of {', '.join(BUILDERS)}")
    return _built(metadata["network"])


def _built(network: dict[str, Any]) -> MultitaskNetwork:
    config = dict(network)
    builder, dtype, declared = config.pop("builder"), config.pop("dtype"), config.pop("declared")
    net = BUILDERS[builder](**config)
    for name, task in declared.items():
        net.add_task(name, **task)
    return net.to(getattr(torch, dtype))
