"""What the experiment notebooks share: the controls, the record of a trained arm, the table against the paper."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from msnlib.lab.examples import TEST_ROWS
from msnlib.lab.networks import Builder, dead_outputs, dedicated, narrow
from msnlib.lab.plots import style
from msnlib.lab.pooling import over_seeds, pooled
from msnlib.lab.precision import choose_precision
from msnlib.lab.published import published_value
from msnlib.lab.records import ENDING, Run, read_records
from msnlib.lab.report import format_value
from msnlib.lab.stored import activate
from msnlib.measuring import predict
from msnlib.networks import MultitaskNetwork
from msnlib.seeding import seed_everything
from msnlib.selection import Choose, Rule
from msnlib.task import Task
from msnlib.training import History, SequenceHistory, Stopping

CONTROLS = ("dedicated", "pruned", "small")
SUFFIXES = {"the authors' rule": "", "training to convergence": ENDING}  # of arms, see `record`


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
    precision: str | None = None,
    **configuration: Any,
) -> Started:
    """Begin a run: the record that checks every parameter, then seeds, threads, torch's default dtype and the style.

    Where ``$MSNLIB_STORE`` names a folder, `fit` keeps every epoch there and goes on from what there is.

    Args:
        experiment: its id, as in `msnlib.lab.published` (``"E1"``).
        notebook: the notebook's name without folder or ending (``"02_parallel_dense"``).
        settings: what differs between profiles, profile -> setting.
        profile, seed, configuration: everything that decides the results, and is recorded; see :class:`Run`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; recorded as it is given.
        threads: CPU threads; None is one, for a notebook without such a parameter, and is not recorded.
        precision: of forward and backward in training, see :func:`msnlib.lab.precision.choose_precision`; recorded as
            what it is here. The setting's ``"precision"`` is then what :func:`~msnlib.fit` takes. None, for a notebook
            without such a parameter, is that of the weights, and is not recorded.
        dtype: of every tensor; None takes the setting's ``"dtype"``, else float32.

    Returns:
        The record, the profile's setting (empty without ``settings``) and the device.

    Raises:
        ParameterError: a parameter that is not allowed.
        ValueError: no setting for this profile, or a GPU is named and there is none.
    """
    recorded = {"device": device} | {n: v for n, v in (("threads", threads), ("precision", precision)) if v is not None}
    run = Run(experiment, notebook=notebook, profile=profile, seed=seed, **recorded, **configuration)
    if settings is not None and profile not in settings:
        raise ValueError(f"profile {profile!r} has no setting in {notebook}, which has {', '.join(settings)}")
    setting = {} if settings is None else dict(settings[profile])
    chosen = choose_device(device)
    dtype = dtype or setting.get("dtype", torch.float32)
    if precision is not None:
        run.configuration["precision"] = choose_precision(precision, profile, chosen, dtype)
        setting["precision"] = torch.bfloat16 if run.configuration["precision"] == "bfloat16" else None
    seed_everything(seed, 1 if threads is None else threads)
    torch.set_default_dtype(dtype)
    style()
    run.stored = activate()
    return Started(run, setting, chosen)


def choose_device(device: str) -> torch.device:
    """Where tensors live.

    Args:
        device: ``auto`` is the first GPU, or the CPU when there is none; anything else is taken as it is.

    Raises:
        ValueError: a GPU is named and there is none.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.startswith("cuda") and (torch.device(device).index or 0) >= count:
        raise ValueError(f"device {device!r}: torch sees no such GPU here; use 'cpu' or 'auto'")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


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
    rule: str | Rule | Choose = "largest",
    **training: Any,
) -> dict[str, list[History]]:
    """Train and record what a subnetwork must be compared with: each task alone, in networks of its own.

    ``dedicated``: the whole network. ``pruned``: the same, cut to the subnetwork's density and scored as it is.
    ``small``: a dense network with as many weights (:func:`~msnlib.lab.narrow`). Initial noise, batches and stopping
    rules are the same in all.

    Args:
        run: the record.
        build: makes every network.
        group: the tasks.
        density: share of the weights that a task's subnetwork keeps.
        rules: stopping rules; the first one's results stand under the arm's own name.
        device: where the networks are.
        method: how weights are scored, where there are weights to choose.
        sample: training examples that weights are scored on; None takes all.
        arms: which of `CONTROLS`.
        rule: which of them are kept; the paper's unless another is named.
        training: passed to :func:`~msnlib.fit`.

    Returns:
        Arm -> a training per task.
    """
    training = {**training, "device": device, "stopping": rules}
    recipes: dict[str, Callable[[Task], tuple[MultitaskNetwork, History]]] = {
        "dedicated": lambda task: dedicated(build, task, **training),
        "pruned": lambda task: dedicated(
            build, task, density=density, method=method, sample=sample, rule=rule, **training
        ),
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

    Args:
        run: the record.
        net: holds the tasks.
        history: their training, under all ``rules``; the net is left at the first one.
        group: one task, or several trained in parallel.
        arm: the first rule's results stand under this name, the others' under ``"arm, rule"``.
        rules: stopping rules.

    Beside each result stands whether the cap on epochs ended the training, and how many of the task's outputs own no
    weight.
    """
    group = [group] if isinstance(group, Task) else group
    run.data |= {task.name: task.description for task in group}
    run.examples |= {(task.name, TEST_ROWS): task.test_rows for task in group if task.test_rows is not None}
    dead = dead_outputs(net)
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
                dead_outputs=len(dead[task.name]) if task.name in dead else None,
            )
    history.use(rules[0])


def record_phases(
    run: Run,
    net: nn.Module,
    sequence: SequenceHistory,
    phases: Sequence[Sequence[Task]],
    arm: str,
    rules: Sequence[Stopping],
) -> None:
    """:func:`record` for each phase of what :func:`~msnlib.fit_sequence` returned."""
    for history, phase in zip(sequence.histories, phases, strict=True):
        record(run, net, history, phase, arm, rules)


def print_forgetting(sequence: SequenceHistory, kind: str = "") -> None:
    """Print what each task lost since its own phase ended, and how far its outputs moved; ``kind`` stands before."""
    for task, lost in sequence.forgetting.items():
        print(f"{kind}{task}: forgetting {lost}, largest change of any output {sequence.moved[task]}")


def of_all_seeds(run: Run) -> pd.DataFrame:
    """The results of a run and of its pool's other seeds (:mod:`msnlib.lab.pooling`), whose records lie under
    ``$MSNLIB_REPORTS``, as ``msn run`` sets it: a row per task, arm, metric and seed, a task's arms together.
    """
    own = run.records()
    folder = os.environ.get("MSNLIB_REPORTS")
    others = read_records(folder) if folder else own[:0]
    others = others[(others["notebook"] == run.notebook) & (others["seed"] != run.configuration["seed"])]
    both = pooled(pd.concat([own, others])) if len(others) else pooled(own)
    mine = both[both["fixed"] == both["fixed"].iloc[0]].copy()
    mine["task"] = pd.Categorical(mine["task"], mine["task"].unique())
    return mine.sort_values("task", kind="stable").astype({"task": str})


def comparison(run: Run) -> pd.DataFrame:
    """Ours against the published figures, of what the run has so far.

    Args:
        run: one in ``quick`` uses other data than the paper: nothing is published.

    Returns:
        A row per task and arm, its numbers as texts. The mean is that of :func:`of_all_seeds`.
    """
    quick, key = run.configuration["profile"] == "quick", ["task", "arm", "metric"]
    own = {tuple(row[name] for name in key): row["value"] for row in run.results}
    mine = of_all_seeds(run)
    mine = mine[mine[key].apply(tuple, axis=1).isin(list(own))]
    table = over_seeds(mine, key).reset_index()
    table.insert(3, "this run", list(table[key].apply(tuple, axis=1).map(own)))
    keys = table[key].itertuples(index=False)
    table["published"] = [None if quick else published_value(run.experiment, *key) for key in keys]
    table["difference"] = table["mean"] - table["published"].astype(float)
    columns = ["task", "arm", "metric", "this run", "mean", "sd", "seeds", "published", "difference"]
    table = table[columns]
    for column in ("this run", "mean", "sd", "published", "difference"):
        signed = column == "difference"
        table[column] = [format_value(m, v, signed) for m, v in zip(table["metric"], table[column], strict=True)]
    return table.set_index(["task", "arm"])
