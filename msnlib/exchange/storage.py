"""Networks in files: save, load and inspect (safetensors, positions in a compact code, readable metadata)."""

from __future__ import annotations

import copy
import hashlib
import json
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
from msnlib.layers import Subnetwork
from msnlib.networks import BUILDERS, MultitaskNetwork
from msnlib.subnetworks import shared_tensors, tasks

FORMAT = 2  # 1, of msnlib 0.1.0, has positions as int64 and one checksum over everything


def save(net: nn.Module, path: str | os.PathLike) -> None:
    """Write a network, all its tasks included, to one safetensors file; atomically, and never with pickle.

    Values are written as they are, positions in :func:`encode`'s few bits each: the file has at most 1.05 times the
    bytes of the values and the entropy of the positions, headers apart (:func:`inspect` shows both). The header holds
    readable JSON under ``msnlib``: format, how to rebuild the network, and per task its entries.

    Raises:
        OSError: the file cannot be written; an older one at that path is untouched.
    """
    # Cloned, because safetensors refuses what a module under two names shares with itself.
    tensors = {n: t.detach().clone(memory_format=torch.contiguous_format) for n, t in net.state_dict().items()}
    for name, sub in net.named_modules(remove_duplicate=False):
        if isinstance(sub, Subnetwork):
            shape = tensors[f"{name.rpartition('.')[0]}._extra_state"].tolist()
            for kind, code in _code(tensors.pop(f"{name}.positions").cpu().numpy(), shape).items():
                tensors[f"{name}.positions:{kind}"] = torch.from_numpy(code)
    described = json.dumps(_describe(net))
    where = _digest(described, {n: t for n, t in tensors.items() if _structural(n)})
    whole = _digest(where, {n: t for n, t in tensors.items() if not _structural(n)})
    with replacing(path) as partial:
        save_file(tensors, partial, {"msnlib": described, "sha256_positions": where, "sha256": whole})


def load(path: str | os.PathLike, net: nn.Module | None = None) -> nn.Module:
    """Read a network written by :func:`save`, of this version or an older one.

    Args:
        path: the file.
        net: for networks not made by a builder of msnlib: a module of the same structure, filled and returned. Tasks
            it holds are replaced by the file's. After an error it is what it was.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut, altered or foreign file, or one that needs ``net``; in one line.
    """
    path = Path(path)
    metadata, state = _read(path)
    state = _with_positions(path, state)
    given, net = net, net if net is not None else _rebuild(path, metadata)
    held = [tensor.like for tensor in shared_tensors(net).values()] + list(net.state_dict().values())
    if foreign := {t.dtype for t in state.values() if t.is_floating_point()} - {t.dtype for t in held}:
        raise ValueError(f"{path}: does not fit the network (it has no tensors of {', '.join(map(str, foreign))})")
    try:
        if given is not None:
            copy.deepcopy(given).load_state_dict(state)  # torch fills what fits before it says what does not
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit the network ({one_line(error)})") from None
    return net


def inspect(path: str | os.PathLike) -> dict[str, Any]:
    """What a file of :func:`save` holds; reads its header and positions, not its values.

    Returns:
        - ``format``; ``network``: how to rebuild it, None if no builder of msnlib made it.
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
    with open(path, "rb") as file:
        stored = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    stored.pop("__metadata__")
    size = {name: one["data_offsets"][1] - one["data_offsets"][0] for name, one in stored.items()}
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
    where = _with_positions(path, state)
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
    """Ascending positions, (k,) int64 -> uint8: the gaps between them in the Golomb-Rice code.

    A gap is written as a quotient of its own number of bits, in unary, and a remainder of r bits. Whatever the pattern,
    that costs at most 4 % more than the entropy of random positions of the same density below one half: 4.76 bits
    instead of 4.69 at density 0.1. Layout: r in one byte, k in eight, all remainders bit by bit, all quotients.
    """
    gaps = np.diff(positions, prepend=-1) - 1
    r = min(range(max(1, int(gaps.max(initial=0)).bit_length())), key=lambda r: r * len(gaps) + int((gaps >> r).sum()))
    ends = np.cumsum((gaps >> r) + 1)
    unary = np.zeros(ends[-1] if len(ends) else 0, np.uint8)
    unary[ends - 1] = 1
    remainders = [(gaps >> bit & 1).astype(np.uint8) for bit in range(r)]
    head = np.frombuffer(bytes([r]) + len(gaps).to_bytes(8, "little"), np.uint8)
    return np.concatenate([head, np.packbits(np.concatenate([*remainders, unary]))])


def decode(code: np.ndarray) -> np.ndarray:
    """What :func:`encode` was given.

    Raises:
        ValueError: no code of :func:`encode`.
    """
    r, count = int(code[0]), int.from_bytes(code[1:9].tobytes(), "little")
    bits = np.unpackbits(code[9:])
    ends = np.flatnonzero(bits[r * count :])
    if len(bits) < r * count or len(ends) != count:
        raise ValueError("no code of positions")
    gaps = np.diff(ends, prepend=-1) - 1 << r
    for bit in range(r):
        gaps += bits[bit * count : (bit + 1) * count].astype(np.int64) << bit
    return np.cumsum(gaps + 1) - 1


def _read(path: Path, values: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a file, checked; without ``values`` the structural ones alone."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # Before format 2 there was one checksum, over everything.
            chosen = [n for n in file.keys() if values or "sha256_positions" not in header or _structural(n)]
            state = {name: file.get_tensor(name) for name in chosen}
    except SafetensorError as error:
        raise ValueError(f"{path}: cut short or not a safetensors file ({one_line(error)})") from None
    if not {"msnlib", "sha256"} <= header.keys():
        raise ValueError(f"{path}: a safetensors file, but not one that msnlib saved")
    described, where = header["msnlib"], header.get("sha256_positions")
    first = {n: t for n, t in state.items() if where is not None and _structural(n)}
    rest = {n: t for n, t in state.items() if n not in first}
    intact = where is None or where == _digest(described, first)
    if values or where is None:
        intact &= header["sha256"] == _digest(described if where is None else where, rest)
    if not intact:
        raise ValueError(f"{path}: the contents were altered after msnlib saved them (checksum differs)")
    metadata = json.loads(described)
    if metadata.get("format") not in range(1, FORMAT + 1):
        raise ValueError(f"{path}: format {metadata.get('format')!r}; this msnlib reads formats up to {FORMAT}")
    return metadata, state


def _structural(name: str) -> bool:
    """Whether a tensor of a file says where entries are, not what they are."""
    return ":" in name or name.endswith("_extra_state")


def _code(positions: np.ndarray, shape: list[int]) -> dict[str, np.ndarray]:
    """Kind -> code of a subnetwork's positions: of its rows and columns if it owns whole units, else of their gaps."""
    block = _block(positions, shape)
    return {"gaps": encode(positions)} if block is None else {"rows": encode(block[0]), "columns": encode(block[1])}


def _block(positions: np.ndarray, shape: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and columns, if the positions are all the crossings of some, as those of whole units are."""
    if len(shape) < 2 or not len(positions):
        return None
    row, column = np.divmod(positions, math.prod(shape[1:]))
    rows, columns = np.unique(row), column[row == row[0]]
    return (rows, columns) if np.array_equal(positions, _crossings(rows, columns, shape)) else None


def _crossings(rows: np.ndarray, columns: np.ndarray, shape: list[int]) -> np.ndarray:
    return (rows[:, None] * math.prod(shape[1:]) + columns).ravel()


def _with_positions(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with positions as :class:`~msnlib.layers.Subnetwork` has them instead of their codes."""
    codes: dict[str, dict[str, np.ndarray]] = {}
    found = {}
    for name, tensor in state.items():
        owner, _, kind = name.rpartition(".positions:")
        if owner:
            codes.setdefault(owner, {})[kind] = decode(tensor.numpy())
        else:
            found[name] = tensor
    for owner, parts in codes.items():
        shape = state[f"{owner.rpartition('.')[0]}._extra_state"].tolist()
        positions = parts["gaps"] if "gaps" in parts else _crossings(parts["rows"], parts["columns"], shape)
        found[f"{owner}.positions"] = torch.from_numpy(positions)
    return found


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
