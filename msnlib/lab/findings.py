"""The three findings, as sentences: from records, for the README and the site's front page."""

import json

import pandas as pd

from msnlib.lab.capacity import capacity, widest
from msnlib.lab.claim import CAPPED, LENDERS, claim_verdicts
from msnlib.lab.differences import Difference
from msnlib.lab.factorial import effects
from msnlib.lab.looks import title
from msnlib.lab.pooling import headline, over_seeds
from msnlib.lab.report import format_difference

# What experiments and tasks are called where nobody knows their numbers yet.
EXPERIMENTS = {
    "E1": "two image tasks in parallel",
    "E2": "two with convolutions",
    "E3": "two, then house prices",
    "E4": "images, prices and reviews",
    "E5": "photographs, then digits and clothes",
    "E6": "easy and hard classes",
    "E7": "one task five times",
    "E9": "texts in a transformer",
    "E10": "two image tasks with the task told",
}
_WORDS = {  # of one, of several
    "non-inferior": ("shows it", "show it"),
    "inconclusive": ("is open", "are open"),
    "inferior": ("refutes it", "refute it"),
}
_VERDICTS = tuple(_WORDS)
_SHOWN = {  # of a loss that is shown: what its verdict says of it
    "non-inferior": "within the margin",
    "inconclusive": "perhaps beyond it",
    "inferior": "beyond it",
}
_FROZEN = {"packnet": "PackNet", "random": "random masks"}  # arms of notebook 09


def findings(records: pd.DataFrame, claim: pd.DataFrame) -> str:
    """Return what was found about loss, forgetting and limits as a list in Markdown, each with its scope.

    Args:
        records: as `msnlib.lab.records.read_records` gives them.
        claim: as `msnlib.lab.claim.claim_table` gives it.
    """
    shown = headline(records[records["profile"] != "quick"])
    smaller = headline(records[records["profile"].eq("laptop") & records["experiment"].eq("starves")])
    scarce = "\n".join(part for part in (limits(shown), starving(shown, smaller)) if part)
    return "\n".join(f"- {part}" for part in (loss(claim, shown), forgetting(shown), scarce) if part)


def named(experiment: str) -> str:
    """Return an experiment's name in words, its number in brackets."""
    return f"{EXPERIMENTS[experiment]} ({experiment})" if experiment in EXPERIMENTS else experiment


def loss(claim: pd.DataFrame, shown: pd.DataFrame | None = None) -> str:
    """Say how many experiments show "no loss on any task" at the published sizes; below that, which comparisons rule
    out a loss that matters and which are open or refute it, what loss is shown, what the authors' rule gives, and, if
    the records are ``shown``, how the runs were made.
    """
    rows = claim[claim["profile"].eq("paper") & claim["rule"].eq(next(iter(claim["rule"]), ""))]
    if rows.empty:
        return ""
    made = rows["evidence"].eq("claim")
    decided = rows[made] if made.any() else rows
    verdicts = list(claim_verdicts(decided).values())
    counted = {word: verdicts.count(word) for word in _WORDS if word in verdicts}
    answers = [f"{count} {_WORDS[word][count > 1]}" for word, count in counted.items()]
    pairs = _by_both_rules(claim, decided)
    early = rows.loc[~made, "experiment"].unique()
    counts = sorted({f"{count}" for count in decided["seeds"]}, key=int)
    told = [
        f"A loss beyond the margin is ruled out in {{}} of {len(decided)} comparisons. {{}}.",
        "Open are {} (hollow dots), whose intervals reach beyond it. {}.",
        "Beyond it as a whole are {}. {}.",
        "Ended by the cap on epochs were {}. {}.",
    ]
    parts, known = [], set()
    for words, word in zip(told, (*_VERDICTS, CAPPED), strict=True):
        found = decided[decided["verdict"] == word]
        parts += [words.format(len(found), _by_experiment(found, known))] * bool(len(found))
        known |= set(found["experiment"])
    alone = decided[decided["without_one_verdict"].notna() & decided["without_one_verdict"].ne(decided["verdict"])]
    parts += [f"The verdict on {_case(row)} rests on a single test example." for row in alone.itertuples()]
    below = f"{(decided['difference'] < 0).sum()} of {len(decided)} means are worse (below 0)"
    lost = [(row, f"{_case(row)} {_more(row)}") for row in decided.itertuples() if row.high < 0]
    lost = {word: ", ".join(said for row, said in lost if row.verdict == word) for word in _SHOWN}
    lost = "; ".join(f"{said}: {_SHOWN[word]}" for word, said in lost.items() if said)
    parts += [f"{below}. A loss is shown for {lost}." if lost else f"{below}."]
    lost = ", ".join(f"{_case(other)} {_more(other)}" for _, other in pairs if other.high < 0)
    parts += [f"Stopped as the authors did, a loss is shown for {lost}."] * bool(lost)
    made_how = "" if shown is None else _made_how(shown, decided)
    scope = f"The published size, {made_how}trained to convergence, {' or '.join(counts)} seeds, 90 % intervals; "
    scope += f"margins: {_margins(decided)}{_borrowed(decided)}"
    if len(early):
        scope += f"; exploration, not counted: {', '.join(early)}" if made.any() else "; all of it exploration"
    smaller = [name for name in claim["experiment"].unique() if name not in set(rows["experiment"])]
    scope += f"; smaller: {', '.join(smaller)}" * bool(smaller)
    answer = "In some experiments" if "inferior" in counted else "Partly open"
    if set(counted) <= {"non-inferior"}:
        answer = "Not beyond a margin"
    elif counted.get("inconclusive", 0) > len(verdicts) / 2 and "inferior" not in counted:
        answer = "Mostly open"
    opening = (
        f"**Does a task lose against a network of its own? {answer}.** No loss beyond a margin, on any task: of "
        f"the paper's {len(verdicts)} experiments {', '.join(answers)}."
    )
    return "\n".join([opening, *(f"  - {part}" for part in [*parts, f"*{scope}.*"])])


def _made_how(shown: pd.DataFrame, decided: pd.DataFrame) -> str:
    """Say how many of the weights a task has, and what was trained in bfloat16."""
    runs = shown[shown["profile"].eq("paper") & shown["experiment"].isin(decided["experiment"])]
    fixed = {row.experiment: json.loads(row.fixed) for row in runs.drop_duplicates("experiment").itertuples()}
    shares = [100 * settings["density"] for settings in fixed.values() if "density" in settings]
    ends = " to ".join(f"{share:g}" for share in sorted({min(shares), max(shares)})) if shares else ""
    halved = [name for name, settings in fixed.items() if settings.get("precision") == "bfloat16"]
    return f"{ends} % of the weights a task, " * bool(ends) + f"{', '.join(halved)} in bfloat16, " * bool(halved)


def _borrowed(decided: pd.DataFrame) -> str:
    """Say which experiments have controls of another, so that they are no independent tests."""
    names = set(decided["experiment"])
    borrowers = [name for name, lender in LENDERS.items() if {name, lender} <= names]
    return f"; {LENDERS[borrowers[0]]}'s controls serve {' and '.join(borrowers)} too" if borrowers else ""


def _by_experiment(rows: pd.DataFrame, known: set[str]) -> str:
    """Name experiments, in words unless they are known, and of each the tasks."""
    said = "; ".join(
        f"{name if name in known else named(name)}: {', '.join(map(title, own['task']))}"
        for name, own in rows.groupby("experiment", sort=False)
    )
    return said[:1].upper() + said[1:]


def _more(row: tuple) -> str:
    """A difference that is a loss, with its interval: more error as such, fewer points with their sign."""
    if row.metric == "accuracy":
        return with_interval(row)
    return f"{-row.difference:.1f} % more error ({-row.high:.1f} to {-row.low:.1f})"


def _by_both_rules(claim: pd.DataFrame, rows: pd.DataFrame) -> list[tuple]:
    """Return the rows, each with the same case under the other stopping rule."""
    others = {(o.experiment, o.task, o.profile): o for o in claim.itertuples() if o.rule not in set(rows["rule"])}
    pairs = [(row, others.get((row.experiment, row.task, row.profile))) for row in rows.itertuples()]
    return [pair for pair in pairs if pair[1] is not None]


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
    others = [f"{words} on {', '.join(map(title, found.loc[found['words'] == words, 'task']))}" for words in others]
    return ", ".join([*others, f"{most} on the others" if others else most])


def forgetting(shown: pd.DataFrame) -> str:
    """Say what subnetworks forget in a sequence of tasks, and what fine-tuning does."""
    rows = shown[shown["experiment"].eq("forgetting") & shown["task"].eq("all")]
    lost = over_seeds(rows[rows["metric"] == "forgetting_accuracy"], ["arm"]) if len(rows) else rows
    if not {"multitask", "fine-tuning"} <= set(lost.index):
        return ""
    whole = rows[rows["metric"] == "accuracy"].pivot(index="seed", columns="arm", values="value")
    ours, theirs = lost.loc["multitask"], lost.loc["fine-tuning"]
    gaps = whole["dedicated"] - whole["multitask"]
    where, gaps = ("ahead of", gaps) if gaps.mean() >= 0 else ("behind", -gaps)
    between = f" ({gaps.min():.1f} to {gaps.max():.1f})" if len(gaps) > 1 else ""
    count = shown[shown["experiment"].eq("forgetting") & shown["task"].ne("all")]["task"].nunique()
    kept = [words for arm, words in _FROZEN.items() if arm in lost.index and lost.loc[arm, "max"] == 0]
    title, most, also = "Something is forgotten", f"at most {ours['max']:.2f} points", ""
    if ours["max"] == 0:
        title, most = "Nothing is forgotten, by construction", "nothing"
        also = f", as with any method that freezes weights ({', '.join(kept)})" if kept else ""
    return (
        f"**{title}.** Of {count} image tasks learned in sequence, earlier ones lose {most} in any seed{also}. One "
        f"network fine-tuned on one task after another loses {theirs['mean']:.1f} points for each earlier task "
        f"({theirs['min']:.1f} to {theirs['max']:.1f}). A network for each task is {gaps.mean():.1f} points "
        f"{where} the subnetworks{between}. *{_scope(rows)}, a fixed number of epochs, the task known at test.*"
    )


def limits(shown: pd.DataFrame) -> str:
    """Say what becomes of accuracy when the network is full of tasks, beside both controls."""
    points = capacity(shown)
    if points.empty:
        return ""
    last, before = sorted(points.index.get_level_values("count").unique())[-1:-3:-1]
    ours, random = points.loc[("multitask", last)], points.loc[("random", last)]
    breaks = ours["max"] < random["min"]
    title = "It breaks where weights are scarce" if breaks else f"No break up to {last} tasks"
    rows = shown[shown["experiment"] == "capacity"]
    words = {"multitask": "weights as in the paper", "random": "random weights"}
    words |= {"random evened": "random with even heads", "small": "small dense networks"}
    words = {arm: name for arm, name in words.items() if {(arm, before), (arm, last)} <= set(points.index)}
    said = []
    for arm, name in words.items():
        then, now = points.loc[(arm, before)], points.loc[(arm, last)]
        said.append(f"{name} {then['mean']:.1f}, then {now['mean']:.1f} % ({now['min']:.1f} to {now['max']:.1f})")
    means = widest(rows)
    means = means[means["count"].isin([before, last]) & means["choice"].isin(list(words))]
    capped = means["capped"].eq(True).sum() if "capped" in means else 0
    ends = f"a cap on epochs ended trainings in {capped} of {len(means)} means" if capped else "trained to convergence"
    return (
        f"**{title}.** Mean accuracy of three of {before}, then {last} tasks in one network: {'; '.join(said)}. "
        f"*{_scope(rows)}, {ends}.*"
    )


def starving(shown: pd.DataFrame, smaller: pd.DataFrame | None = None) -> str:
    """Say what it gives at the smallest share of weights that every output of the head gets as many, and how far random
    masks are ahead after that; beside the published width also what it gives in ``smaller`` networks.
    """
    rows = shown[shown["experiment"] == "starves"]
    found = effects(rows)
    found = found[found["density"].eq(found["density"].min())]
    evened = found[found["contrast"].eq("head evened out")]
    left = found[found["contrast"].eq("random instead of scores, heads evened out") & found["low"].gt(0)]
    if evened.empty:
        return ""
    seeds, capped = evened["seeds"].iloc[0], evened["capped"].sum() + left["capped"].sum()
    size = {"paper": "The published width", "laptop": "A smaller network"}[rows["profile"].iloc[0]]
    scope = f"{size}, fewer images, {seeds} seeds, 90 % intervals, " + (
        "ended by a cap on epochs where it says so" if capped else "trained to convergence"
    )
    smallest = rows["arm"].str.match(rf"density {found['density'].iloc[0]:g} (?!random).*, cut, redrawn, converged$")
    starved = rows.loc[smallest, "dead_outputs"].gt(0).any() if "dead_outputs" in rows else False
    share = f"{100 * found['density'].iloc[0]:g} % of the weights each"
    opening = f"Of two tasks with {share} some outputs own none. Giving" if starved else f"With {share}, giving"
    verb = "raises" if evened["low"].gt(0).all() else "changes"
    others = [task for task in evened["task"] if task not in set(left["task"])]
    unshown = f"; on {', '.join(map(title, others))} not shown" if len(left) and others else ""
    ahead = f" Even then random weights are ahead on {_points(left, ' by')}{unshown}." if len(left) else ""
    also = "" if smaller is None or rows["profile"].iloc[0] != "paper" else _in_smaller(smaller)
    return (
        f"  - {opening} all outputs of a head equally many {verb} the paper's choice by, in points, "
        f"{_points(evened)}{also}.{ahead} *{scope}.*"
    )


def _in_smaller(records: pd.DataFrame) -> str:
    """What evening the head gives in smaller networks at the smallest share, from the records of one pool."""
    found = effects(records)
    found = found[found["contrast"].eq("head evened out") & found["density"].eq(found["density"].min())]
    if found.empty:
        return ""
    share, seeds = f"{100 * found['density'].iloc[0]:g} %", found["seeds"].max()
    return f"; in smaller networks ({share}, {seeds} seeds) {_points(found)}"


def _points(rows: pd.DataFrame, by: str = "") -> str:
    """Tasks with their differences; where a cap ended trainings, how many."""
    return ", ".join(
        f"{title(row.task)}{by} {Difference(row.difference, row.low, row.high, row.seeds)}"
        + (f", {row.capped} trainings ended by the cap" if row.capped else "")
        for row in rows.itertuples()
    )


def _scope(rows: pd.DataFrame) -> str:
    profile, seeds = rows["profile"].iloc[0], rows["seed"].nunique()
    size = {"paper": "The published size", "laptop": "A smaller network, fewer images"}[profile]
    return f"{size}, ranges over {seeds} seeds" if seeds > 1 else f"{size}, 1 seed"
