"""What reading a neighbour is worth, from repeats whose means and intervals are known by hand."""

import tomllib
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from msnlib.lab.boxes import full_size
from msnlib.lab.parameters import parse_seeds
from msnlib.lab.records import Run
from msnlib.lab.related import CONTRASTS, DECLARED, answer, larger_repeats, repeat_arm, repeats, worth
from msnlib.lab.summary import summary

ARMS = sorted({arm for pair in CONTRASTS.values() for arm in pair})
FIRST = "related instead of unrelated"


def _rows(gaps, capped=()):
    """Records of one pool: seed -> how far reading a related neighbour is ahead in each repeat."""
    rows = [
        {"task": "hard_sparse", "arm": repeat_arm(arm, repeat), "metric": "accuracy", "seed": seed,
         "value": 60 + repeat + gap * (arm == "after easy reading"), "capped": arm in capped}
        for (seed, each), arm in product(gaps.items(), ARMS)
        for repeat, gap in enumerate(each)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_only_rows_of_repeats_count():
    rows = _rows({0: [1]})
    others = rows.assign(arm="after easy reading"), rows.assign(metric="transfer_accuracy")
    assert len(repeats(pd.concat([rows, *others]))) == len(rows)
    assert repeats(others[0]).empty


def test_the_interval_is_over_repeats_of_one_seed_and_over_the_means_of_several():
    one = worth(repeats(_rows({4: [1, 2, 6]}))).loc[FIRST]
    half = 2.919986 * 2.645751 / 3**0.5  # t(0.95, 2), sd of 1, 2, 6
    assert [one["difference"], one["low"], one["high"]] == pytest.approx([3, 3 - half, 3 + half], rel=1e-5)
    assert (one["low"], one["seeds"], one["repeats"]) == (one["repeats_low"], 1, 3)
    several = worth(repeats(_rows({1: [0, 2], 2: [1, 3], 3: [5, 7]}))).loc[FIRST]
    half = 2.919986 * 2.645751 / 3**0.5  # of the means 1, 2, 6
    assert [several["difference"], several["low"], several["high"]] == pytest.approx([3, 3 - half, 3 + half], rel=1e-5)
    half = 2.015048 * (34 / 5) ** 0.5 / 6**0.5  # t(0.95, 5), sd of the six gaps
    assert several["repeats_high"] == pytest.approx(3 + half, rel=1e-5)
    assert (several["seeds"], several["repeats"]) == (3, 6)


def test_every_contrast_is_between_its_own_two_arms():
    found = worth(repeats(_rows({0: [2, 2], 1: [2, 2]})))
    assert list(found.index) == list(CONTRASTS)
    assert found["difference"].tolist() == [2, 2, 2, 0]
    assert found["answer"].tolist() == ["better"] * 3 + ["no difference of a point"]
    some = repeats(_rows({0: [2, 2]}))
    assert FIRST not in worth(some[some["of"] != "after unrelated reading"]).index


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 3, "better"), (0.1, 0.9, "better, by less than a point"), (-3, -0.1, "worse"), (-0.9, 0.9, "no difference "
     "of a point"), (-0.9, 1.1, "open"), (float("nan"), float("nan"), "open")],
)  # fmt: skip
def test_an_answer_in_words(low, high, said):
    assert answer(low, high) == said


def test_the_seeds_that_answer_are_those_that_were_declared(tmp_path, monkeypatch):
    sweep = Path(__file__).parent.parent / "sweeps" / "related.toml"
    (runs,) = tomllib.loads(sweep.read_text())["runs"]
    assert list(DECLARED) == parse_seeds(runs["seeds"])
    monkeypatch.setenv("MSNLIB_RECORDS", str(tmp_path / "07_a"))
    for seed in (*DECLARED, 13):
        run = Run("E6", notebook="07_a", profile="laptop", seed=seed)
        for row in _rows({seed: [3]}).to_dict("records"):
            run.add(**{name: row[name] for name in ("task", "arm", "metric", "value", "capped")})
        run.save()
    assert set(larger_repeats("07_a", tmp_path, declared=True)["seed"]) == set(DECLARED)
    assert set(larger_repeats("07_a", tmp_path)["seed"]) == {*DECLARED, 13}


def test_a_training_that_the_cap_ended_gives_no_answer():
    found = worth(repeats(_rows({0: [2, 2], 1: [2, 2]}, capped=("after unrelated reading",))))["answer"]
    assert found[FIRST] == "ended by the cap" and found["trained instead of untrained"] == "better"


def test_part_b_is_shown_from_runs_that_kept_their_repeats_whatever_the_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("MSNLIB_RECORDS", str(tmp_path / "07_a"))
    assert full_size("E6", "07_a", tmp_path) == "Larger runs: no record here."
    for profile, seed in product(("paper", "laptop"), (10, 11)):
        run = Run("E6", notebook="07_a", profile=profile, seed=seed)
        run.add(task="hard", arm="multitask", metric="accuracy", value=90.0)
        run.add(task="hard", arm="dedicated", metric="accuracy", value=92.0)
        for row in _rows({seed: [3, 3]}).to_dict("records") if profile == "laptop" else ():
            run.add(**{name: row[name] for name in ("task", "arm", "metric", "value", "capped")})
        run.save()
    assert set(larger_repeats("07_a", tmp_path)["profile"]) == {"laptop"}
    row = {"experiment": "E6", "task": "hard", "metric": "accuracy", "difference": -2, "low": -3, "high": -1}
    row["evidence"] = "claim"
    pd.DataFrame([row | {"rule": "converged", "verdict": "inferior", "margin": 1}]).to_csv(tmp_path / "claim.csv")
    said = full_size("E6", "07_a", tmp_path)
    assert "(profile paper, 2 seeds" in said
    assert (
        "\n- part B, always of laptop's size (in runs of the profile laptop): the hard half beside a neighbour" in said
    )
    assert "in points (4 repeats of 2 seeds): " in said
    assert "related instead of unrelated +3.00 (+3.00 to +3.00), better; trained" in said
    results = _rows({0: [3]}).to_dict("records")
    said = str(summary({"experiment": "E6", "results": results}))
    assert "(1 repeat): related instead of unrelated +3.00, open" in said
