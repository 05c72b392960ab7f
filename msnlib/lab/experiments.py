"""What the experiment notebooks share: the controls, the record of a trained arm, the table against the paper."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from msnlib.allocation import entries
from msnlib.lab.plots import style
from msnlib.lab.published import published_value
from msnlib.lab.records import Run, read_records
from msnlib.lab.report import format_value
from msnlib.networks import MultitaskNetwork
from msnlib.seeding import seed_everything
from msnlib.subnetworks import owner_map, shared_tensors, tasks
from msnlib.task import Task
from msnlib.training import History, Stopping, fit_sequence, predict

Builder = Callable[..., MultitaskNetwork]
CONTROLS = ("dedicated", "pruned", "small")


class Started(NamedTuple):
    """What :func:`start` gives a notebook: its record, its profile's setting, and where tensors live."""

    run: Run
    setting: dict[str, Any]
    device: torch.device


def start(
    experiment: str,
    notebook: str,
    settings: Mapping[str, dict[str, Any]] | None = None,
    *,
    profile: str,
    seed: int,
    device: str,
    threads: int | None = None,
    dtype: torch.dtype | None = None,
    **configuration: Any,
) -> Started:
    """Begin a run: the record that checks every parameter, then seeds, threads, torch's default dtype and the style.

    Args:
        experiment: its id, as in `msnlib.lab.published` (``"E1"``).
        notebook: the notebook's name without folder or ending (``"02_parallel_dense"``).
        settings: what differs between profiles, profile -> setting.
        profile, seed, configuration: everything that decides the results, and is recorded; see :class:`Run`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; recorded as it is given.
        threads: CPU threads; None is one, for a notebook without such a parameter, and is not recorded.
        dtype: of every tensor; None takes the setting's ``"dtype"``, else float32.

    Returns:
        The record, the profile's setting (empty without ``settings``) and the device.

    Raises:
        ParameterError: a parameter that is not allowed.
        ValueError: no setting for this profile, or a GPU is named and there is none.
    """
    recorded = {"device": device} if threads is None else {"device": device, "threads": threads}
    run = Run(experiment, notebook=notebook, profile=profile, seed=seed, **recorded, **configuration)
    if settings is not None and profile not in settings:
        raise ValueError(f"profile {profile!r} has no setting in {notebook}, which has {', '.join(settings)}")
    setting = {} if settings is None else dict(settings[profile])
    chosen = choose_device(device)
    seed_everything(seed, threads or 1)
    torch.set_default_dtype(dtype or setting.get("dtype", torch.float32))
    style()
    return Started(run, setting, chosen)


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
    """
    group = [group] if isinstance(group, Task) else group
    run.data |= {task.name: task.description for task in group}
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
            )
    history.use(rules[0])


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

    The mean is over this run and those runs of other seeds with the same configuration whose records lie under
    ``$MSNLIB_REPORTS``; ``msn run`` sets it to its output folder. ``quick`` uses other data: nothing is published.
    """
    configuration = _without_seed(run.configuration)
    mine = run.table().assign(seed=run.configuration["seed"])
    folder = os.environ.get("MSNLIB_REPORTS")
    others = read_records(folder) if folder else pd.DataFrame()
    if len(others):
        others = others[(others["notebook"] == run.notebook) & (others["seed"] != run.configuration["seed"])]
        same = [_without_seed(json.loads(text)) == configuration for text in others["configuration"]]
        mine = pd.concat([mine, others[np.array(same, dtype=bool)]])
    quick = run.configuration["profile"] == "quick"
    mine["task"] = pd.Categorical(mine["task"], mine["task"].unique())  # a task's arms one below the other
    mine = mine.sort_values("task", kind="stable")
    rows = []
    for (task, arm, metric), found in mine.groupby(["task", "arm", "metric"], sort=False, observed=True):
        published = None if quick else published_value(run.experiment, task, arm, metric)
        mean, sd = found["value"].mean(), found["value"].std(ddof=1)
        row = {"task": task, "arm": arm, "metric": metric, "this run": found["value"].iloc[0], "mean": mean, "sd": sd}
        difference = None if published is None else mean - published
        rows.append(row | {"seeds": found["seed"].nunique(), "published": published, "difference": difference})
    table = pd.DataFrame(rows)
    for column in ("this run", "mean", "sd", "published", "difference"):
        signed = column == "difference"
        table[column] = [format_value(m, v, signed) for m, v in zip(table["metric"], table[column], strict=True)]
    return table.set_index(["task", "arm"])


def _without_seed(configuration: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in configuration.items() if name != "seed"}
