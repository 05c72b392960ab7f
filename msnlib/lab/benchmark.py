"""Arms measured against each other: each is a process of its own that does one training step when asked.

They are asked in turn, round by round: a machine that slows down for a while slows down all of them. So of each round
the *ratio* of two arms is what counts, and of the ratios the median.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from msnlib.allocation import DeadOutputWarning
from msnlib.lab.arms import BUILDERS, Built, Case, Data
from msnlib.layers import MaskedLinear
from msnlib.products import pays
from msnlib.seeding import seed_everything, stream
from msnlib.selection import entries
from msnlib.subnetworks import using


class Race(NamedTuple):
    """What was measured.

    Attributes:
        seconds: batch -> arm -> seconds of a step, one for each round.
        state: arm -> bytes that training holds from one step to the next, by kind.
        peaks: arm -> bytes by which its largest memory exceeds that of the imports, ``building`` and ``training``;
            None where the system does not say.
        profiles: (arm, batch) -> the operations that took most of a step: name, count, share of the time.
    """

    seconds: dict[int, dict[str, list[float]]]
    state: dict[str, dict[str, int]]
    peaks: dict[str, dict[str, int] | None]
    profiles: dict[tuple[str, int], list[tuple[str, int, float]]]


def race(
    arms: Mapping[str, Mapping[str, Any]],
    batches: Sequence[int],
    rounds: int,
    profiled: Iterable[tuple[str, int]] = (),
    **common: Any,
) -> Race:
    """Measure arms against each other.

    Args:
        arms: name -> what differs in its :class:`~msnlib.lab.arms.Case`.
        batches: examples of each task in a step.
        rounds: measured steps of every arm and batch; one more before them is thrown away.
        profiled: arms and batches of which to keep a profile.
        common: what all cases share.

    Raises:
        ValueError: no such builder.
        RuntimeError: an arm failed; the message names it and says how.
    """
    cases = {arm: Case(**{"examples": max(batches), **common, **own}) for arm, own in arms.items()}
    with ExitStack() as stack:
        running = {arm: stack.enter_context(_Process(arm, case)) for arm, case in cases.items()}
        for process in running.values():
            process.answer()  # it is built
        seconds: dict[int, dict[str, list[float]]] = {batch: {arm: [] for arm in arms} for batch in batches}
        for batch in batches:
            for number in range(1 + rounds):
                for arm, process in running.items():
                    time.sleep(0.01)  # threads of the arm before go on waiting for work for some milliseconds
                    taken = process.ask("step", batch)
                    if number:
                        seconds[batch][arm].append(taken)
        state = {arm: process.ask("state", batches[0]) for arm, process in running.items()}
        peaks = {arm: process.ask("peak", batches[0]) for arm, process in running.items()}
        profiles = {(arm, batch): running[arm].ask("profile", batch) for arm, batch in profiled}
    return Race(seconds, state, peaks, profiles)


def ratio(seconds: Mapping[str, Sequence[float]], slow: str, fast: str) -> tuple[float, float, float]:
    """How many times as fast one arm was as another: median over the rounds, lower and upper quartile."""
    found = np.array(seconds[slow]) / np.array(seconds[fast])
    low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
    return middle, low, high


def waiting(passive: bool) -> None:
    """Have the threads of arms sleep as soon as they wait (``passive``), or look for work for a while, as by default.

    For all arms of this process: call it before the first :func:`race`.
    """
    os.environ.pop("OMP_WAIT_POLICY", None)  # `msn run` sets it, for the sake of the runs beside it
    if passive:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


class _Process:
    """An arm that answers requests, one at a time."""

    def __init__(self, arm: str, case: Case):
        # A server process imports PyTorch once; every arm is a process that starts as a copy of it.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch._dynamo", __name__])
        self.arm = arm
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, case))
        self.process.start()
        there.close()

    def ask(self, request: str, batch: int) -> Any:
        self.connection.send((request, batch))
        return self.answer()

    def answer(self) -> Any:
        try:
            worked, answer = self.connection.recv()
        except EOFError:
            worked, answer = False, "its process ended"
        if not worked:
            raise RuntimeError(f"arm {self.arm!r}: {answer}")
        return answer

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()  # the end of its requests is the end of the process
        self.process.join()


def _serve(connection: Connection, case: Case) -> None:
    """Build the case's arm, then answer until the other end is closed."""
    warnings.simplefilter("ignore", DeadOutputWarning)  # data without a pattern, a network that learns nothing
    try:
        torch.set_num_threads(case.threads)
        seed_everything(case.seed)
        torch.set_default_device(case.device)
        before = _peak()
        built = BUILDERS[case.build](case)
        at_start = before, _peak()
        x = torch.rand(case.tasks, case.examples, *case.inputs)
        y = torch.randint(case.sizes[-1], (case.tasks, case.examples))
        connection.send((True, None))
        while True:
            request, batch = connection.recv()
            data = [(x[k, :batch], y[k, :batch]) for k in range(case.tasks)]
            connection.send((True, _answer(request, built, data, case.device, at_start)))
    except EOFError:  # the other end is closed
        return
    except Exception as error:
        connection.send((False, f"{type(error).__name__}: {error}"))


def _answer(request: str, built: Built, data: Data, device: str, at_start: tuple[int | None, int | None]) -> Any:
    if request == "step":
        start = time.perf_counter()
        built.step(data)
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start
    if request == "state":
        return held(built)
    if request == "profile":
        return _profile(built, data)
    before, after = at_start
    return None if before is None else {"building": after - before, "training": _peak() - before}


def _peak() -> int | None:
    """Largest memory of this process so far, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def held(built: Built) -> dict[str, int]:
    """Bytes that training holds from one step to the next, by kind."""

    def size(tensors: Iterable[Tensor]) -> int:
        return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())

    parameters = [p for module in built.modules for p in module.parameters()]
    return {
        "values": size(parameters),
        "positions, masks": size(b for module in built.modules for b in module.buffers()),
        "gradients": size(p.grad for p in parameters if p.grad is not None),
        "optimizer": size(t for o in built.optimizers for s in o.state.values() for t in s.values()),
    }


def _profile(built: Built, data: Data) -> list[tuple[str, int, float]]:
    with _silent():  # the profiler talks of the machine it is on
        with torch.profiler.profile() as profile:
            built.step(data)
    events = profile.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    top = sorted(events, key=lambda event: -event.self_cpu_time_total)[:8]
    return [(event.key, event.count, event.self_cpu_time_total / total) for event in top]


@contextmanager
def _silent():
    """Nothing reaches the error stream, from compiled code neither."""
    err = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(err, 2)
        os.close(err)
        os.close(nothing)


def product_ratios(
    shapes: Iterable[tuple[int, int]],
    densities: Iterable[float],
    examples: Iterable[int],
    rounds: int,
    threads: int,
    seed: int = 0,
) -> pd.DataFrame:
    """How many times as fast a linear layer is without the zeros of its weight: forward and backward, in this process.

    Args:
        shapes: (outputs, inputs) of the layer.
        densities: shares of its weights that a task keeps.
        examples: in a batch.
        rounds: measured pairs of steps; the ratio is taken within a pair, and of the ratios the median.
        threads: CPU threads.
        seed: of masks and values.

    Returns:
        A row for each mask (random, or clustered in rows and columns as those of gradients are), shape, density and
        number of examples: ``ratio``, and whether the zeros are ``left out`` by the table of :mod:`msnlib.products`.
    """
    before, rows = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    try:
        for mask, shape, density, count in product(("random", "clustered"), shapes, densities, examples):
            step = _layer_step(mask, shape, density, count, seed)
            repeats = max(1, int(3e-3 / (2e-4 + 6e-11 * math.prod(shape) * count)))
            pairs = [[_seconds(step, below, repeats) for below in (0, 1)] for _ in range(rounds + 2)][2:]
            ratio = float(np.median([dense / sparse for dense, sparse in pairs]))
            kept = entries(math.prod(shape), density)
            row = {"mask": mask, "outputs": shape[0], "inputs": shape[1], "density": density, "examples": count}
            rows.append(row | {"ratio": ratio, "left out": pays(kept, math.prod(shape), count)})
    finally:
        torch.set_num_threads(before)
    return pd.DataFrame(rows)


def _layer_step(mask: str, shape: tuple[int, int], density: float, count: int, seed: int) -> Callable[[float], None]:
    outputs, inputs = shape
    noise, layer = stream("which product", mask, seed=seed), MaskedLinear(inputs, outputs)
    score = torch.rand(shape, generator=noise)
    if mask == "clustered":
        score *= torch.rand(outputs, 1, generator=noise) ** 3 * torch.rand(1, inputs, generator=noise) ** 2
    kept = score.flatten().topk(entries(score.numel(), density)).indices.sort().values
    layer.weight.own("a", kept, torch.randn(len(kept), generator=noise), order=1)
    layer.bias.own("a", torch.arange(outputs), torch.zeros(outputs), order=1)
    x = torch.randn(count, inputs, generator=noise).requires_grad_()

    def step(below: float) -> None:
        layer.weight.sparse_below = below
        with using(layer, "a"):
            layer(x).sum().backward()

    return step


def _seconds(step: Callable[[float], None], below: float, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        step(below)
    return time.perf_counter() - start
