"""The tests of "no loss": against answers known from books, by hand or from scipy, and their errors by simulation."""

import math
import os

import numpy as np
import pytest
from scipy import stats

from msnlib.lab.statistics import (
    VERDICTS,
    Margin,
    compare,
    crossed,
    intersection,
    interval,
    needed_most,
    over_examples,
    verdict,
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
        assert (found.verdict == "inferior") == (found.p_inferior < 0.05) == (found.high < -0.5)
        assert found.equivalent == (found.p_equivalent < 0.05)
        seen |= {found.verdict, found.equivalent}
    assert seen == {*VERDICTS, True, False}


def test_one_seed_decides_nothing():
    found = compare([97.9], [97.0], POINTS)
    assert found.difference == pytest.approx(0.9)
    assert (found.low, found.high, found.p_noninferior, found.p_inferior, found.p_equivalent) == (None,) * 5
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


# Errors, by simulation. 2,000 draws of a test at 5 % give 5 +- 0.5 %; three times that is let through. For a closer
# look by hand: MSNLIB_DRAWS=50000 python -m pytest tests/test_statistics.py
DRAWS = int(os.environ.get("MSNLIB_DRAWS", 2000))
AT_MOST = 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)


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


# Seeds and examples.


def _two_way(cells):
    """Variance of the mean of (seeds, examples), by the mean squares of an analysis of variance."""
    seeds, examples = cells.shape
    rows, columns, mean = cells.mean(1, keepdims=True), cells.mean(0), cells.mean()
    by_seed = examples * ((rows - mean) ** 2).sum() / (seeds - 1)
    by_example = seeds * ((columns - mean) ** 2).sum() / (examples - 1)
    rest = ((cells - rows - columns + mean) ** 2).sum() / ((seeds - 1) * (examples - 1))
    return (by_seed + by_example - rest) / (seeds * examples)


@pytest.mark.parametrize("metric", ["points", "per cent"])
def test_the_crossed_interval_is_that_of_a_two_way_analysis_of_variance(metric):
    random = np.random.default_rng(2)
    if metric == "points":
        own, control = random.random((2, 5, 40)) < random.random((2, 1, 40))
        cells, margin = 100.0 * (own.astype(float) - control), POINTS
    else:
        own, control = (random.normal(size=(2, 1, 40)) + random.normal(size=(2, 5, 40))) ** 2
        own_mean, control_mean = (x.mean(1, keepdims=True) for x in (own, control))
        cells, margin = np.log(control_mean / own_mean) + control / control_mean - own / own_mean, PERCENT
    found = crossed(own, control, margin)
    error = math.sqrt(_two_way(cells))
    ends = [cells.mean() + sign * stats.t.ppf(0.95, 4) * error for sign in (-1, 1)]
    assert (found.low, found.high) == pytest.approx(tuple(map(margin.shown, ends)))
    assert found.difference == pytest.approx(margin.shown(cells.mean())) and found.seeds == 5
    means = [network.mean(1) * (100 if metric == "points" else 1) for network in (own, control)]
    alone = compare(*means, margin)
    assert found.difference == pytest.approx(alone.difference) and found.low < alone.low < alone.high < found.high
    rows = np.tile(np.arange(40) * 7, (5, 1))
    order = np.array([random.permutation(40) for _ in range(5)])
    shuffled = [np.take_along_axis(x, order, 1) for x in (own, control, rows)]
    again = crossed(*shuffled[:2], margin, rows=shuffled[2])
    assert (again.low, again.high) == pytest.approx((found.low, found.high))


def test_with_test_sets_that_share_nothing_seeds_are_all_there_is():
    random = np.random.default_rng(4)
    own, control = random.random((2, 6, 30)) < 0.8
    found = crossed(own, control, POINTS, rows=np.arange(180).reshape(6, 30))
    alone = compare(100 * own.mean(1), 100 * control.mean(1), POINTS)
    assert (found.low, found.high, found.p_noninferior) == pytest.approx((alone.low, alone.high, alone.p_noninferior))


def test_one_example_that_decides_is_few_degrees_of_freedom():
    own, control = np.full((8, 50), 1.0), np.full((8, 50), 1.0)
    control[:, 7] = 30 + np.arange(8)
    own += np.random.default_rng(0).random((8, 50)) / 100
    found = crossed(own, control, PERCENT)
    assert found.low < -100 < found.difference < found.high
    assert compare(own.mean(1), control.mean(1), PERCENT).verdict == "non-inferior"


def test_equal_networks_are_a_point_and_bad_input_is_refused():
    same = np.ones((3, 4))
    found = crossed(same, same, POINTS)
    assert (found.low, found.high, found.verdict, found.p_inferior) == (0, 0, "non-inferior", 1)
    for own, rows, message in [
        (np.ones((1, 4)), None, "at least two seeds and two examples, not 1 and 4"),
        (np.ones((4, 1)), None, "at least two seeds and two examples, not 4 and 1"),
        (same, np.ones((3, 3)), r"rows \(3, 3\) must have the shape of the outcomes, \(3, 4\)"),
        (np.zeros((3, 4)), None, "mse 0 must be above 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            crossed(own, own, PERCENT, rows=rows)


def _right(random, loss, seeds=10):
    """Right or wrong on 300 examples of unlike difficulty; the subnetwork loses at random what it must."""
    easy = random.beta(8, 0.5, 300)
    chance = np.clip(easy + random.normal(0, 0.08, (2, 1, 300)) + random.normal(0, 0.003, (2, seeds, 1)), 0, 1)
    own, control = random.random((2, seeds, 300)) < chance
    return own & (random.random((seeds, 300)) >= loss / 100 / (8 / 8.5)), control, None


def _houses(random, loss, tail, pool=102, seeds=10):
    """Squared errors on 102 houses: a house's own part in both networks, in one of them, in one seed.

    With a larger ``pool`` every seed draws its own; ``tail`` makes some houses hard for everybody.
    """
    scale = np.exp(random.normal(0, tail, pool))
    residual = 0.7 * random.normal(size=pool) + 0.5 * random.normal(size=(2, 1, pool))
    rows = random.permuted(np.tile(np.arange(pool), (seeds, 1)), axis=1)[:, :102] if pool > 102 else None
    both = scale * (residual + 0.5 * random.normal(size=(2, seeds, pool)))
    both = both if rows is None else np.take_along_axis(both, rows[None], 2)
    own, control = both**2 * np.exp(random.normal(0, 0.1, (2, seeds, 1)))
    return own * (1 + loss / 100), control, rows


@pytest.mark.parametrize(
    ("draw", "options", "loss", "margin", "alone"),
    [
        (_right, {}, 0.5, POINTS, 0.06),
        (_houses, {"tail": 0.6}, 10, PERCENT, 0.15),
        (_houses, {"tail": 0.6, "pool": 506}, 10, PERCENT, 0.06),
        (_houses, {"tail": 1.0}, 10, PERCENT, 0.15),
        (_houses, {"tail": 1.0, "pool": 506}, 10, PERCENT, 0.06),
        (_right, {"seeds": 3}, 0.5, POINTS, 0.0),
        (_houses, {"tail": 0.6, "pool": 506, "seeds": 3}, 10, PERCENT, 0.0),
    ],
    ids=[
        "300 outcomes",
        "102 houses",
        "102 of 506 houses",
        "102 houses, long tails",
        "102 of 506, long tails",
        "300 outcomes, three seeds",
        "102 of 506 houses, three seeds",
    ],
)
def test_at_the_margin_new_seeds_and_examples_pass_at_most_one_time_in_twenty(draw, options, loss, margin, alone):
    random = np.random.default_rng(17)
    words = {"crossed": [], "seeds alone": []}
    for _ in range(DRAWS):
        own, control, rows = draw(random, loss, **options)
        words["crossed"].append(crossed(own, control, margin, rows=rows).verdict)
        unit = 100 if margin is POINTS else 1
        words["seeds alone"].append(compare(unit * own.mean(1), unit * control.mean(1), margin).verdict)
    share = {name: np.mean(np.array(found) == "non-inferior") for name, found in words.items()}
    assert 0.01 < share["crossed"] < AT_MOST, share
    assert share["seeds alone"] > alone, share  # what the crossed interval is for


@pytest.mark.parametrize("margin", [POINTS, PERCENT], ids=["points", "per cent"])
def test_the_example_that_is_needed_most_is_the_worst_to_leave_out(margin):
    random = np.random.default_rng(3)
    own, control = random.exponential(size=(2, 4, 9))
    unit = 100 if margin.metric == "accuracy" else 1
    lows = [
        compare(*(unit * np.delete(network, left, axis=1).mean(1) for network in (own, control)), margin).low
        for left in range(9)
    ]
    assert needed_most(own, control, margin) == np.argmin(lows)
    for shape in ((1, 9), (4, 1)):
        with pytest.raises(ValueError, match="at least two seeds and two examples"):
            needed_most(np.ones(shape), np.ones(shape), margin)


def test_the_interval_of_a_mean_is_students():
    low, mean, high = interval([1.0, 2.0, 3.0])
    assert mean == 2 and high - mean == pytest.approx(2.91999 / 3**0.5, rel=1e-4)  # from a table of t
    assert mean - low == pytest.approx(high - mean)
    assert math.isnan(interval([5.0])[0]) and interval([5.0])[1] == 5
