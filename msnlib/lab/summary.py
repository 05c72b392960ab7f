"""One line on what a run found, from its record: for the end of ``msn run``, and for both ends of a notebook."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from msnlib.files import CHECKOUT, replacing
from msnlib.lab.capacity import CHOICES, one_curve, widest
from msnlib.lab.differences import Difference, between
from msnlib.lab.factorial import effects
from msnlib.lab.findings import EXPERIMENTS, with_interval
from msnlib.lab.looks import title
from msnlib.lab.notebooks import read_notebook
from msnlib.lab.pooling import headline, over_seeds
from msnlib.lab.records import ENDING, Run, read_records
from msnlib.lab.related import CONTRASTS, larger_repeats, repeats, worth
from msnlib.lab.report import format_difference
from msnlib.lab.statistics import interval

Values = dict[tuple[str, str, str], float]  # (task, arm, metric) -> value
_LARGER = ("Full-size runs", "Larger runs")  # how a line of `full_size` begins


def summary(record: dict[str, Any]) -> str:
    """Return what a run found, as `msnlib.lab.records.read_record` gives its record: a sentence, or the number of
    results where none of its tasks has both a subnetwork and a network of its own.
    """
    rows = record["results"]
    if record["experiment"] in _OVER_SEEDS and rows:
        said = _OVER_SEEDS[record["experiment"]](pd.DataFrame(rows).assign(seed=0))
    else:
        values = {(row["task"], row["arm"], row["metric"]): row["value"] for row in rows}
        said = _SPECIAL.get(record["experiment"], _differences)(values)
    return said + _cap(rows) if said else _counted(len(rows))


def _cap(rows: list[dict[str, Any]]) -> str:
    """Say whether trainings that a run's sentence is about were ended by the cap on epochs."""
    converged = [row for row in rows if row["arm"].endswith(ENDING)] or rows
    capped = [row.get("capped") in (True,) for row in converged]  # perhaps not known, or NaN
    how_many = "all" if all(capped) else "some"
    return f"; {how_many} trainings were ended by the cap on epochs" if any(capped) else ""


def _counted(results: int) -> str:
    return f"{results} result{'s' * (results != 1)}"


def print_findings(run: Run, reports: Path = CHECKOUT / "reports") -> None:
    """Print what a notebook's run found, once it has results, and what the full-size runs of the notebook found.

    Args:
        run: the notebook's.
        reports: the folder with the records of full-size runs.
    """
    profile, seed = run.configuration["profile"], run.configuration["seed"]
    if run.results:
        found = summary({"experiment": run.experiment, "results": run.results})
        print(f"This run ({profile}, seed {seed}): {found}.")
    print(full_size(run.experiment, run.notebook, reports))
    if profile == "quick":
        print("A quick run is too small to judge the claim; it shows how the experiment is made.")


def refresh_findings(path: Path, experiment: str, reports: Path) -> None:
    """Let an executed notebook's boxes say what `print_findings` would of today's records; its own run's line stays.

    Args:
        path: of the notebook, whose name is that of its source.
        experiment: its id.
        reports: the folder with the records of full-size runs.
    """
    notebook, said = read_notebook(path), full_size(experiment, path.stem, reports)
    before = json.dumps(notebook)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []) if cell.get("id", "").startswith("findings-") else []:
            if output.get("name") == "stdout":
                lines = "".join(output["text"]).splitlines()
                output["text"] = [(said if line.startswith(_LARGER) else line) + "\n" for line in lines]
    if json.dumps(notebook) != before:
        with replacing(path) as part:
            text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
            part.write_text(text + "\n", encoding="utf-8")


def larger_runs(notebook: str, reports: Path = CHECKOUT / "reports") -> pd.DataFrame:
    """Return the committed records of a notebook's largest profile, to be shown beside a quick run; perhaps none."""
    return headline(read_records(reports / notebook).query("profile != 'quick'"))


def full_size(experiment: str, notebook: str, reports: Path) -> str:
    """Return what the full-size runs of a notebook found: intervals and verdicts where there are any, else means."""
    records = larger_runs(notebook, reports)
    if records.empty:
        return f"{_LARGER[1]}: no record here."
    profile = records["profile"].iloc[0]
    seeds = records["seed"].nunique()
    published = profile == "paper" and experiment in EXPERIMENTS
    scope = f"{_LARGER[not published]} (profile {profile}, {seeds} seed{'s' * (seeds != 1)}"
    table = pd.read_csv(reports / "claim.csv") if (reports / "claim.csv").is_file() else pd.DataFrame()
    rows = table[table["experiment"].eq(experiment)] if len(table) else table
    if len(rows):
        rows = rows[rows["rule"] == rows["rule"].iloc[0]]
        cells = [f"{title(row.task)} {with_interval(row)}, {_verdict(row)}" for row in rows.itertuples()]
        also = _larger_reading(notebook, reports) if experiment == "E6" else ""
        how = {"converged": "trained to convergence", "authors": "stopped as the authors did"}[rows["rule"].iloc[0]]
        compared = f"{how}; one network minus a network for each task, above 0 it is better, 90 % intervals"
        return f"{scope}; {compared}): {'; '.join(cells)}.{also}"
    if experiment in _OVER_SEEDS:
        return f"{scope}, 90 % intervals): {_OVER_SEEDS[experiment](records)}."
    means = over_seeds(records, ["task", "arm", "metric"])["mean"].rename("value").reset_index()
    return f"{scope}, means): {summary({'experiment': experiment, 'results': means.to_dict('records')})}."


def _verdict(row: Any) -> str:
    """A verdict of the claim in words, with its margin."""
    unit = f"point{'s' * (row.margin != 1)}" if row.metric == "accuracy" else "% of the error"
    margin = f"the margin of {row.margin:g} {unit}"
    words = {"non-inferior": f"no loss beyond {margin}", "inferior": f"a loss beyond {margin}"}
    return words.get(row.verdict) or (f"open at {margin}" if row.verdict == "inconclusive" else row.verdict)


def _differences(values: Values, arms: tuple[str, str] = ("multitask", "dedicated")) -> str:
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
    said += [", ".join(errors) + " than a network for each task" * (not points)] * bool(errors)
    return "; ".join(said)


def _scaled(values: Values) -> str:
    """On scaled pixels, as elsewhere; on raw ones where nothing else was trained."""
    raw = _differences(values)
    return _differences(values, ("multitask scaled", "dedicated scaled")) or (raw and f"on raw pixels: {raw}")


def _related(records: pd.DataFrame) -> str:
    """Say how far subnetworks are from networks of their own, and what part B's repeats say of reading a neighbour."""
    values = records.groupby(["task", "arm", "metric"], sort=False)["value"].mean().to_dict()
    return "; ".join(filter(None, [_differences(values), _reading(repeats(records))]))


def _reading(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    found = worth(rows)
    if not set(_READING) <= set(found.index):
        return ""
    cells = [
        f"{contrast} {Difference(row['difference'], row['low'], row['high'], row['repeats'])}, {row['answer']}"
        for contrast, row in found.loc[_READING].iterrows()
    ]
    seeds, count = int(found["seeds"].max()), int(found["repeats"].max())
    size = f"{count} repeat{'s' * (count != 1)}" + f" of {seeds} seeds" * (seeds > 1)
    return f"a neighbour that is read, in points ({size}): {'; '.join(cells)}"


def _larger_reading(notebook: str, reports: Path) -> str:
    """Say what `_reading` says of committed runs, which may be of another profile than the claim's."""
    rows = larger_repeats(notebook, reports)
    if rows.empty:
        return " Part B as it is now: no record yet."
    where = "in runs of the profile " + rows["profile"].iloc[0]
    return f" Part B, always of laptop's size ({where}): {_reading(rows)}."


def _told(values: Values) -> str:
    named = values.get(("task_identity", "discerner", "accuracy"))
    own = _differences(values, ("told", "dedicated"))
    return "; ".join([own] * bool(own) + ([f"the task is recognised in {named:.2f} %"] if named is not None else []))


def _ensemble(values: Values) -> str:
    words = {"multitask": "summed subnetworks", "small": "summed small networks"}
    sums = {arm: value for (task, arm, _), value in values.items() if task.endswith("_sum")}
    if sums:
        return ", ".join(f"{said} {sums[arm]:.2f} %" for arm, said in words.items() if arm in sums)
    rules = {"disjoint": "multitask", "by the released rule": "multitask, legacy percentile"}
    found = {rule: _differences(values, (arm, "dedicated")) for rule, arm in rules.items()}
    return "; ".join(f"{rule}: {said}" for rule, said in found.items() if said)


def _forgetting(values: Values) -> str:
    lost = {arm: values.get(("all", arm, "forgetting_accuracy")) for arm in ("multitask", "fine-tuning")}
    if None in lost.values():
        return ""
    return f"subnetworks forget {lost['multitask']:.2f} points a task, fine-tuning {lost['fine-tuning']:.2f}"


def _capacity(records: pd.DataFrame) -> str:
    """Say what each way gives when the network is full of most tasks, and whether widths lie on one curve."""
    rows = widest(records)
    if rows.empty:
        return ""
    rows = rows[rows["count"] == rows["count"].max()]
    means = rows.groupby("choice")["value"].agg(list).to_dict()
    cells = [f"{words} {_mean(means[choice])} %" for choice, words in CHOICES.items() if choice in means]
    count, width = rows["count"].iloc[0], rows["width"].iloc[0]
    of = f" of {width} units a layer" if width else ""
    said = [f"mean of three of {count} tasks in one network{of}: {', '.join(cells)}"]
    curves = {CHOICES[choice]: one_curve(records, choice) for choice in means if choice.endswith("evened")}
    curves = [f"{words}: {found}" for words, found in curves.items() if found is not None]
    return "; ".join([*said, *[f"one curve over inputs a unit? {', '.join(curves)}"] * bool(curves)])


def _mean(values: list[float]) -> str:
    low, mean, high = interval(values)
    return f"{mean:.2f} ({low:.2f} to {high:.2f})" if len(values) > 1 else f"{mean:.2f}"


def _density(values: Values) -> str:
    """Say what the smallest share of weights gives, by way of choosing them."""
    arms = [arm for _, arm, _ in values if arm.startswith("density ")]
    shares = sorted({float(arm.split()[1].rstrip(",")) for arm in arms})
    if not shares:
        return ""
    prefix, cells = f"density {shares[0]:g}", {}
    for (task, arm, metric), value in values.items():
        if metric == "accuracy" and arm.startswith(prefix) and arm.endswith(ENDING):
            way = arm.removeprefix(prefix).removesuffix(ENDING).strip() or "gradient"
            cells.setdefault(way, []).append(f"{title(task)} {value:.2f}")
    said = "; ".join(f"{way}: {', '.join(found)}" for way, found in cells.items())
    return f"at density {shares[0]:g}, accuracy in % by choice: {said}"


def _performance(values: Values) -> str:
    cells = [
        f"{task} {value:.2f}"
        for (task, arm, metric), value in values.items()
        if (arm, metric) == ("default", "speedup_batch_32")
    ]
    return f"a training step at batch 32, times as fast as dense networks: {', '.join(cells)}" if cells else ""


def _starves(records: pd.DataFrame) -> str:
    """Say at the smallest density how far random masks are ahead, and what becomes of that when no output starves."""
    found = effects(records)
    if found.empty:
        return ""
    found = found[found["density"] == found["density"].min()]
    said = []
    for contrast, words in (
        ("random instead of scores", "random masks minus the paper's"),
        ("random instead of scores, heads evened out", "the same with both heads evened"),
        ("head evened out", "the paper's with an evened head minus with a cut one"),
        ("head whole instead of evened out", "with a whole head minus with an evened one"),
    ):
        rows = found[found["contrast"] == contrast]
        if rows.empty:
            continue
        cells = [
            f"{title(row.task)} {Difference(row.difference, row.low, row.high, row.seeds)}" for row in rows.itertuples()
        ]
        said.append(f"{words}: {', '.join(cells)}")
    return f"at density {found['density'].iloc[0]:g}, in points: {'; '.join(said)}"


def _recipe(records: pd.DataFrame) -> str:
    """Say how far the release's recipe and the controls of as many weights are from ours, trained to convergence."""
    words = {"as released": "the release's recipe", "random": "random masks", "small": "a small network"}
    if not {arm + ENDING for arm in ("multitask", *words)} <= set(records["arm"]):
        return ""
    said = []
    for arm, name in words.items():
        pair = (arm + ENDING, "multitask" + ENDING)
        cells = [f"{title(task)} {between(records, task, *pair)}" for task in records["task"].unique()]
        said.append(f"{name} {', '.join(cells)}")
    return f"points from ours, both trained to convergence: {'; '.join(said)}"


def _method(values: Values) -> str:
    cells = [f"{task} {value:.0f}" for (task, arm, _), value in values.items() if arm == "subnetwork"]
    return f"drawn, not trained: values owned by {', '.join(cells)}; none has two owners" if cells else ""


def _leak(values: Values) -> str:
    moved = {arm: value for (_, arm, metric), value in values.items() if metric == "moved"}
    if set(moved) != {"subnetwork", "gradient mask"}:
        return ""
    own, masked = moved["subnetwork"], moved["gradient mask"]
    return f"while the other task trains, a subnetwork moves by {own:g}, one kept by masking gradients by {masked:.2f}"


_READING = list(CONTRASTS)[:2]
_OVER_SEEDS: dict[str, Callable[[pd.DataFrame], str]] = {
    "starves": _starves,
    "recipe": _recipe,
    "capacity": _capacity,
    "E6": _related,
}


def _audit(values: Values) -> str:
    shares = {arm: value for (task, arm, metric), value in values.items() if (task, metric) == ("last", "share")}
    if set(shares) != {"released", "exact"}:
        return ""
    theirs, ours = (f"{100 * shares[rule]:.0f} %" for rule in ("released", "exact"))
    return f"the last task gets {theirs} of the weights by the released rule, {ours} by ours"


def _summary(values: Values) -> str:
    count = values.get(("all", "records", "results"))
    return "" if count is None else f"{count:,.0f} results of larger runs read, none made"


_SPECIAL: dict[str, Callable[[Values], str]] = {
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
