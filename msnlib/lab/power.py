"""What the claim's runs can decide, said before they are made: how often their test would show "no loss"."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from msnlib.lab.claim import pairs_of
from msnlib.lab.design import Design
from msnlib.lab.statistics import CONFIDENCE, Margin, Spread, spread

DRAWS = 20_000
# Whose test part each of the claim's seeds draws anew, and from how many examples (notebooks 03 and 05).
DRAWN_FROM = {"boston": 506}
POWER_COLUMNS = (
    *("experiment", "task", "rule", "seeds", "margin", "from_seeds", "sd_seeds", "sd_examples", "error", "expected"),
    *("shown_at_none", "shown_at_half", "shown_at_margin", "shown_at_expected"),
)


def power_table(folder: Path | str, design: Design) -> pd.DataFrame:
    """Return how often the declared runs would show "no loss", a row per task whose spread the exploration tells.

    The spread over seeds and over test examples is that of the exploration's networks; what the claim's own splits of
    the data add is not known from it. Estimates of normal parts are drawn, not networks trained.

    Columns: the ``seeds`` declared; ``margin``; the exploration's seeds (``from_seeds``), its standard deviations of
    one difference over seeds and of its mean over test examples, the standard error that the claim's runs will have,
    and the difference it found (``expected``), all in points or per cent. ``shown_*``: the share of draws whose
    verdict is "non-inferior" if the truth is no difference, a loss of half the margin, of the margin, or what was
    found.

    Args:
        folder: of records, as for `read_records`.
        design: as `read_design` gives it.
    """
    rows = []
    for (experiment, _, task, metric), evidence, by_rule in pairs_of(folder, design, "exploration"):
        pairs, margin = by_rule[design.rule], design.margins.get(task)
        if margin is None or margin.metric != metric or not pairs.rows or evidence != "exploration":
            continue
        seeds = len(design.runs.get((pairs.rows[0][0]["notebook"], pairs.rows[0][0]["profile"]), ()))
        examples = pairs.examples(Path(folder))
        if seeds < 2 or examples is None or len(examples[0]) < 3:
            continue
        mean, found = spread(*examples[:2], margin)
        pool = DRAWN_FROM.get(task, found.examples)
        overlap = found.examples**2 / pool
        drawn = pool * (1 - (1 - found.examples / pool) ** seeds)  # different examples that are tested in all
        found = replace(found, effective=found.effective * drawn / found.examples)
        rows.append(
            {"experiment": experiment, "task": task, "rule": design.rule, "seeds": seeds, "margin": margin.value}
            | {"from_seeds": len(examples[0]), "sd_seeds": _as_shown(margin, math.sqrt(found.by_seed))}
            | {"sd_examples": _as_shown(margin, math.sqrt(found.by_example / found.examples))}
            | {"error": _as_shown(margin, math.sqrt(sum(_variances(found, seeds, overlap))))}
            | {"expected": margin.shown(mean)}
            | {
                f"shown_at_{name}": shown(found, margin, truth, seeds, overlap)
                for name, truth in (
                    ("none", 0.0),
                    ("half", -margin.limit / 2),
                    ("margin", -margin.limit),
                    ("expected", mean),
                )
            }
        )
    return pd.DataFrame(rows, columns=list(POWER_COLUMNS))


def _as_shown(margin: Margin, size: float) -> float:
    return 100 * size if margin.metric == "mse" else size  # a log ratio of 0.01 is about 1 %


def _variances(found: Spread, seeds: int, overlap: float) -> tuple[float, float]:
    """Return the two terms of the mean's variance: what differs between seeds, and what they have in common."""
    common = found.by_example * overlap / found.examples**2
    one = found.by_seed + (found.rest + found.by_example) / found.examples - common
    return one / seeds, common


def shown(found: Spread, margin: Margin, truth: float, seeds: int, overlap: float, seed: int = 0) -> float:
    """Return how often `msnlib.lab.statistics.crossed` says "non-inferior", by simulation.

    Args:
        found: the spread.
        margin: the loss that would matter.
        truth: the difference, on the scale of the test.
        seeds: how many there will be.
        overlap: the mean number of test examples that two seeds share.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    between, common = _variances(found, seeds, overlap)
    degrees = seeds - 1, max(found.effective, 1.0)
    estimated = sum(
        variance * random.chisquare(df, DRAWS) / df for variance, df in zip((between, common), degrees, strict=True)
    )
    mean = truth + math.sqrt(between + common) * random.normal(size=DRAWS)
    low = mean - stats.t.ppf((1 + CONFIDENCE) / 2, min(degrees)) * np.sqrt(estimated)
    return float((low > -margin.limit).mean())
