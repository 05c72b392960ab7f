"""Is a subnetwork worse than a network of its own? Tests against a margin, paired by seed.

A claim of "no loss" is not shown by a test that finds no difference: with few seeds hardly any test finds one. Here the
claim must be shown. The margin is the loss that would matter, chosen before the runs, and the claim holds where the
data exclude it (Schuirmann 1987, two one-sided tests; Lakens 2017 for an introduction).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.9  # two-sided, so that each one-sided test is at 5 %
VERDICTS = {
    "non-inferior": "the whole interval lies above -margin",
    "inferior": "the whole interval lies below -margin",
    "inconclusive": "the interval contains -margin, or there are fewer than two seeds and so no interval",
}


@dataclass(frozen=True)
class Margin:
    """The loss that would matter, and with it the scale on which a metric is compared.

    Accuracies are compared by their difference in points. Squared errors are compared by their ratio, on the log scale,
    as bioequivalence compares exposures: d = log(control / subnetwork), so that a margin of 10 % is d = -log 1.1.
    Everywhere a positive difference says that the subnetwork is better.

    Attributes:
        value: points of accuracy, or per cent of the control's squared error.
        metric: ``"accuracy"`` (in %) or ``"mse"``.
    """

    value: float
    metric: str

    @classmethod
    def parse(cls, value: Any) -> Margin:
        """Read ``0.5``, points of accuracy, or ``"10 %"``, per cent of the control's squared error.

        Raises `ValueError` for anything else, and for what is not above 0.
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value) if isinstance(value, str) else None
        number = float(found[1]) if found else value
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            raise ValueError(f'margin {value!r} must be a number of points above 0, like 0.5, or a text like "10 %"')
        return cls(float(number), "mse" if found else "accuracy")

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"

    @property
    def unit(self) -> str:
        return "%" if self.metric == "mse" else "points"

    @property
    def limit(self) -> float:
        """The margin on the scale of `differences`."""
        return math.log1p(self.value / 100) if self.metric == "mse" else self.value

    def differences(self, subnetwork: np.ndarray, control: np.ndarray) -> np.ndarray:
        """How much better the subnetwork is, on the scale of the test; any shape. Squared errors must be above 0."""
        if self.metric == "accuracy":
            return subnetwork - control
        lowest = min(subnetwork.min(), control.min())
        if lowest <= 0:
            raise ValueError(f"mse {lowest:g} must be above 0: ratios are compared")
        return np.log(control / subnetwork)

    def shown(self, difference: float) -> float:
        """A difference as it is reported: points, or by how many per cent of the control's the error is lower."""
        return float(-100 * np.expm1(-difference) if self.metric == "mse" else difference)


@dataclass(frozen=True)
class Comparison:
    """A subnetwork against its control over seeds; differences in points or per cent, positive is better.

    Attributes:
        seeds: how many.
        difference: mean over seeds; for squared errors from the geometric mean of the ratios.
        low, high: its confidence interval. None for a single seed.
        p_noninferior: of the test whose null hypothesis is a loss of the margin or more. None for a single seed.
        p_inferior: of the test whose null hypothesis is a loss of the margin or less. None for a single seed.
        p_equivalent: of the two one-sided tests; their null hypothesis is a loss *or gain* of the margin or more. On
            the log scale, so a margin of 10 % ends at a gain of 100 (1 - 1/1.1) = 9.1 %.
        margin: what was tested against.
        verdict: one of `VERDICTS`.
        equivalent: whether the interval lies between a loss and a gain of the margin.
    """

    seeds: int
    difference: float
    low: float | None
    high: float | None
    p_noninferior: float | None
    p_inferior: float | None
    p_equivalent: float | None
    margin: Margin
    verdict: str
    equivalent: bool


@dataclass(frozen=True)
class Spread:
    """Where the differences' variance comes from, on the scale of the test.

    Attributes:
        by_seed, by_example, rest: variances of the parts of x_si = m + a_s + b_i + e_si (`crossed`).
        examples: how many a network is tested on.
        effective: degrees of freedom of what the examples have in common.
    """

    by_seed: float
    by_example: float
    rest: float
    examples: int
    effective: float


def compare(subnetwork: ArrayLike, control: ArrayLike, margin: Margin, confidence: float = CONFIDENCE) -> Comparison:
    """Test whether subnetworks are worse than their controls by the margin or more, on the test set as it is.

    The interval is that of the paired t test: seeds are the sample, and the test set is taken as given. Where all
    differences are equal there is no spread to estimate; the interval is then that point and a p value 0 or 1, which is
    the t test's limit. Two accuracies that agree by chance look the same, so read such a verdict beside its seeds.

    Args:
        subnetwork, control: (seeds,) the metric, in % or as a squared error; the same seed at the same place.
        margin: the loss that would matter.
        confidence: of the two-sided interval; a verdict's one-sided error is half of what is left, 5 %.

    Raises:
        ValueError: shapes that differ, no seeds, values that are not finite, squared errors not above 0, a confidence
            not between 0 and 1.
    """
    values = margin.differences(*_checked(subnetwork, control, "seeds"))
    seeds = len(values)
    error = values.std(ddof=1) / math.sqrt(seeds) if seeds > 1 else None
    return _compared(values.mean(), error, seeds - 1, seeds, margin, confidence)


def crossed(
    subnetwork: ArrayLike,
    control: ArrayLike,
    margin: Margin,
    confidence: float = CONFIDENCE,
    rows: ArrayLike | None = None,
) -> Comparison:
    """Test as `compare`, with the test examples as a sample too: what holds for new seeds *and* new examples.

    Seeds and examples are crossed: all networks are tested on the same examples, or on sets that overlap. A seed's
    difference is d_s = mean_i(x_si) for accuracies, x the difference of the outcomes; a log ratio of mean squared
    errors is taken to first order in its examples. With x_si = m + a_s + b_i + e_si the variance of the mean over S
    seeds of N examples is

        var(d_s) / S + var(b) * overlap / N^2,

    overlap the mean number of examples that two seeds share (N for one test set). The first term is the paired t
    test's; it holds the luck of the seeds, and of the examples as far as seeds differ in them. The second is what the
    seeds have in common, estimated from the covariance between seeds of what an example adds (two-way random effects;
    for sums of clusters Cameron, Gelbach and Miller 2011). Degrees of freedom are the smaller of S - 1 and of the
    effective number of examples, (sum w)^2 / sum w^2 with w_i = (sum_s x_si)^2: a few examples with large errors are
    few degrees.

    At the margin a false "non-inferior" comes at most 5 % of the time: simulated with 10 seeds, for 300 right-or-wrong
    outcomes and for 102 squared errors with moderate and long tails, one test set or sets drawn anew; the t test alone
    is wrong 8 to 24 % of the time there. What no interval sees is an example that is missing: where a single one in a
    hundred carries a third of the subnetwork's error and none of its control's, it is wrong about 7 % of the time with
    sets drawn anew, and 11 % with one (resampled from Boston's houses, arms swapped).

    Args:
        subnetwork, control: (seeds, examples) right or wrong, or squared errors, the same example at the same place.
        margin: the loss that would matter.
        confidence: of the two-sided interval.
        rows: (seeds, examples) whole numbers that say which example stands where, if seeds have test sets of their own;
            None where all share one.

    Raises:
        ValueError: as `compare`, and for fewer than two seeds or examples, or rows of another shape.
    """
    values, inner = _linear(subnetwork, control, margin)
    seeds, examples = inner.shape
    common, effective = _in_common(inner, rows)
    error = math.sqrt(values.var(ddof=1) / seeds + max(0.0, common))
    return _compared(values.mean(), error, min(seeds - 1, effective), seeds, margin, confidence)


def spread(subnetwork: ArrayLike, control: ArrayLike, margin: Margin) -> tuple[float, Spread]:
    """Return the mean difference and where its variance comes from, of networks tested on one test set.

    Args:
        subnetwork, control: as `crossed` takes them.
        margin: for its metric alone.

    Raises:
        ValueError: as `crossed`.
    """
    values, inner = _linear(subnetwork, control, margin)
    seeds, examples = inner.shape
    common, effective = _in_common(inner, None)
    by_example = max(0.0, common * examples)
    rest = max(0.0, (inner**2).sum() / (seeds * (examples - 1)) - by_example)
    by_seed = max(0.0, values.var(ddof=1) - rest / examples)
    return float(values.mean()), Spread(float(by_seed), by_example, float(rest), examples, effective)


def _linear(subnetwork: ArrayLike, control: ArrayLike, margin: Margin) -> tuple[np.ndarray, np.ndarray]:
    """Return the seeds' differences, and (seeds, examples) what each example adds to its seed's, to first order."""
    a, b = _checked(subnetwork, control, "seeds, examples")
    seeds, examples = a.shape
    if seeds < 2 or examples < 2:
        raise ValueError(f"there must be at least two seeds and two examples, not {seeds} and {examples}")
    means = [network.mean(1, keepdims=True) for network in (a, b)]
    unit = 100 if margin.metric == "accuracy" else 1
    values = margin.differences(*(unit * mean for mean in means))[:, 0]
    cells = unit * (a - b) if margin.metric == "accuracy" else b / means[1] - a / means[0]
    return values, cells - cells.mean(1, keepdims=True)


def _in_common(inner: np.ndarray, rows: ArrayLike | None) -> tuple[float, float]:
    """Return the variance of the mean that seeds share through their examples, and the effective number of these."""
    seeds, examples = inner.shape
    each, squares = (_by_example(x, rows) for x in (inner, inner**2))
    common = (each**2 - squares).sum() / (seeds * (seeds - 1) * examples * (examples - 1))
    weights = each**2
    effective = weights.sum() ** 2 / (weights**2).sum() if weights.any() else math.inf
    return float(common), float(effective)


def _by_example(cells: np.ndarray, rows: ArrayLike | None) -> np.ndarray:
    """Return the sums over seeds of an example's cells."""
    if rows is None:
        return cells.sum(0)
    rows = np.asarray(rows)
    if rows.shape != cells.shape:
        raise ValueError(f"rows {rows.shape} must have the shape of the outcomes, {cells.shape}")
    _, place = np.unique(rows, return_inverse=True)
    return np.bincount(place.ravel(), cells.ravel())


def _compared(
    mean: float, error: float | None, degrees: float, seeds: int, margin: Margin, confidence: float
) -> Comparison:
    """Return the comparison of a mean with a standard error, on the scale of the test; None is no error to be had."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence!r} must be between 0 and 1")
    limit, shown = margin.limit, margin.shown(mean)
    if error is None:
        return Comparison(seeds, shown, *[None] * 5, margin, "inconclusive", False)
    if error == 0:
        low = high = float(mean)
        below, above = float(mean <= -limit), float(mean >= limit)
        inferior = float(mean >= -limit)
    else:
        half = stats.t.ppf((1 + confidence) / 2, degrees) * error
        low, high = mean - half, mean + half
        below, above = stats.t.sf((mean + limit) / error, degrees), stats.t.cdf((mean - limit) / error, degrees)
        inferior = 1 - below
    return Comparison(
        *(seeds, shown, margin.shown(low), margin.shown(high), float(below), float(inferior), float(max(below, above))),
        *(margin, verdict(low, high, limit), bool(-limit < low and high < limit)),
    )


def verdict(low: float, high: float, limit: float) -> str:
    """Return one of `VERDICTS` for an interval and a margin on the same scale."""
    if low > -limit:
        return "non-inferior"
    return "inferior" if high < -limit else "inconclusive"


def intersection(verdicts: Iterable[str]) -> str:
    """Return the verdict on "no loss on any task", from the verdicts on its tasks.

    The intersection-union test (Berger 1982): non-inferior only if every task is, and then the error is at most 5 %
    however many tasks there are, without a correction. Inferior as soon as one is; as one false alarm among T tasks is
    enough for that, the error of this word is at most 5 % times T. Else inconclusive.

    Raises `ValueError` for no verdicts, or a word that is none.
    """
    found = set(verdicts)
    if not found or not found <= set(VERDICTS):
        raise ValueError(f"verdicts {sorted(found)} must be at least one of {', '.join(VERDICTS)}")
    if found == {"non-inferior"}:
        return "non-inferior"
    return "inferior" if "inferior" in found else "inconclusive"


def interval(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Return low end, mean and high end of the t interval for the mean of independent values; NaN ends for one."""
    values = np.asarray(values, dtype=float)
    count, mean, reach = len(values), float(values.mean()), math.nan
    if count > 1:
        reach = float(stats.t.ppf((1 + confidence) / 2, count - 1) * values.std(ddof=1) / math.sqrt(count))
    return mean - reach, mean, mean + reach


def over_examples(subnetwork: ArrayLike, control: ArrayLike) -> tuple[float, float]:
    """Mean difference of two networks' outcomes on the same test examples, and its standard error over the examples.

    It knows the luck of this test set, not that of the seed. Shape: both (examples,), at least two.

    Raises ValueError when the shapes differ or a value is not finite.
    """
    a, b = _checked(subnetwork, control, "examples")
    return float((a - b).mean()), float((a - b).std(ddof=1) / math.sqrt(len(a)))


def needed_most(subnetwork: ArrayLike, control: ArrayLike, margin: Margin, confidence: float = CONFIDENCE) -> int:
    """Return which test example a good result needs most: without it the interval over seeds reaches lowest.

    A verdict that changes without it rests on a single example, as one on a mean squared error of few examples can.

    Args:
        subnetwork, control: as `crossed` takes them, on one test set.
        margin: for its metric alone.
        confidence: of the interval.

    Raises:
        ValueError: as `crossed`.
    """
    a, b = _checked(subnetwork, control, "seeds, examples")
    seeds, examples = a.shape
    if seeds < 2 or examples < 2:
        raise ValueError(f"there must be at least two seeds and two examples, not {seeds} and {examples}")
    unit = 100 if margin.metric == "accuracy" else 1
    rest = [unit * (network.sum(1, keepdims=True) - network) / (examples - 1) for network in (a, b)]
    differences = margin.differences(*rest)  # (seeds, examples), each without one
    width = stats.t.ppf((1 + confidence) / 2, seeds - 1) / math.sqrt(seeds)
    return int((differences.mean(0) - width * differences.std(0, ddof=1)).argmin())


def _checked(subnetwork: ArrayLike, control: ArrayLike, shape: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.asarray(values, dtype=np.float64) for values in (subnetwork, control))
    if a.shape != b.shape or a.ndim != len(shape.split()) or not a.size:
        raise ValueError(f"subnetwork {a.shape} and control {b.shape} must both have the shape ({shape}), not empty")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("subnetwork and control must be finite, but hold nan or inf")
    return a, b
