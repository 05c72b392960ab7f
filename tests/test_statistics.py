"""The tests of "no loss": against answers known from books, by hand or from scipy, and their errors by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from msnlib.lab.statistics import (
    VERDICTS,
    Margin,
    bootstrap,
    compare,
    intersection,
    over_examples,
    verdict,
    without_one,
)

POINTS, PERCENT = Margin.parse(0.5), Margin.parse("10 %")
# Student's sleep data, as in R's help page of t.test: hours gained by ten patients with two drugs.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_a_difference_over_examples_and_its_error():
    difference, error = over_examples(FIRST, SECOND)
    known = stats.ttest_rel(FIRST, SECOND)
    assert difference == pytest.approx(-1.58) and difference / error == pytest.approx(known.statistic)
    assert over_examples([True, False, True], [True, True, True]) == pytest.approx((-1 / 3, 1 / 3))
    with pytest.raises(ValueError, match="must both have the shape"):
        over_examples([1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("value", "number", "metric", "text"),
    [
        (0.5, 0.5, "accuracy", "0.5 points"),
        (2, 2.0, "accuracy", "2 points"),
        ("10 %", 10.0, "mse", "10 %"),
        ("2.5%", 2.5, "mse", "2.5 %"),
    ],
)
def test_a_margin_is_read(value, number, metric, text):
    margin = Margin.parse(value)
    assert (margin.value, margin.metric, str(margin)) == (number, metric, text)


@pytest.mark.parametrize("value", [0, -1, "0 %", "-10 %", "10", "ten %", True, None, math.nan, math.inf, [1]])
def test_what_is_no_margin_is_refused_in_one_line(value):
    with pytest.raises(ValueError, match="must be a number of points above 0") as caught:
        Margin.parse(value)
    assert repr(value) in str(caught.value) and "\n" not in str(caught.value)


def test_squared_errors_are_compared_by_their_ratio():
    control = np.array([0.02, 0.02])
    ten_more = PERCENT.differences(1.1 * control, control)
    assert ten_more == pytest.approx(-math.log(1.1)) and ten_more == pytest.approx(-PERCENT.limit)
    assert PERCENT.shown(ten_more[0]) == pytest.approx(-10)  # a loss of the margin is shown as -10 %
    assert PERCENT.shown(PERCENT.differences(control / 2, control)[0]) == pytest.approx(50)


def test_the_interval_is_that_of_r_on_the_sleep_data():
    found = compare(FIRST, SECOND, POINTS, confidence=0.95)  # R: t = -4.0621, df = 9
    assert found.difference == pytest.approx(-1.58)
    assert (found.low, found.high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)


def test_the_p_values_are_those_of_two_one_sided_tests_by_hand():
    # Lower test: (-1.58 + 0.5) / 0.38896 = -2.777; upper test: (-1.58 - 0.5) / 0.38896 = -5.348; 9 degrees of freedom.
    error = np.std(np.subtract(FIRST, SECOND), ddof=1) / math.sqrt(10)
    assert error == pytest.approx(0.38896, abs=1e-5)
    found = compare(FIRST, SECOND, POINTS)
    assert found.p_noninferior == pytest.approx(stats.t.sf((-1.58 + 0.5) / error, 9))
    assert found.p_equivalent == pytest.approx(max(found.p_noninferior, stats.t.cdf((-1.58 - 0.5) / error, 9)))
    assert found.verdict == "inferior" and not found.equivalent


@pytest.mark.parametrize("margin", [POINTS, PERCENT])
def test_scipy_agrees(margin):
    random = np.random.default_rng(0)
    control = random.uniform(0.01, 0.02, 6) if margin.metric == "mse" else random.uniform(97, 98, 6)
    own = control * random.uniform(0.95, 1.05, 6) if margin.metric == "mse" else control + random.normal(0, 0.3, 6)
    a, b = (np.log(control), np.log(own)) if margin.metric == "mse" else (own, control)
    found = compare(own, control, margin)
    test = stats.ttest_rel(a, b)
    low, high = (margin.shown(end) for end in test.confidence_interval(0.9))
    assert (found.low, found.high, found.seeds) == pytest.approx((low, high, 6))
    lower = stats.ttest_1samp(a - b, -margin.limit, alternative="greater").pvalue
    upper = stats.ttest_1samp(a - b, margin.limit, alternative="less").pvalue
    assert (found.p_noninferior, found.p_equivalent) == pytest.approx((lower, max(lower, upper)))
    assert found.low < found.difference < found.high


def test_a_verdict_is_where_the_interval_lies():
    assert [verdict(*ends, 0.5) for ends in [(-0.4, 3), (-3, -0.6), (-0.6, -0.4), (-0.5, 1), (-1, -0.5)]] == [
        *("non-inferior", "inferior", "inconclusive", "inconclusive", "inconclusive")
    ]
    assert list(VERDICTS) == ["non-inferior", "inferior", "inconclusive"]


def test_verdict_and_p_value_say_the_same():
    random = np.random.default_rng(1)
    seen = set()
    for shift in np.linspace(-1, 0.5, 60):
        found = compare(97 + random.normal(shift, 0.3, 5), np.full(5, 97.0), POINTS)
        assert (found.verdict == "non-inferior") == (found.p_noninferior < 0.05) == (found.low > -0.5)
        assert (found.verdict == "inferior") == (found.p_noninferior > 0.95) == (found.high < -0.5)
        assert found.equivalent == (found.p_equivalent < 0.05)
        seen |= {found.verdict, found.equivalent}
    assert seen == {*VERDICTS, True, False}


def test_one_seed_decides_nothing():
    found = compare([97.9], [97.0], POINTS)
    assert found.difference == pytest.approx(0.9)
    assert (found.low, found.high, found.p_noninferior, found.p_equivalent) == (None,) * 4
    assert (found.verdict, found.equivalent) == ("inconclusive", False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("difference", "word", "p", "equivalent"),
    [
        (0.0, "non-inferior", 0.0, True),
        (1.0, "non-inferior", 0.0, False),
        (-0.5, "inconclusive", 1.0, False),
        (-1.0, "inferior", 1.0, False),
    ],
)
def test_differences_without_spread_are_a_point(difference, word, p, equivalent):
    found = compare(np.array([97.0, 96.0, 98.0]) + difference, [97.0, 96.0, 98.0], POINTS)
    assert (found.low, found.high, found.verdict, found.p_noninferior) == (difference, difference, word, p)
    assert (found.equivalent, found.p_equivalent) == (equivalent, float(not equivalent))


@pytest.mark.parametrize(
    ("own", "control", "margin", "confidence", "message"),
    [
        ([97.0], [97.0, 96.0], POINTS, 0.9, r"\(1,\) and control \(2,\)"),
        ([], [], POINTS, 0.9, r"shape \(seeds\), not empty"),
        ([[97.0]], [[97.0]], POINTS, 0.9, r"\(1, 1\)"),
        ([97.0, math.nan], [97.0, 96.0], POINTS, 0.9, "must be finite"),
        ([0.01, 0.0], [0.01, 0.01], PERCENT, 0.9, "mse 0 must be above 0"),
        ([97.0, 96.0], [97.0, 96.0], POINTS, 1.0, "confidence 1.0 must be between 0 and 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(own, control, margin, confidence, message):
    with pytest.raises(ValueError, match=message) as caught:
        compare(own, control, margin, confidence)
    assert "\n" not in str(caught.value)


def test_no_loss_on_any_task_needs_every_task():
    good, bad, open_ = VERDICTS
    assert intersection([good, good]) == good
    assert intersection([good, open_]) == open_
    assert intersection([good, open_, bad]) == bad
    for words in ([], ["fine"]):
        with pytest.raises(ValueError, match="must be at least one of non-inferior, inferior, inconclusive"):
            intersection(words)


# Errors, by simulation. 2,000 draws of a test at 5 % give 5 +- 0.5 %; three times that is let through.
DRAWS, AT_MOST = 2000, 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def _accuracies(random, seeds, loss):
    """Both arms right on binomially many of 10,000 examples, with a chance that varies from seed to seed."""
    chance = random.normal(0.97, 0.002, seeds)
    own = chance - loss / 100 + random.normal(0, 0.002, seeds)
    return (100 * random.binomial(10_000, p) / 10_000 for p in (own, chance))


def _errors(random, seeds, loss):
    """Log-normal squared errors; ``loss`` in per cent."""
    control = np.exp(random.normal(-4.5, 0.2, seeds))
    return control * np.exp(random.normal(math.log1p(loss / 100), 0.15, seeds)), control


def _words(draw, seeds, loss, margin, seed):
    random = np.random.default_rng(seed)
    return np.array([compare(*draw(random, seeds, loss), margin).verdict for _ in range(DRAWS)])


@pytest.fixture(scope="module")
def at_the_margin():
    """(metric, seeds) -> verdicts where the true loss is exactly the margin."""
    cases = {("accuracy", s): (_accuracies, s, 0.5, POINTS, s) for s in (3, 10)}
    cases |= {("mse", s): (_errors, s, 10, PERCENT, 100 + s) for s in (3, 10)}
    return {case: _words(*arguments) for case, arguments in cases.items()}


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_a_loss_of_the_margin_passes_at_most_one_time_in_twenty(at_the_margin, metric, seeds):
    words = at_the_margin[metric, seeds]
    share = {word: (words == word).mean() for word in VERDICTS}
    assert 0.03 < share["non-inferior"] < AT_MOST, share  # and the test is not lazy: it uses its 5 %
    assert 0.03 < share["inferior"] < AT_MOST, share


def test_the_claim_passes_at_most_one_time_in_twenty_with_two_tasks(at_the_margin):
    lost = at_the_margin["accuracy", 10], at_the_margin["mse", 10]
    passed = np.mean([intersection(pair) == "non-inferior" for pair in zip(*lost, strict=True)])
    assert passed < 0.01  # independent tasks, both at the margin: 0.05 squared
    kept = np.full(DRAWS, "non-inferior")  # the worst case: only one task loses
    passed = np.mean([intersection(pair) == "non-inferior" for pair in zip(lost[0], kept, strict=True)])
    assert 0.03 < passed < AT_MOST


def test_no_loss_is_found_when_there_is_none_and_seeds_agree():
    random = np.random.default_rng(5)
    words = [compare(97 + random.normal(0, 0.1, 5), np.full(5, 97.0), POINTS).verdict for _ in range(300)]
    assert np.mean(np.array(words) == "non-inferior") > 0.98


# The bootstrap.


def _outcomes(random, seeds, examples=300, by_seed=0.2, by_example=0.0, each=0.0):
    """Right or wrong in two arms that are equally good: example's difficulty, an arm's luck of seed and of example."""
    difficulty = random.normal(1.2, 1.5, examples)
    return [
        difficulty
        + random.normal(0, by_seed, (seeds, 1))
        + random.normal(0, by_example, examples)
        + random.normal(0, each, (seeds, examples))
        > 0
        for _ in range(2)
    ]


def test_the_bootstrap_is_that_of_loops():
    """The same draws, spelled out: seeds and examples picked by number, and plain means of what was picked."""
    random = np.random.default_rng(0)
    own, control = random.exponential(0.01, (3, 20)), random.exponential(0.012, (3, 20))
    replay = np.random.default_rng(7)
    drawn_seeds = replay.multinomial(3, [1 / 3] * 3, size=150)
    differences = []
    for count in (100, 50):
        for examples in replay.integers(20, size=(count, 20)):
            ratios = [math.log(control[s, examples].mean() / own[s, examples].mean()) for s in range(3)]
            chosen = np.repeat(ratios, drawn_seeds[len(differences)])
            differences.append(chosen.mean())
    expected = tuple(100 * (1 - math.exp(-end)) for end in np.quantile(differences, [0.05, 0.95]))
    assert bootstrap(own, control, PERCENT, replicates=150, seed=7) == pytest.approx(expected)


def test_the_bootstrap_resamples_examples_once_for_all_seeds():
    """One example in ten is lost in every seed. As one sample of 100 the interval is binomial; as 400, half as wide."""
    own, control = np.ones((4, 100), bool), np.ones((4, 100), bool)
    own[:, :10] = False
    low, high = bootstrap(own, control, POINTS)
    assert (low, high) == pytest.approx(tuple(-stats.binom(100, 0.1).ppf([0.95, 0.05])), abs=1)


def test_the_bootstrap_repeats_and_shows_in_a_comparison():
    own, control = _outcomes(np.random.default_rng(3), 4)
    low, high = bootstrap(own, control, POINTS, seed=2)
    assert bootstrap(own, control, POINTS, seed=2) == (low, high) != bootstrap(own, control, POINTS, seed=3)
    means = [100 * outcomes.mean(1) for outcomes in (own, control)]
    found = compare(*means, POINTS, examples=(own, control), seed=2)
    assert (found.boot_low, found.boot_high) == (low, high)
    assert low < found.difference < high
    assert compare(*means, POINTS).boot_low is None


def test_two_seeds_are_not_resampled():
    with pytest.raises(ValueError, match="2 seeds are too few to resample; there must be at least 3"):
        bootstrap(np.ones((2, 5)), np.ones((2, 5)), POINTS)


@pytest.mark.parametrize(
    ("seeds", "variation", "least", "most"),
    [
        (3, {"by_seed": 0.3}, 0.55, 0.8),  # few seeds: too short, as its docstring says, so it decides nothing
        (10, {"by_seed": 0.3}, 0.8, 0.93),
        (10, {"by_seed": 0.0, "by_example": 0.3, "each": 0.3}, 0.87, 1.0),
    ],
)
def test_how_often_the_bootstrap_holds_the_truth(seeds, variation, least, most):
    random = np.random.default_rng(11)
    ends = [bootstrap(*_outcomes(random, seeds, **variation), POINTS, replicates=200, seed=k) for k in range(300)]
    assert least < np.mean([low <= 0 <= high for low, high in ends]) < most


@pytest.mark.parametrize("margin", [POINTS, PERCENT], ids=["points", "per cent"])
def test_without_one_is_the_worst_of_all_that_leave_one_out(margin):
    random = np.random.default_rng(3)
    own, control = random.exponential(size=(2, 4, 9))
    unit = 100 if margin.metric == "accuracy" else 1
    found = []
    for left in range(9):
        kept = [unit * np.delete(network, left, axis=1).mean(1) for network in (own, control)]
        one = compare(*kept, margin)
        found.append((one.difference, one.low, one.high))
    assert without_one(own, control, margin) == pytest.approx(min(found, key=lambda one: one[1]))
    for shape in ((1, 9), (4, 1)):
        with pytest.raises(ValueError, match="at least two seeds and two examples"):
            without_one(np.ones(shape), np.ones(shape), margin)


@pytest.mark.parametrize("margin", [POINTS, PERCENT], ids=["points", "per cent"])
@pytest.mark.parametrize("difference", [-0.7, 0.0, 0.3])
def test_what_is_shown_can_be_read_back(margin, difference):
    assert margin.inverse(margin.shown(difference)) == pytest.approx(difference)
