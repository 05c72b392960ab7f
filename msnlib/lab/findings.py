"""The three findings, as sentences: from records, for the README and the site's front page."""

import pandas as pd

from msnlib.lab.capacity import capacity
from msnlib.lab.claim import CAPPED, claim_verdicts
from msnlib.lab.differences import Difference
from msnlib.lab.factorial import effects
from msnlib.lab.looks import title
from msnlib.lab.pooling import headline, over_seeds
from msnlib.lab.published import published_value
from msnlib.lab.report import format_difference

# What experiments and tasks are called where nobody knows their numbers yet.
EXPERIMENTS = {
    "E1": "two image tasks in parallel",
    "E2": "two with convolutions",
    "E3": "two before house prices",
    "E4": "images beside prices and reviews",
    "E5": "photographs before digits and clothes",
    "E6": "easy and hard classes",
    "E7": "one task five times",
    "E9": "texts in a transformer",
    "E10": "two image tasks with the task told",
}
_WORDS = {"non-inferior": "shown", "inconclusive": "open", "inferior": "refuted"}


def findings(records: pd.DataFrame, claim: pd.DataFrame) -> str:
    """Return what was found about loss, forgetting and limits as a list in Markdown, each with its scope.

    Args:
        records: as `msnlib.lab.records.read_records` gives them.
        claim: as `msnlib.lab.claim.claim_table` gives it.
    """
    shown = headline(records[records["profile"] != "quick"])
    scarce = " ".join(part for part in (limits(shown), starving(shown)) if part)
    parts = [loss(claim), forgetting(shown), scarce]
    return "\n".join(f"- {part}" for part in parts if part)


def named(experiment: str) -> str:
    """Return an experiment's name in words, its number in brackets."""
    return f"{EXPERIMENTS[experiment]} ({experiment})" if experiment in EXPERIMENTS else experiment


def loss(claim: pd.DataFrame) -> str:
    """Say where "no loss on any task" is shown at the published sizes, how many differences show it, the largest loss
    that is shown, and which differences are open or refuted.
    """
    rows = claim[claim["profile"].eq("paper") & claim["rule"].eq(next(iter(claim["rule"]), ""))]
    if rows.empty:
        return ""
    made = rows["evidence"].eq("claim")
    decided = rows[made] if made.any() else rows
    verdicts = claim_verdicts(decided)
    said = [
        f"{words} for {', '.join(named(name) for name, found in verdicts.items() if found == verdict)}"
        for verdict, words in _WORDS.items()
        if verdict in verdicts.values()
    ]
    kept = decided[decided["verdict"] == "non-inferior"]
    within = (
        f"{len(kept)} of {len(decided)} differences from a network for each task, trained to convergence, are within "
        f"the margin, and {(decided['difference'] < 0).sum()} are below 0{_largest(kept[kept['high'] < 0])}"
    )
    rest = "".join(
        f" {words}: {', '.join(f'{_case(row)} {with_interval(row)}' for row in found.itertuples())}."
        for words, found in (
            ("Beyond it", decided[decided["verdict"] == "inferior"]),
            ("Ended by the cap on epochs", decided[decided["verdict"] == CAPPED]),
        )
        if len(found)
    )
    if reaching := (decided["verdict"] == "inconclusive").sum():
        rest = f" Open: {reaching}, whose intervals reach beyond it (left panel; numbers in the results).{rest}"
    alone = decided[decided["without_one_verdict"].notna() & decided["without_one_verdict"].ne(decided["verdict"])]
    also = "".join(f" The verdict on {_case(row)} rests on a single test example." for row in alone.itertuples())
    pairs = _by_both_rules(claim, decided)
    also += "".join(_early(row, other) for row, other in pairs)
    lost = ", ".join(f"{_case(other)} {with_interval(other)}" for _, other in pairs if other.high < 0)
    also += f" Stopped as the authors did, a loss is shown for {lost}." if lost else ""
    early = rows.loc[~made, "experiment"].unique()
    also += f" Exploration, and so not counted here: {', '.join(early)}." if len(early) else ""
    counts = sorted({f"{count}" for count in decided["seeds"]}, key=int)
    return (
        f"**No loss that matters, at the published size: {'; '.join(said)}.** {within}.{rest} Means of "
        f"{' or '.join(counts)} seeds, 90 % intervals; the margin is {_margins(decided)}.{also}"
    )


def _largest(losses: pd.DataFrame) -> str:
    """Name the largest loss that is shown though it is within the margin, in parts of the margin."""
    if losses.empty:
        return ""
    row = next(losses.loc[[(losses["difference"] / losses["margin"]).idxmin()]].itertuples())
    return f"; the largest loss shown within it is {_case(row)} {with_interval(row)}"


def _by_both_rules(claim: pd.DataFrame, rows: pd.DataFrame) -> list[tuple]:
    """Return the rows, each with the same case under the other stopping rule."""
    others = {(o.experiment, o.task, o.profile): o for o in claim.itertuples() if o.rule not in set(rows["rule"])}
    pairs = [(row, others.get((row.experiment, row.task, row.profile))) for row in rows.itertuples()]
    return [pair for pair in pairs if pair[1] is not None]


def _early(row: tuple, other: tuple) -> str:
    """Say where a subnetwork is ahead by the authors' rule alone, and whether a published gain lies in its interval."""
    arms = [published_value(row.experiment, row.task, arm, row.metric) for arm in ("multitask", "dedicated")]
    if row.metric != "accuracy" or None in arms or row.low > 0 or not other.low > 0:
        return ""
    gain = arms[0] - arms[1]
    fits = "lies within" if other.low <= gain <= other.high else "lies outside"
    return (
        f" Stopped as the authors did, {_case(row)} is ahead by {with_interval(other)}: the published gain of "
        f"{gain:+.2f} {fits} that, and is not seen after training to convergence."
    )


def _case(row: tuple) -> str:
    return f"{row.experiment} {title(row.task)}"


def with_interval(row: tuple) -> str:
    """Return a row's difference with its unit and interval."""
    unit = "points" if row.metric == "accuracy" else "% of the error"
    ends = [format_difference(row.metric, value) for value in (row.difference, row.low, row.high)]
    return f"{ends[0]} {unit} ({ends[1]} to {ends[2]})" if ends[1] else f"{ends[0]} {unit}"


def _margins(rows: pd.DataFrame) -> str:
    """The margins, that of most tasks last and without their names."""
    found = rows.drop_duplicates("task").assign(
        words=[
            f"{row.margin:g} {'% of the error' if row.metric == 'mse' else 'point' if row.margin == 1 else 'points'}"
            for row in rows.drop_duplicates("task").itertuples()
        ]
    )
    *others, most = found["words"].value_counts(ascending=True, sort=True).index
    named = [f"{words} on {', '.join(map(title, found.loc[found['words'] == words, 'task']))}" for words in others]
    return ", ".join([*named, f"{most} on the others" if others else most])


def forgetting(shown: pd.DataFrame) -> str:
    """Say what subnetworks forget in a sequence of tasks, and what fine-tuning does."""
    rows = shown[shown["experiment"].eq("forgetting") & shown["task"].eq("all")]
    lost = over_seeds(rows[rows["metric"] == "forgetting_accuracy"], ["arm"]) if len(rows) else rows
    if not {"multitask", "fine-tuning"} <= set(lost.index):
        return ""
    whole = over_seeds(rows[rows["metric"] == "accuracy"], ["arm"])["mean"]
    ours, theirs = lost.loc["multitask"], lost.loc["fine-tuning"]
    gap = whole["dedicated"] - whole["multitask"]
    count = shown[shown["experiment"].eq("forgetting") & shown["task"].ne("all")]["task"].nunique()
    title = "Nothing is forgotten" if ours["max"] == 0 else "Something is forgotten"
    most = f"at most {ours['max']:.2f} points" if ours["max"] else "nothing"
    return (
        f"**{title}.** Of {count} image tasks learned one after another, subnetworks forget {most} "
        f"in any seed; one network trained on for each task forgets {theirs['mean']:.1f} points ({theirs['min']:.1f} "
        f"to {theirs['max']:.1f}). A network for each task is {abs(gap):.1f} points "
        f"{'ahead of' if gap >= 0 else 'behind'} the subnetworks ({_scope(rows)}, a fixed number of epochs)."
    )


def limits(shown: pd.DataFrame) -> str:
    """Say what becomes of accuracy when the network is full of tasks, beside both controls."""
    points = capacity(shown)
    if points.empty:
        return ""
    last, before = sorted(points.index.get_level_values("count").unique())[-1:-3:-1]
    cells = {
        count: [f"{points.loc[(arm, count), 'mean']:.1f}" for arm in ("multitask", "random", "small")]
        for count in (last, before)
    }
    ours, random = points.loc[("multitask", last)], points.loc[("random", last)]
    breaks = ours["max"] < random["min"]
    title = "It breaks where weights are scarce" if breaks else f"No break up to {last} tasks"
    rows = shown[shown["experiment"] == "capacity"]
    return (
        f"**{title}.** With {last} tasks in one network, weights chosen as in the paper give {cells[last][0]} % "
        f"({ours['min']:.1f} to {ours['max']:.1f}), as many chosen at random {cells[last][1]} % ({random['min']:.1f} "
        f"to {random['max']:.1f}), small dense networks with as many {cells[last][2]} %; with {before} tasks it is "
        f"{cells[before][0]}, {cells[before][1]} and {cells[before][2]} % ({_scope(rows)}, trained to convergence)."
    )


def starving(shown: pd.DataFrame) -> str:
    """Say what it gives at the smallest share of weights that every output of the head gets as many, and how far random
    masks are ahead after that.
    """
    rows = shown[shown["experiment"] == "starves"]
    found = effects(rows)
    found = found[found["density"].eq(found["density"].min())]
    evened = found[found["contrast"].eq("head evened out")]
    left = found[found["contrast"].eq("random instead of scores, heads evened out") & found["low"].gt(0)]
    if evened.empty:
        return ""
    seeds, capped = evened["seeds"].iloc[0], evened["capped"].sum() + left["capped"].sum()
    size = {"paper": "the published width", "laptop": "a smaller network"}[rows["profile"].iloc[0]]
    scope = f"{size}, fewer images, {seeds} seeds, 90 % intervals, " + (
        "ended by a cap on epochs where it says so" if capped else "trained to convergence"
    )
    smallest = rows["arm"].str.match(rf"density {found['density'].iloc[0]:g} (?!random).*, cut, redrawn, converged$")
    starved = rows.loc[smallest, "dead_outputs"].gt(0).any() if "dead_outputs" in rows else False
    ahead = f" Random weights are then still ahead on {_points(left, ' by')}." if len(left) else ""
    return (
        f"In another experiment ({scope}) two tasks keep {100 * found['density'].iloc[0]:g} % each"
        f"{', and outputs are left without any weight' if starved else ''}. Sharing as many evenly between the outputs "
        f"gives, in points, {_points(evened)}.{ahead}"
    )


def _points(rows: pd.DataFrame, by: str = "") -> str:
    """Tasks with their differences; where a cap ended trainings, how many."""
    return ", ".join(
        f"{title(row.task)}{by} {Difference(row.difference, row.low, row.high, row.seeds)}"
        + (f", {row.capped} trainings ended by the cap" if row.capped else "")
        for row in rows.itertuples()
    )


def _scope(rows: pd.DataFrame) -> str:
    profile, seeds = rows["profile"].iloc[0], rows["seed"].nunique()
    size = {"paper": "the published size", "laptop": "a smaller network, fewer images"}[profile]
    return f"{size}, {seeds} seed{'s' * (seeds != 1)}, range in brackets"
