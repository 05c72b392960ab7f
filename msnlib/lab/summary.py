"""What one run found, from its record: for the end of ``msn run``, and for both ends of a notebook."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from msnlib.lab.capacity import CHOICES, one_curve, widest
from msnlib.lab.differences import Difference, between
from msnlib.lab.factorial import effects
from msnlib.lab.looks import title
from msnlib.lab.recipe import ARMS, OURS
from msnlib.lab.records import ENDING
from msnlib.lab.related import CONTRASTS, repeats, worth
from msnlib.lab.report import format_difference
from msnlib.lab.statistics import interval

EVENED = "the paper's, evened head minus cut one"  # how `_starves` calls the intervention
Values = dict[tuple[str, str, str], float]  # (task, arm, metric) -> value


class Found(NamedTuple):
    """What a run found.

    Attributes:
        items: one clause each.
        about: what the items have in common, to be read before them; perhaps empty.
    """

    items: list[str]
    about: str = ""

    def __str__(self) -> str:
        return f"{self.about}: " * bool(self.about) + "; ".join(self.items)

    def short(self, width: int) -> str:
        """As many of the items as fit into so many characters, at least one; a sign says whether there are more."""
        items = self.items
        while len(items) > 1 and len(str(Found(items, self.about))) > width:
            items = items[:-1]
        return f"{Found(items, self.about)}{' ...' * (len(items) < len(self.items))}"


def summary(record: dict[str, Any]) -> Found:
    """Return what a run found, as `msnlib.lab.records.read_record` gives its record, or the number of results where
    none of its tasks has both a subnetwork and a network of its own.
    """
    rows = record["results"]
    if record["experiment"] in OVER_SEEDS and rows:
        found = OVER_SEEDS[record["experiment"]](pd.DataFrame(rows).assign(seed=0))
    else:
        values = {(row["task"], row["arm"], row["metric"]): row["value"] for row in rows}
        found = of_values(record["experiment"], values)
    if not found.items:
        return Found([f"{len(rows)} result{'s' * (len(rows) != 1)}"])
    return found._replace(items=[*found.items, *ended_by_cap(rows)])


def of_values(experiment: str, values: Values) -> Found:
    """Return what values say, of one run or means of several; no items where they do not hold what it takes."""
    return _SPECIAL.get(experiment, _differences)(values)


def ended_by_cap(rows: list[dict[str, Any]]) -> list[str]:
    """Say whether trainings that a sentence is about, of these results, were ended by the cap on epochs."""
    converged = [row for row in rows if row["arm"].endswith(ENDING)] or rows
    capped = [row.get("capped") in (True,) for row in converged]  # perhaps not known, or NaN
    how_many = "all" if all(capped) else "some"
    return [f"{how_many} trainings were ended by the cap on epochs"] * any(capped)


def _differences(values: Values, arms: tuple[str, str] = ("multitask", "dedicated")) -> Found:
    """Say how far subnetworks are from a network for each task, trained to convergence where that was recorded."""
    points, errors = [], []
    for task, metric in dict.fromkeys((task, metric) for task, _, metric in values if metric in ("accuracy", "mse")):
        for ending in (ENDING, ""):
            own, control = (values.get((task, arm + ending, metric)) for arm in arms)
            if own is not None and control is not None:
                if metric == "accuracy":
                    points.append(f"{title(task)} {format_difference(metric, own - control)}")
                else:
                    gap = 100 * (own / control - 1) if control else 0.0
                    errors.append(f"{title(task)} {abs(gap):.1f} % {'more' if gap > 0 else 'less'} error")
                break
    said = [f"{', '.join(points)} points from a network for each task"] * bool(points)
    return Found(said + [", ".join(errors) + " than a network for each task" * (not points)] * bool(errors))


def _scaled(values: Values) -> Found:
    """On scaled pixels, as elsewhere; on raw ones where nothing else was trained."""
    scaled = _differences(values, ("multitask scaled", "dedicated scaled"))
    return scaled if scaled.items else Found(_differences(values).items, "on raw pixels")


def _related(records: pd.DataFrame) -> Found:
    """Say how far subnetworks are from networks of their own, and what part B's repeats say of reading a neighbour."""
    values = records.groupby(["task", "arm", "metric"], sort=False)["value"].mean().to_dict()
    read = reading(repeats(records))
    return Found([*_differences(values).items, *[str(read)] * bool(read.items)])


def reading(rows: pd.DataFrame) -> Found:
    """Say what reading a neighbour is worth, from `msnlib.lab.related.repeats` of one pool."""
    found = worth(rows) if len(rows) else pd.DataFrame()
    if not set(_READING) <= set(found.index):
        return Found([])
    cells = [
        f"{contrast} {Difference(row['difference'], row['low'], row['high'], row['repeats'])}, {row['answer']}"
        for contrast, row in found.loc[_READING].iterrows()
    ]
    seeds, count = int(found["seeds"].max()), int(found["repeats"].max())
    size = f"{count} repeat{'s' * (count != 1)}" + f" of {seeds} seeds" * (seeds > 1)
    return Found(cells, f"the hard half beside a neighbour that it reads, in points ({size})")


def _told(values: Values) -> Found:
    named = values.get(("task_identity", "discerner", "accuracy"))
    own = _differences(values, ("told", "dedicated")).items
    return Found(own + ([f"the task is recognised in {named:.2f} %"] if named is not None else []))


def _ensemble(values: Values) -> Found:
    words = {"multitask": "summed subnetworks", "small": "summed small networks"}
    sums = {arm: value for (task, arm, _), value in values.items() if task.endswith("_sum")}
    if sums:
        return Found([", ".join(f"{said} {sums[arm]:.2f} %" for arm, said in words.items() if arm in sums)])
    rules = {"disjoint": "multitask", "by the released rule": "multitask, legacy percentile"}
    found = {rule: _differences(values, (arm, "dedicated")) for rule, arm in rules.items()}
    return Found([f"{rule}: {said}" for rule, said in found.items() if said.items])


def _forgetting(values: Values) -> Found:
    lost = {arm: values.get(("all", arm, "forgetting_accuracy")) for arm in ("multitask", "fine-tuning")}
    if None in lost.values():
        return Found([])
    said = [f"subnetworks forget {lost['multitask']:.2f} points a task, fine-tuning {lost['fine-tuning']:.2f}"]
    words = {"dedicated": "networks of their own", "random": "random masks"}
    whole = {arm: values.get(("all", arm, "accuracy")) for arm in ("multitask", *words)}
    if None not in whole.values():
        ahead = [f"{name} {whole[arm] - whole['multitask']:+.2f}" for arm, name in words.items()]
        said.append(f"mean accuracy of all tasks, in points from the subnetworks: {', '.join(ahead)}")
    return Found(said)


def _capacity(records: pd.DataFrame) -> Found:
    """Say what each way gives when the network is full of most tasks, and whether widths lie on one curve."""
    rows = widest(records)
    if rows.empty:
        return Found([])
    rows = rows[rows["count"] == rows["count"].max()]
    means = rows.groupby("choice")["value"].agg(list).to_dict()
    cells = [f"{words} {_mean(means[choice])}" for choice, words in CHOICES.items() if choice in means]
    curves = {CHOICES[choice]: one_curve(records, choice) for choice in means if choice.endswith("evened")}
    cells += [f"{words}, over inputs a unit: {found}" for words, found in curves.items() if found is not None]
    count, width = rows["count"].iloc[0], rows["width"].iloc[0]
    of = f" of {width} units a layer" if width else ""
    return Found(cells, f"{count} tasks in one network{of}, mean accuracy of three of them in %")


def _mean(values: list[float]) -> str:
    low, mean, high = interval(values)
    return f"{mean:.2f} ({low:.2f} to {high:.2f})" if len(values) > 1 else f"{mean:.2f}"


def _density(values: Values) -> Found:
    """Say what the smallest share of weights gives, by way of choosing them."""
    arms = [arm for _, arm, _ in values if arm.startswith("density ")]
    shares = sorted({float(arm.split()[1].rstrip(",")) for arm in arms})
    if not shares:
        return Found([])
    words = {"gradient": "by gradients", "reversed": "by gradients, the other task first", "random": "at random"}
    prefix, cells = f"density {shares[0]:g}", {}
    for (task, arm, metric), value in values.items():
        if metric == "accuracy" and arm.startswith(prefix) and arm.endswith(ENDING):
            way = arm.removeprefix(prefix).removesuffix(ENDING).strip() or "gradient"
            cells.setdefault(way, []).append(f"{title(task)} {value:.2f}")
    said = [f"{words.get(way, way)}: {', '.join(found)}" for way, found in cells.items()]
    return Found(said, f"accuracy in % at density {shares[0]:g}, weights chosen")


def _performance(values: Values) -> Found:
    """Say how fast a step of the default is, by batch size, and what training holds."""
    speed, items = "speedup_batch_", {}
    for (task, arm, metric), value in values.items():
        if arm == "default" and metric.startswith(speed):
            said = f"a step of {metric.removeprefix(speed)} images, times as fast as dense networks"
            items.setdefault(said, []).append(f"{task} {value:.2f}")
        elif (arm, metric) == ("default", "state_ratio"):
            items.setdefault("bytes held from step to step, as a share of theirs", []).append(f"{task} {value:.2f}")
    return Found([f"{said}: {', '.join(cells)}" for said, cells in items.items()])


def _starves(records: pd.DataFrame) -> Found:
    """Say at the smallest density how far random masks are ahead, and what becomes of that when no output starves."""
    shares = records["arm"].str.extract(r"^density (\S+) ", expand=False).astype(float)
    found, items = effects(records[shares.eq(shares.min())]), []
    for contrast, words in (
        ("random instead of scores", "random masks minus the paper's"),
        ("random instead of scores, heads evened out", "the same, both heads evened"),
        ("head evened out", EVENED),
        ("head whole instead of evened out", "the paper's, whole head minus evened one"),
    ):
        rows = found[found["contrast"] == contrast]
        cells = [
            _ahead(row.task, Difference(row.difference, row.low, row.high, row.seeds), row.capped)
            for row in rows.itertuples()
        ]
        items += [f"{words}: {', '.join(cells)}"] * bool(cells)
    return Found(items, f"accuracy at density {shares.min():g}, in points")


def _recipe(records: pd.DataFrame) -> Found:
    """Say how far every recipe and a small dense network are from ours, trained to convergence, and where outputs
    starve.
    """
    ours, found = OURS + ENDING, set(records["arm"])
    arms = {arm: words for arm, words in ARMS.items() if arm == "small" or not words.startswith("control")}
    arms = {arm + ENDING: words for arm, words in arms.items() if arm + ENDING in found}
    items = []
    for arm, words in arms.items() if ours in found else ():
        pair = records[records["arm"].isin((arm, ours))]
        capped = set(pair.loc[pair["capped"].eq(True), "task"]) if "capped" in pair else set()
        cells = [_ahead(task, between(records, task, arm, ours), task in capped) for task in records["task"].unique()]
        dead = pair.loc[pair["arm"].eq(arm) & (pair["dead_outputs"] > 1)] if "dead_outputs" in pair else pair[:0]
        seeds = f"{dead['seed'].nunique()} of {pair['seed'].nunique()} seeds"
        starved = f"; in {seeds} a head has two or more outputs without a weight" * bool(len(dead))
        items.append(f"{words}: {', '.join(cells)}{starved}")
    return Found(items, "accuracy in points from ours, trained to convergence")


def _ahead(task: str, found: Difference, capped: bool) -> str:
    """A task's difference; over seeds with its interval, and what that says."""
    if found.seeds == 1:
        return f"{title(task)} {found}"
    said = "ended by the cap" if capped else found.answer()
    return f"{title(task)} {found.difference:+.2f} ({found.low:+.2f} to {found.high:+.2f}, {said})"


def _method(values: Values) -> Found:
    cells = [f"{task} {value:.0f}" for (task, arm, _), value in values.items() if arm == "subnetwork"]
    return Found([f"drawn, not trained: values owned by {', '.join(cells)}; none has two owners"] * bool(cells))


def _leak(values: Values) -> Found:
    moved = {arm: value for (_, arm, metric), value in values.items() if metric == "moved"}
    if set(moved) != {"subnetwork", "gradient mask"}:
        return Found([])
    own, masked = moved["subnetwork"], moved["gradient mask"]
    said = f"while the other task trains, a subnetwork moves by {own:g}, one kept by masking gradients by {masked:.2f}"
    return Found([said])


def _audit(values: Values) -> Found:
    shares = {arm: value for (task, arm, metric), value in values.items() if (task, metric) == ("last", "share")}
    if set(shares) != {"released", "exact"}:
        return Found([])
    theirs, ours = (f"{100 * shares[rule]:.0f} %" for rule in ("released", "exact"))
    return Found([f"the last task gets {theirs} of the weights by the released rule, {ours} by ours"])


def _summary(values: Values) -> Found:
    count = values.get(("all", "records", "results"))
    return Found([] if count is None else [f"{count:,.0f} results of larger runs read, none made"])


_READING = list(CONTRASTS)[:2]
# Experiments whose runs are told from the records of all seeds of one pool, with their intervals.
OVER_SEEDS: dict[str, Callable[[pd.DataFrame], Found]] = {
    "starves": _starves,
    "recipe": _recipe,
    "capacity": _capacity,
    "E6": _related,
}
_SPECIAL: dict[str, Callable[[Values], Found]] = {
    "method": _method,
    "01": _leak,
    "audit": _audit,
    "summary": _summary,
    "E5": _scaled,
    "E7": _ensemble,
    "E10": _told,
    "forgetting": _forgetting,
    "density": _density,
    "performance": _performance,
}
