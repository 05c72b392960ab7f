"""One line on what one run found, from its record: for the end of ``msn run``."""

from collections.abc import Callable
from typing import Any

from msnlib.lab.report import format_difference

Values = dict[tuple[str, str, str], float]  # (task, arm, metric) -> value
CONVERGED = ", converged"


def summary(record: dict[str, Any]) -> str:
    """Return what a run found, as `msnlib.lab.records.read_record` gives its record: a sentence, or the number of
    results where none of its tasks has both a subnetwork and a network of its own.
    """
    values = {(row["task"], row["arm"], row["metric"]): row["value"] for row in record["results"]}
    said = _SPECIAL.get(record["experiment"], _differences)(values)
    return said or f"{len(values)} result{'s' * (len(values) != 1)}"


def _differences(values: Values, arms: tuple[str, str] = ("multitask", "dedicated")) -> str:
    """Say how far subnetworks are from a network for each task, trained to convergence where that was recorded."""
    said = []
    for metric, unit in (("accuracy", "points"), ("mse", "% of the error")):
        cells = []
        for task in dict.fromkeys(key[0] for key in values):
            for ending in (CONVERGED, ""):
                pair = [values.get((task, arm + ending, metric)) for arm in arms]
                if None not in pair:
                    own, control = pair
                    gap = own - control if metric == "accuracy" else 100 * (1 - own / control) if control else 0.0
                    cells.append(f"{task} {format_difference(metric, gap)}")
                    break
        said += [f"{', '.join(cells)} {unit}"] * bool(cells)
    return f"{'; '.join(said)} from a network for each task" if said else ""


def _scaled(values: Values) -> str:
    return _differences(values, ("multitask scaled", "dedicated scaled"))


def _told(values: Values) -> str:
    named = values.get(("task_identity", "discerner", "accuracy"))
    own = _differences(values, ("told", "dedicated"))
    return "; ".join([own] * bool(own) + ([f"the task is recognised in {named:.2f} %"] if named is not None else []))


def _ensemble(values: Values) -> str:
    words = {("fashion_sum", "multitask"): "summed subnetworks", ("fashion_sum", "small"): "summed small networks"}
    found = {said: values.get((*key, "accuracy")) for key, said in words.items()}
    cells = [f"{said} {value:.2f} %" for said, value in found.items() if value is not None]
    return ", ".join(cells)


def _forgetting(values: Values) -> str:
    lost = {arm: values.get(("all", arm, "forgetting_accuracy")) for arm in ("multitask", "fine-tuning")}
    if None in lost.values():
        return ""
    return f"subnetworks forget {lost['multitask']:.2f} points a task, fine-tuning {lost['fine-tuning']:.2f}"


def _capacity(values: Values) -> str:
    counts = [int(arm.rpartition("=")[2]) for task, arm, _ in values if task == "mean" and "T=" in arm]
    if not counts:
        return ""
    words = {"multitask": "the paper's choice", "random": "random choice", "small": "small dense networks"}
    found = {name: values.get(("mean", f"{arm} T={max(counts)}", "accuracy")) for arm, name in words.items()}
    cells = [f"{name} {value:.2f} %" for name, value in found.items() if value is not None]
    return f"{max(counts)} tasks in one network: {', '.join(cells)}"


def _density(values: Values) -> str:
    """Say what the smallest share of weights gives, by way of choosing them."""
    arms = [arm for _, arm, _ in values if arm.startswith("density ")]
    shares = sorted({float(arm.split()[1].rstrip(",")) for arm in arms})
    if not shares:
        return ""
    prefix, cells = f"density {shares[0]:g}", {}
    for (task, arm, metric), value in values.items():
        if metric == "accuracy" and arm.startswith(prefix) and arm.endswith(CONVERGED):
            way = arm.removeprefix(prefix).removesuffix(CONVERGED).strip() or "gradient"
            cells.setdefault(way, []).append(f"{task} {value:.2f}")
    said = "; ".join(f"{way}: {', '.join(found)}" for way, found in cells.items())
    return f"at density {shares[0]:g}, accuracy in % by choice: {said}"


def _performance(values: Values) -> str:
    cells = [
        f"{task} {value:.2f}"
        for (task, arm, metric), value in values.items()
        if (arm, metric) == ("scattered", "speedup_batch_32")
    ]
    return f"a training step at batch 32, times as fast as dense networks: {', '.join(cells)}" if cells else ""


_SPECIAL: dict[str, Callable[[Values], str]] = {
    "E5": _scaled,
    "E7": _ensemble,
    "E10": _told,
    "forgetting": _forgetting,
    "capacity": _capacity,
    "density": _density,
    "fan_in": _density,
    "performance": _performance,
}
