"""The boxes at both ends of a notebook: what its run found, and what the full-size runs found."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from msnlib.files import CHECKOUT, replacing
from msnlib.lab.findings import EXPERIMENTS, with_interval
from msnlib.lab.looks import title
from msnlib.lab.notebooks import read_notebook
from msnlib.lab.pooling import headline, over_seeds
from msnlib.lab.records import Run, read_records
from msnlib.lab.related import larger_repeats
from msnlib.lab.summary import EVENED, OVER_SEEDS, Found, ended_by_cap, of_values, reading, summary

_LARGER = ("Full-size runs", "Larger runs")  # how `full_size` begins
_SENTENCE = 200  # characters; what is longer is a list
_ONE_SIZE = ("method", "01", "audit")  # experiments whose profiles are all the same


def print_findings(run: Run, reports: Path = CHECKOUT / "reports") -> None:
    """Print what a notebook's run found, once it has results, and what the full-size runs of the notebook found, where
    it has such.

    Args:
        run: the notebook's.
        reports: the folder with the records of full-size runs.
    """
    profile, seed = run.configuration["profile"], run.configuration["seed"]
    if run.results:
        found = summary({"experiment": run.experiment, "results": run.results})
        print(_said(f"This run ({profile}, seed {seed})", found))
    if run.experiment in _ONE_SIZE:
        return
    print(full_size(run.experiment, run.notebook, reports))
    if profile == "quick":
        print("A quick run is too small to judge the claim; it shows how the experiment is made.")


def refresh_findings(path: Path, experiment: str, reports: Path) -> None:
    """Let an executed notebook's boxes say what `print_findings` would of today's records; its own run's part stays.

    Args:
        path: of the notebook, whose name is that of its source.
        experiment: its id.
        reports: the folder with the records of full-size runs.
    """
    notebook, said = read_notebook(path), full_size(experiment, path.stem, reports).splitlines()
    before = json.dumps(notebook)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []) if cell.get("id", "").startswith("findings-") else []:
            if output.get("name") == "stdout":
                lines, old = [], False
                for line in "".join(output["text"]).splitlines():
                    old = line.startswith(_LARGER) or (old and line.startswith("- "))
                    lines += said if line.startswith(_LARGER) else [] if old else [line]
                output["text"] = [f"{line}\n" for line in lines]
    if json.dumps(notebook) != before:
        with replacing(path) as part:
            text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
            part.write_text(text + "\n", encoding="utf-8")


def larger_runs(notebook: str, reports: Path = CHECKOUT / "reports") -> pd.DataFrame:
    """Return the committed records of a notebook's largest profile, to be shown beside a quick run; perhaps none."""
    return headline(read_records(reports / notebook).query("profile != 'quick'"))


def full_size(experiment: str, notebook: str, reports: Path) -> str:
    """Return what the full-size runs of a notebook found: intervals and verdicts where there are any, else means.

    It is one line, or a line and a list, each of whose lines begins with ``"- "``.
    """
    records = larger_runs(notebook, reports)
    if records.empty:
        return f"{_LARGER[1]}: no record here."
    profile = records["profile"].iloc[0]
    seeds = records["seed"].nunique()
    published = profile == "paper" and experiment in EXPERIMENTS
    runs = f"{_LARGER[not published]} (profile {profile}, {seeds} seed{'s' * (seeds != 1)}"
    capped = ended_by_cap(records.to_dict("records"))
    table = pd.read_csv(reports / "claim.csv") if (reports / "claim.csv").is_file() else pd.DataFrame()
    rows = table[table["experiment"].eq(experiment)] if len(table) else table
    if len(rows):
        rows = rows[rows["rule"] == rows["rule"].iloc[0]]
        how = {"converged": "trained to convergence", "authors": "stopped as the authors did"}[rows["rule"].iloc[0]]
        items = [f"{title(row.task)} {_gap(row)}, {_verdict(row)}" for row in rows.itertuples()]
        items += _larger_reading(notebook, reports) if experiment == "E6" else []
        about = "one network minus a network for each task, above 0 it is better"
        unplanned = ", exploration" * bool((rows["evidence"] != "claim").all())
        return _said(f"{runs}{unplanned}, {how}, 90 % intervals)", Found(items, about))
    if experiment in OVER_SEEDS:
        found = OVER_SEEDS[experiment](records)
        smaller = _smaller_starve(notebook, reports) if experiment == "starves" and profile != "laptop" else []
        return _said(f"{runs}, 90 % intervals)", found._replace(items=[*found.items, *smaller, *capped]))
    means = over_seeds(records, ["task", "arm", "metric"])["mean"]
    found = of_values(experiment, means.to_dict())
    items = [*found.items, *capped] if found.items else [f"{len(means)} results"]
    return _said(f"{runs}{', means' * (seeds > 1)})", found._replace(items=items))


def _said(opening: str, found: Found) -> str:
    """A sentence, or what is too long for one as a list."""
    sentence = f"{opening}: {found}."
    if len(sentence) <= _SENTENCE or len(found.items) == 1:
        return sentence
    heading = ": ".join([opening, found.about] if found.about else [opening])
    return "\n".join([f"{heading}:", *(f"- {item}" for item in found.items)])


def _gap(row: Any) -> str:
    """A difference of the claim with its interval: points with their signs, error as more or less of it."""
    if row.metric == "accuracy":
        return with_interval(row)
    gaps = (row.difference, row.high, row.low)
    mean, least, most = (f"{abs(gap):.1f} % {'less' if gap > 0 else 'more'}" for gap in gaps)
    return f"{mean} error" + f" ({least} to {most})" * (row.seeds > 1)


def _verdict(row: Any) -> str:
    """A verdict of the claim in words, with its margin."""
    unit = f"point{'s' * (row.margin != 1)}" if row.metric == "accuracy" else "%"
    margin = f"the margin of {row.margin:g} {unit}"
    words = {"non-inferior": f"no loss beyond {margin}", "inferior": f"a loss beyond {margin}"}
    return words.get(row.verdict) or (f"open at {margin}" if row.verdict == "inconclusive" else row.verdict)


def _smaller_starve(notebook: str, reports: Path) -> list[str]:
    """Say what the runs of a smaller network found, which have more seeds."""
    records = headline(read_records(reports / notebook).query("profile == 'laptop'"))
    found = OVER_SEEDS["starves"](records)
    opening = f"in smaller networks ({records['seed'].nunique()} seeds), {found.about}"
    return [f"{opening}: {item}" for item in found.items if item.startswith(EVENED)]


def _larger_reading(notebook: str, reports: Path) -> list[str]:
    """Say what `reading` says of committed runs, which may be of another profile than the claim's: of the seeds that
    were declared to answer, and where there are others also of all.
    """
    rows, declared = (larger_repeats(notebook, reports, declared=only) for only in (False, True))
    if rows.empty:
        return ["part B as it is now: no record yet"]
    where = f"part B, always of laptop's size (in runs of the profile {rows['profile'].iloc[0]})"
    if declared.empty or len(declared) == len(rows):
        return [f"{where}: {reading(rows)}"]
    return [f"{where}, declared seeds: {reading(declared)}", f"the same with further seeds: {reading(rows)}"]
