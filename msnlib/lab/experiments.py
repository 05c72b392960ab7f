"""What the experiment notebooks share: the controls, the record of a trained arm, the table against the paper."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn

from msnlib.allocation import entries
from msnlib.lab.pooling import over_seeds, pooled
from msnlib.lab.published import published_value
from msnlib.lab.records import TEST_ROWS, Run, read_records
from msnlib.lab.report import format_value
from msnlib.networks import MultitaskNetwork
from msnlib.subnetworks import owner_map, shared_tensors, tasks
from msnlib.task import Task
from msnlib.training import History, Stopping, fit_sequence, predict

Builder = Callable[..., MultitaskNetwork]
CONTROLS = ("dedicated", "pruned", "small")


def choose_device(device: str) -> torch.device:
    """``auto`` is the first GPU, or the CPU when there is none; anything else is taken as it is.

    Raises:
        ValueError: a GPU is named and there is none.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: torch sees no GPU here; use 'cpu' or 'auto'")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def dedicated(
    build: Builder,
    task: Task,
    device: torch.device | str = "cpu",
    density: float = 1.0,
    method: str = "gradient",
    sample: int | None = None,
    **training: Any,
) -> tuple[MultitaskNetwork, History]:
    """A control: a network of the task's own, from the same builder; at density 1 the task owns every entry.

    Returns:
        The network and its training; ``training`` is passed to :func:`~msnlib.fit`, the rest to
        :func:`~msnlib.fit_sequence`.
    """
    net = build([task]).to(device)
    method = method if density < 1 else "random"  # where every entry is kept, scores decide nothing
    return net, fit_sequence(net, [task], density, method, sample=sample, **training).histories[0]


def narrow(build: Builder, task: Task, density: float) -> Builder:
    """The same builder with fewer units: its dense network has the size of a subnetwork of this density.

    The largest with at most as many weights and biases as a task of this density owns (or the smallest there is).

    Args:
        build: takes ``scale``, as :func:`~msnlib.dense_network` and :func:`~msnlib.conv_network` do.
        task: whose input and output the network has.
        density: of the subnetwork.
    """
    budget = sum(entries(tensor.numel(), density) for tensor in shared_tensors(build([task])).values())
    low, high = 0.0, 1.0
    for _ in range(12):  # to within a unit of 1000
        middle = (low + high) / 2
        size = sum(tensor.numel() for tensor in shared_tensors(build([task], scale=middle)).values())
        low, high = (middle, high) if size <= budget else (low, middle)
    return partial(build, scale=low or high)


def controls(
    run: Run,
    build: Builder,
    group: Sequence[Task],
    density: float,
    rules: Sequence[Stopping],
    device: torch.device | str = "cpu",
    method: str = "gradient",
    sample: int | None = None,
    arms: Sequence[str] = CONTROLS,
    **training: Any,
) -> dict[str, list[History]]:
    """Train and record what a subnetwork must be compared with: each task alone, in networks of its own.

    ``dedicated``: the whole network. ``pruned``: the same, cut to the subnetwork's density and scored as it is.
    ``small``: a dense network with as many weights (:func:`narrow`). Initial noise, batches and stopping rules are the
    same in all.

    Returns:
        Arm -> a training per task.
    """
    training = {**training, "device": device, "stopping": rules}
    recipes: dict[str, Callable[[Task], tuple[MultitaskNetwork, History]]] = {
        "dedicated": lambda task: dedicated(build, task, **training),
        "pruned": lambda task: dedicated(build, task, density=density, method=method, sample=sample, **training),
        "small": lambda task: dedicated(narrow(build, task, density), task, **training),
    }
    found: dict[str, list[History]] = {arm: [] for arm in arms}
    for task in group:
        for arm in arms:
            net, history = recipes[arm](task)
            record(run, net, history, task, arm, rules)
            found[arm].append(history)
    return found


def record(
    run: Run, net: nn.Module, history: History, group: Task | Sequence[Task], arm: str, rules: Sequence[Stopping]
) -> None:
    """Add every task's test metric and the outcome of each test example, under every stopping rule, to a run's record.

    The first rule's results stand under ``arm``, the others' under ``"arm, rule"``; the net is left at the first rule.
    Beside each stands whether the cap on epochs ended the training, and how many of the task's outputs own no weight.
    """
    group = [group] if isinstance(group, Task) else group
    run.data |= {task.name: task.description for task in group}
    run.examples |= {(task.name, TEST_ROWS): task.test_rows for task in group if task.test_rows is not None}
    for rule in rules:
        history.use(rule)
        name = arm if rule is rules[0] else f"{arm}, {rule.name}"
        for task in group:
            prediction = predict(net, task)
            target = task.test[1].to(prediction.device)
            run.add(
                task=task.name,
                arm=name,
                metric=task.metric,
                value=task.score(prediction, target),
                seconds=history.seconds(rule, task.name),
                examples=task.outcomes(prediction, target),
                capped=history.capped[rule.name, task.name],
                dead_outputs=dead_outputs(net, task.name),
            )
    history.use(rules[0])


def dead_outputs(net: nn.Module, task: str) -> int | None:
    """How many of the task's outputs own no weight, at best a bias; None where no output layer is shared out."""
    heads = [t for t in shared_tensors(net, task).values() if t.is_output and len(t.shape) > 1]
    return sum(int((head.used_per_unit(task) == 0).sum()) for head in heads) if heads else None


def allocation_table(net: nn.Module) -> pd.DataFrame:
    """A row per masked tensor: its entries, those of each task, and the free ones."""
    names, rows = tasks(net), {}
    for name, owner in owner_map(net).items():
        count = torch.bincount(owner.flatten(), minlength=len(names) + 1).tolist()
        rows[name] = {"entries": owner.numel(), **dict(zip(names, count[1:], strict=True)), "free": count[0]}
    return pd.DataFrame.from_dict(rows, orient="index")


def idle_units(net: nn.Module) -> pd.DataFrame:
    """A row per weight of the trunk: its units, and for each task those that keep no input and so send a constant."""
    rows = {}
    for name, tensor in shared_tensors(net).items():
        if len(tensor.shape) > 1 and len(tensor) == len(tasks(net)):
            idle = {task: int((tensor.used_per_unit(task) == 0).sum()) for task in tasks(net)}
            rows[name] = {"units": tensor.shape[0], **idle}
    return pd.DataFrame.from_dict(rows, orient="index")


def comparison(run: Run) -> pd.DataFrame:
    """Ours against the published figures: a row per task and arm.

    The mean is over this run and those runs of other seeds of its pool (:mod:`msnlib.lab.pooling`) whose records lie
    under ``$MSNLIB_REPORTS``; ``msn run`` sets it to its output folder. ``quick`` uses other data than
    the paper.
    """
    own = run.records()
    folder = os.environ.get("MSNLIB_REPORTS")
    others = read_records(folder) if folder else own[:0]
    others = others[(others["notebook"] == run.notebook) & (others["seed"] != run.configuration["seed"])]
    both = pooled(pd.concat([own, others])) if len(others) else pooled(own)
    mine = both[both["fixed"] == both["fixed"].iloc[0]].copy()
    quick = run.configuration["profile"] == "quick"
    mine["task"] = pd.Categorical(mine["task"], mine["task"].unique())  # a task's arms one below the other
    mine = mine.sort_values("task", kind="stable").astype({"task": str})
    table = over_seeds(mine, ["task", "arm", "metric"]).reset_index()
    first = mine.drop_duplicates(["task", "arm", "metric"])
    table.insert(3, "this run", list(first["value"]))
    keys = table[["task", "arm", "metric"]].itertuples(index=False)
    table["published"] = [None if quick else published_value(run.experiment, *key) for key in keys]
    table["difference"] = table["mean"] - table["published"].astype(float)
    columns = ["task", "arm", "metric", "this run", "mean", "sd", "seeds", "published", "difference"]
    table = table[columns]
    for column in ("this run", "mean", "sd", "published", "difference"):
        signed = column == "difference"
        table[column] = [format_value(m, v, signed) for m, v in zip(table["metric"], table[column], strict=True)]
    return table.set_index(["task", "arm"])
