"""The curves of notebook 10: networks of several widths, full of tasks, and whether inputs a unit decide alone."""

from __future__ import annotations

import math
from itertools import combinations
from typing import NamedTuple

import pandas as pd

from msnlib.lab.differences import Difference, between, over_pairs
from msnlib.lab.pooling import headline, over_seeds
from msnlib.lab.report import markdown

MARGIN = 1.0  # points of accuracy that two widths may be apart at equal inputs a unit and still lie on one curve
CHOICES = {  # arm -> what it is, in words
    "multitask": "the paper's choice",
    "multitask evened": "the paper's with evened heads",
    "random": "random choice",
    "random evened": "random choice with evened heads",
    "small": "small dense networks",
}
CONTRASTS = {  # what the results page compares: one arm minus another
    "the paper's minus random": ("multitask", "random"),
    "heads evened: the paper's minus random": ("multitask evened", "random evened"),
    "heads evened: random minus small": ("random evened", "small"),
}
_ARM = r"^(?P<choice>[a-z ]+) T=(?P<count>\d+)(?: width=(?P<width>\d+))?$"


def full_arm(choice: str, count: int, width: int) -> str:
    """The name in records of ``count`` tasks in a network of ``width`` units a layer; ``choice`` is of `CHOICES`."""
    return f"{choice} T={count} width={width}"


def full_networks(records: pd.DataFrame) -> pd.DataFrame:
    """The accuracies of full networks: the means of the tasks that were trained, and each of these.

    Args:
        records: as `msnlib.lab.records.read_records` gives them, of this experiment. Older runs, of a single width,
            do not name it in their arms.

    Returns:
        The rows with columns ``choice``, ``count`` (tasks T), ``width`` (0 where it is not named) and ``inputs`` (of a
        unit of the second layer on average, width / T).
    """
    parts = records["arm"].str.extract(_ARM)
    rows = records.assign(**parts)[parts["count"].notna() & records["metric"].eq("accuracy")]
    rows = rows.assign(count=rows["count"].astype(int), width=pd.to_numeric(rows["width"]).fillna(0).astype(int))
    return rows.assign(inputs=rows["width"] / rows["count"])


def widest(records: pd.DataFrame) -> pd.DataFrame:
    """The means of `full_networks`, of the widest network alone."""
    rows = full_networks(records)
    return rows[rows["task"].eq("mean") & rows["width"].eq(rows["width"].max())]


def capacity(shown: pd.DataFrame) -> pd.DataFrame:
    """Return mean, min and max over seeds of the tasks' mean accuracy by arm and number of tasks, widest network.

    Args:
        shown: records, of one pool for this experiment.
    """
    rows = widest(shown[shown["experiment"] == "capacity"])
    return over_seeds(rows.assign(arm=rows["choice"]), ["arm", "count"]) if len(rows) else pd.DataFrame()


class OneCurve(NamedTuple):
    """Whether networks of several widths have the same accuracy at equal inputs a unit.

    Attributes:
        verdict: ``one curve``: at each number of inputs that all widths have, the 90 % interval of the difference of
            any two lies within `MARGIN`. ``not one curve``: at one of them an interval lies beyond it. ``ended by the
            cap``: the cap on epochs, and no stopping rule, ended one of these trainings. Else ``open``, as with a
            single seed.
        at_tasks, at_inputs: standard deviation between the widths' means, root mean square over the numbers of tasks
            and over the numbers of inputs that all widths have.
        chance: what `at_inputs` would be about if nothing but the seed made a difference; NaN for a single seed.
        largest: of the differences at equal inputs, wider less narrower, the one whose mean is farthest from 0.
        inputs, narrow, wide: where that is.
    """

    verdict: str
    at_tasks: float
    at_inputs: float
    chance: float
    largest: Difference
    inputs: float
    narrow: int
    wide: int

    def __str__(self) -> str:
        pair = f"{self.wide} minus {self.narrow} units at {self.inputs:g} inputs"
        return f"{self.verdict} (farthest apart are {pair}: {self.largest} points)"


def one_curve(records: pd.DataFrame, choice: str) -> OneCurve | None:
    """Compare the widths at equal inputs a unit.

    Args:
        records: of one pool.
        choice: of `CHOICES`.

    Returns:
        None where there are not two widths with a number of inputs in common.
    """
    rows = _of(records, choice)
    found = _apart(rows)
    if not found:
        return None
    where = max(found, key=lambda key: abs(found[key].difference))
    alike = rows[rows["inputs"].isin({inputs for inputs, *_ in found})]
    variance = alike.groupby(["inputs", "width"])["value"].var().mean()  # over seeds
    return OneCurve(
        _verdict(alike, list(found.values())),
        *(_between_widths(rows, "count"), _between_widths(alike, "inputs")),
        *(math.sqrt(variance / alike["seed"].nunique()), found[where], *where),
    )


def widths_table(records: pd.DataFrame, choice: str) -> pd.DataFrame:
    """The widths at equal inputs a unit, as texts: what `one_curve` compares.

    Args:
        records: of one pool.
        choice: of `CHOICES`.

    Returns:
        A row for each number of inputs that all widths have, the fewest first; a column for the mean accuracy of each
        width, and one for the difference, wider less narrower, whose mean is farthest from 0.
    """
    rows = _of(records, choice)
    found = _apart(rows)
    means = rows.groupby(["inputs", "width"])["value"].mean()
    lines = {}
    for inputs in sorted({inputs for inputs, *_ in found}):
        here = [key for key in found if key[0] == inputs]
        _, narrow, wide = where = max(here, key=lambda key: abs(found[key].difference))
        cells = {f"{width} units": f"{value:.2f}" for width, value in means[inputs].items()}
        lines[f"{inputs:g}"] = cells | {"farthest apart": f"{wide} minus {narrow}: {found[where]}"}
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("inputs a unit")


def capacity_section(records: pd.DataFrame) -> str:
    """Return notebook 10's larger runs as Markdown: accuracy of the widest network by number of tasks, differences of
    arms there, with the most tasks also by place in the order, and the widths at equal inputs a unit.

    Args:
        records: as `msnlib.lab.records.read_records` gives them.
    """
    shown = headline(records[records["experiment"].eq("capacity") & records["profile"].ne("quick")])
    if shown.empty:
        return "No run is made yet."
    points = capacity(shown)
    choices = [choice for choice in CHOICES if choice in points.index]
    counts = sorted(points.index.unique("count"))
    cells = {key: f"{row['mean']:.1f} ± {row['sd']:.1f}" for key, row in points.iterrows()}
    body = [[f"{count}", *(cells.get((choice, count), "") for choice in choices)] for count in counts]
    capped = full_networks(shown)["capped"].eq(True).sum() if "capped" in shown else 0
    scope = f"`{shown['profile'].iloc[0]}`, {shown['seed'].nunique()} seeds"
    scope += f", {capped} results ended by the cap on epochs" * bool(capped)
    header = ["tasks", *(CHOICES[choice] for choice in choices)]
    parts = [("Accuracy in %, mean and standard deviation over seeds", scope, header, body)]
    scope += ", 90 % t intervals"
    pairs = {words: pair for words, pair in CONTRASTS.items() if set(pair) <= set(choices)}
    body = [[f"{count}", *(_apart_at(shown, pair, count, "mean") for pair in pairs.values())] for count in counts[1:]]
    parts.append(("Differences in points", scope, ["tasks", *pairs], body))
    places = ("first", "middle", "last")
    body = [[words, *(_apart_at(shown, pair, counts[-1], place) for place in places)] for words, pair in pairs.items()]
    title = f"With {counts[-1]} tasks, by the place of the trained one in the order"
    parts.append((title, scope, ["points", *places], body))
    texts = [f"**{title}** ({scope})\n\n{markdown(header, body, 1)}" for title, scope, header, body in parts]
    for choice in choices:
        found = one_curve(shown, choice) if choice.endswith("evened") else None
        if found is not None:
            table = widths_table(shown, choice)
            body = [[inputs, *cells] for inputs, cells in zip(table.index, table.values, strict=True)]
            texts.append(
                f"**{CHOICES[choice].capitalize()}: {found.verdict}** ({scope})\n\n"
                f"{markdown([table.index.name, *table.columns], body, 1)}\n\n"
                f"Standard deviation between widths: {found.at_tasks:.2f} points at equal T, {found.at_inputs:.2f} at "
                f"equal inputs; by chance about {found.chance:.2f}."
            )
    return "\n\n".join(texts)


def _apart_at(records: pd.DataFrame, pair: tuple[str, str], count: int, task: str) -> str:
    """One arm of the widest network less another, with so many tasks in it."""
    width = full_networks(records)["width"].max()
    return between(records, task, *(full_arm(choice, count, width) for choice in pair)).short()


def _of(records: pd.DataFrame, choice: str) -> pd.DataFrame:
    """The means of `full_networks`, of one choice."""
    rows = full_networks(records)
    return rows[rows["task"].eq("mean") & rows["choice"].eq(choice)]


def _apart(rows: pd.DataFrame) -> dict[tuple[float, int, int], Difference]:
    """(inputs, narrower, wider) -> difference of the two, wider less narrower, at the inputs that all widths have."""
    widths = sorted(rows["width"].unique())
    if len(widths) < 2:
        return {}
    common = rows.groupby("inputs")["width"].nunique()
    cells = rows.pivot(index="seed", columns=["inputs", "width"], values="value")
    return {
        (inputs, narrow, wide): over_pairs(cells[inputs, wide], cells[inputs, narrow])
        for inputs in common.index[common == len(widths)]
        for narrow, wide in combinations(widths, 2)
    }


def _verdict(rows: pd.DataFrame, found: list[Difference]) -> str:
    if "capped" in rows and rows["capped"].eq(True).any():
        return "ended by the cap"
    if all(-MARGIN < one.low and one.high < MARGIN for one in found):  # never so with NaN, a single seed's
        return "one curve"
    return "not one curve" if any(one.low > MARGIN or one.high < -MARGIN for one in found) else "open"


def _between_widths(rows: pd.DataFrame, by: str) -> float:
    """Standard deviation between the widths' means, root mean square over what all widths have."""
    means = rows.groupby([by, "width"])["value"].mean().unstack().dropna()
    return math.sqrt(means.var(axis=1).mean())
