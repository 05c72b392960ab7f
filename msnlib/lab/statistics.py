"""Is a subnetwork worse than a network of its own? Tests against a margin, paired by seed.

A claim of "no loss" is not shown by a test that finds no difference: few seeds find none. Here the claim must be shown.
The margin is the loss that would matter, chosen before the runs, and the claim holds where the data exclude it
(Schuirmann 1987, two one-sided tests; Lakens 2017 for an introduction).
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
from statsmodels.stats.weightstats import DescrStatsW

CONFIDENCE = 0.9  # two-sided, so that each one-sided test is at 5 %
VERDICTS = {
    "non-inferior": "the whole interval lies above -margin",
    "inferior": "the whole interval lies below -margin",
    "inconclusive": "the interval contains -margin, or there are fewer than two seeds and so no interval",
}
BOOTSTRAP_SEEDS = 3


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

    def inverse(self, shown: float) -> float:
        """The difference on the scale of the test that `shown` reports as this."""
        return -math.log1p(-shown / 100) if self.metric == "mse" else shown


@dataclass(frozen=True)
class Comparison:
    """A subnetwork against its control over seeds; differences in points or per cent, positive is better.

    Attributes:
        seeds: how many.
        difference: mean over seeds; for squared errors from the geometric mean of the ratios.
        low, high: its confidence interval, by the paired t test. None for a single seed.
        p_noninferior: of the test whose null hypothesis is a loss of the margin or more. None for a single seed.
        p_equivalent: of the two one-sided tests; their null hypothesis is a loss *or gain* of the margin or more. On
            the log scale, so a margin of 10 % ends at a gain of 100 (1 - 1/1.1) = 9.1 %.
        boot_low, boot_high: the interval of `bootstrap`, None without examples. It decides nothing.
        margin: what was tested against.
        verdict: one of `VERDICTS`.
        equivalent: whether the interval lies between a loss and a gain of the margin.
    """

    seeds: int
    difference: float
    low: float | None
    high: float | None
    p_noninferior: float | None
    p_equivalent: float | None
    boot_low: float | None
    boot_high: float | None
    margin: Margin
    verdict: str
    equivalent: bool


def compare(
    subnetwork: ArrayLike,
    control: ArrayLike,
    margin: Margin,
    confidence: float = CONFIDENCE,
    examples: tuple[ArrayLike, ArrayLike] | None = None,
    seed: int = 0,
) -> Comparison:
    """Test whether subnetworks are worse than their controls by the margin or more.

    The interval is that of the paired t test: seeds are the sample, and the test set is taken as given. Where all
    differences are equal there is no spread to estimate; the interval is then that point and a p value 0 or 1, which is
    the t test's limit. Two accuracies that agree by chance look the same, so read such a verdict beside its seeds.

    Args:
        subnetwork, control: (seeds,) the metric, in % or as a squared error; the same seed at the same place.
        margin: the loss that would matter.
        confidence: of the two-sided interval; a verdict's one-sided error is half of what is left, 5 %.
        examples: the outcomes of the test examples in both, as `bootstrap` takes them; of as many seeds as have them.
        seed: of the bootstrap.

    Raises `ValueError` for shapes that differ, no seeds, values that are not finite, squared errors not above 0, a
    confidence not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence!r} must be between 0 and 1")
    values = margin.differences(*_checked(subnetwork, control, "seeds"))
    limit, difference = margin.limit, values.mean()
    low = high = p_noninferior = p_equivalent = boot_low = boot_high = None
    word, equivalent = "inconclusive", False
    if len(values) > 1:
        low, high, p_noninferior, p_equivalent = _t_tests(values, limit, confidence)
        word, equivalent = verdict(low, high, limit), bool(-limit < low and high < limit)
        low, high = margin.shown(low), margin.shown(high)
    if examples is not None:
        boot_low, boot_high = bootstrap(*examples, margin, confidence, seed=seed)
    return Comparison(
        *(len(values), margin.shown(difference), low, high, p_noninferior, p_equivalent, boot_low, boot_high),
        *(margin, word, equivalent),
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


def over_examples(subnetwork: ArrayLike, control: ArrayLike) -> tuple[float, float]:
    """Mean difference of two networks' outcomes on the same test examples, and its standard error over the examples.

    It knows the luck of this test set, not that of the seed. Shape: both (examples,), at least two.

    Raises ValueError when the shapes differ or a value is not finite.
    """
    a, b = _checked(subnetwork, control, "examples")
    return float((a - b).mean()), float((a - b).std(ddof=1) / math.sqrt(len(a)))


def without_one(
    subnetwork_examples: ArrayLike, control_examples: ArrayLike, margin: Margin, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Return difference, low and high of `compare` without the one test example that a good result needs most.

    Every example is left out in turn; given is the case whose interval reaches lowest. A verdict that changes rests on
    a single example, as one on a mean squared error over few examples can.

    Args:
        subnetwork_examples, control_examples: as `bootstrap` takes them, of at least two seeds and two examples.
        margin: for its metric alone.
        confidence: of the interval.

    Returns:
        In points or per cent, as in `Comparison`.

    Raises:
        ValueError: as `compare`, and for fewer than two seeds or examples.
    """
    a, b = _checked(subnetwork_examples, control_examples, "seeds, examples")
    seeds, examples = a.shape
    if seeds < 2 or examples < 2:
        raise ValueError(f"there must be at least two seeds and two examples, not {seeds} and {examples}")
    unit = 100 if margin.metric == "accuracy" else 1
    rest = [unit * (network.sum(1, keepdims=True) - network) / (examples - 1) for network in (a, b)]
    differences = margin.differences(*rest)  # (seeds, examples), each without one
    mean, half = differences.mean(0), _half_width(differences, confidence)
    worst = int((mean - half).argmin())
    return tuple(margin.shown(x) for x in (mean[worst], mean[worst] - half[worst], mean[worst] + half[worst]))


def _half_width(values: np.ndarray, confidence: float) -> np.ndarray:
    """Return half the width of the t interval of the mean over the first axis."""
    count = len(values)
    return stats.t.ppf((1 + confidence) / 2, count - 1) * values.std(0, ddof=1) / math.sqrt(count)


def bootstrap(
    subnetwork_examples: ArrayLike,
    control_examples: ArrayLike,
    margin: Margin,
    confidence: float = CONFIDENCE,
    replicates: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of the difference if test examples, too, are a sample.

    Every seed is tested on the same examples, so seeds and examples are crossed, and both are resampled: the seeds, and
    independently the examples, once for all seeds of a replicate (Owen 2007, "The pigeonhole bootstrap", Annals of
    Applied Statistics 1). Drawing examples anew for each seed would treat one test set as several and give too short an
    interval. A replicate's difference is the mean over its seeds, as in `compare`: of differences of accuracies, or of
    log ratios of mean squared errors.

    It decides nothing, because with few seeds it does not keep its confidence. At a nominal 90 %, simulated: 63, 79 and
    85 % of the intervals hold the truth for 3, 5 and 10 seeds if seeds alone vary (the paired t interval: 89 to 91 %),
    and 97 to 99 % if single examples turn out differently from seed to seed, whose variance it counts three times
    (Owen's theorem). What it adds is the test set: where the same examples are hard for one arm in all seeds, the t
    interval speaks for this test set alone (as few as 74 % hold the truth about new examples; the bootstrap's 97 %).

    Args:
        subnetwork_examples, control_examples: (seeds, examples) right or wrong, or squared errors, the same example at
            the same place.
        margin: for its metric alone.
        confidence: of the interval.
        replicates: how many.
        seed: same seed, same interval.

    Returns:
        low and high in points or per cent, as in `Comparison`.

    Raises `ValueError` as `compare`, and for fewer than three seeds.
    """
    a, b = _checked(subnetwork_examples, control_examples, "seeds, examples")
    seeds, examples = a.shape
    if seeds < BOOTSTRAP_SEEDS:
        raise ValueError(f"{seeds} seeds are too few to resample; there must be at least {BOOTSTRAP_SEEDS}")
    unit = 100 if margin.metric == "accuracy" else 1
    random = np.random.default_rng(seed)
    drawn_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates)
    found = np.empty(replicates)
    for start in range(0, replicates, 100):  # bounds the memory: 100 x examples
        part = slice(start, min(start + 100, replicates))
        count = part.stop - start
        drawn = random.integers(examples, size=(count, examples)) + examples * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * examples).reshape(count, examples) / examples
        differences = margin.differences(unit * weights @ a.T, unit * weights @ b.T)
        found[part] = (drawn_seeds[part] * differences).sum(1) / seeds
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return margin.shown(low), margin.shown(high)


def _t_tests(values: np.ndarray, limit: float, confidence: float) -> tuple[float, float, float, float]:
    """Return the interval's ends and the p values of non-inferiority and equivalence, on the scale of the values."""
    sample = DescrStatsW(values)
    if sample.std_mean == 0:
        point = float(values[0])
        return point, point, float(point <= -limit), float(not -limit < point < limit)
    low, high = sample.tconfint_mean(1 - confidence)
    p_equivalent, (_, p_noninferior, _), _ = sample.ttost_mean(-limit, limit)
    return float(low), float(high), float(p_noninferior), float(p_equivalent)


def _checked(subnetwork: ArrayLike, control: ArrayLike, shape: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.asarray(values, dtype=np.float64) for values in (subnetwork, control))
    if a.shape != b.shape or a.ndim != len(shape.split()) or not a.size:
        raise ValueError(f"subnetwork {a.shape} and control {b.shape} must both have the shape ({shape}), not empty")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("subnetwork and control must be finite, but hold nan or inf")
    return a, b
