"""What of the paper was repeated, by which definition, and what it cost: a table for the checklist of docs/."""

from pathlib import Path

import pandas as pd

from msnlib.lab.claim import claim_verdicts
from msnlib.lab.notebooks import read_notebook, source_of
from msnlib.lab.pooling import headline, natural
from msnlib.lab.published import published_table, repeating_arm
from msnlib.lab.records import read_record
from msnlib.lab.report import markdown

PUBLISHED_SIZE = "paper"


def checklist(records: pd.DataFrame, claim: pd.DataFrame, reports: Path, notebooks: Path) -> str:
    """Return a table as Markdown, a line for each experiment of the paper, and a sentence on the whole.

    A published figure counts as repeated when it lies within the range of our seeds, two at least, at the published
    size; only there can it. Hours are those of all committed runs of the experiment, whatever they are used for.

    Args:
        records: as `msnlib.lab.records.read_records` gives them.
        claim: as `msnlib.lab.claim.claim_table` gives it.
        reports: the folder of the records.
        notebooks: the folder of the notebooks, whose headings name the experiments.
    """
    shown, verdicts = headline(records[records["profile"] != "quick"]), claim_verdicts(claim)
    names, (hours, read) = _named(notebooks), _hours(records, reports)
    ids = [experiment for experiment in hours if experiment in set(published_table()["id"])]
    lines, total = [], [0, 0, 0]
    for experiment, figures in sorted(published_table().groupby("id"), key=lambda pair: natural(pair[0])):
        ours = shown[shown["experiment"] == experiment]
        inside = [found for found in (_within(ours, row) for row in figures.itertuples()) if found is not None]
        total = [a + b for a, b in zip(total, (sum(inside), len(inside), len(figures)), strict=True)]
        left = f", {len(figures) - len(inside)} not tried" if len(inside) < len(figures) else ""
        repeated = f"{sum(inside)} of {len(inside)}{left}" if inside else "none tried"
        seeds = ours["seed"].nunique()
        size = f"{ours['profile'].iloc[0]}, {seeds} seed{'s' * (seeds > 1)}" if seeds else "quick only"
        spent = f"{hours[experiment]:.1f}" if experiment in hours else ""
        name = names.get(experiment, experiment)
        tested = claim[claim["experiment"].eq(experiment)]
        unplanned = " (exploration)" * bool(len(tested) and (tested["evidence"] != "claim").all())
        lines.append([name, size, repeated, f"{verdicts.get(experiment, 'not tested')}{unplanned}", spent])
    header = ["experiment", "largest runs", "published figures repeated", "no loss on any task", "hours"]
    whole, beyond = sum(hours.values()), sum(hours.values()) - sum(map(hours.get, ids))
    said = (
        f"Of {total[2]} published figures {total[1]} were tried, and {total[0]} of these are repeated. All committed "
        f"runs together took {whole:.0f} hours by the clock, {beyond:.0f} of them for questions that the paper does "
        f"not ask. Epochs that a run found stored took no time again: {read:.0f} % of those that records list."
    )
    return f"{markdown(header, lines, first_number=4)}\n\n{said}"


def _within(ours: pd.DataFrame, row: tuple) -> bool | None:
    """Whether a published figure lies within the range of our seeds; None without two of the published size."""
    arm = repeating_arm(row.id, row.task, row.arm)
    found = ours[ours["task"].eq(row.task) & ours["arm"].eq(arm) & ours["metric"].eq(row.metric)]
    values = found.loc[found["profile"] == PUBLISHED_SIZE, "value"]
    return bool(values.min() <= row.value <= values.max()) if len(values) > 1 else None


def _named(notebooks: Path) -> dict[str, str]:
    """Return experiment -> its notebook's heading as a link, its number behind it."""
    found: dict[str, str] = {}
    ids = set(published_table()["id"])
    for path in sorted(notebooks.glob("[0-9]*.ipynb")):
        title = source_of(read_notebook(path)["cells"][0]).partition("\n")[0].partition(" · ")[2]
        for experiment in sorted(ids - set(found)):
            if f"({experiment})" in title or f"({experiment} " in title:
                words = title.replace(f" ({experiment})", "").replace(f" ({experiment} and beyond)", "")
                found[experiment] = f"[{words}](../notebooks/{path.name}) ({experiment})"
    return found


def _hours(records: pd.DataFrame, reports: Path) -> tuple[dict[str, float], float]:
    """Return experiment -> hours that its runs took, each from start to end; and of how many of the epochs that runs
    list, in per cent, they were found stored.
    """
    runs = records.drop_duplicates("file")
    whole = [read_record(reports / file) for file in runs["file"]]
    spent = runs.assign(hours=[record["run"].get("seconds", 0) / 3600 for record in whole])
    listed = [training for record in whole for training in record.get("stored") or () if "epochs" in training]
    epochs, read = (sum(training[name] for training in listed) for name in ("epochs", "read"))
    return spent.groupby("experiment")["hours"].sum().to_dict(), 100 * read / max(epochs, 1)
