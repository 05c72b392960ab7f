import pandas as pd
import pytest

from msnlib.lab.differences import between
from msnlib.lab.factorial import HEADS, VALUES, Mask, effects, effects_table
from msnlib.lab.findings import starving

LEVELS = [Mask(s, h, v) for s in ("gradient", "random") for h in HEADS for v in VALUES]


def _records(value, seeds=(0, 1), densities=(0.1, 0.02), saliency="gradient"):
    """A row for every mask; ``value`` is a function of mask, density and seed."""
    masks = [m if m.saliency == "random" else m._replace(saliency=saliency) for m in LEVELS]
    masks += [Mask(saliency, "constant"), Mask("random", "constant")]
    rows = [
        {"task": "a", "arm": f"{m.arm(d)}{end}", "metric": metric, "seed": s, "value": value(m, d, s) + shift}
        for m in masks
        for d in densities
        for s in seeds
        for end, metric, shift in ((", converged", "accuracy", 0), ("", "accuracy", 50), ("", "idle_units", 9))
    ]
    return pd.DataFrame(rows)


def _cell(found, contrast, density=0.1):
    return found.query("contrast == @contrast and density == @density").iloc[0]


def test_a_contrast_is_between_trainings_that_differ_in_one_thing():
    worth = {"gradient": 0, "snip": 0, "random": 4, "cut": 0, "evened": 10, "whole": 30, "constant": 7}
    found = effects(_records(lambda m, d, s: worth[m.saliency] + worth[m.head] + (m.values == "kept") * 2 + s))
    expected = {
        "random instead of scores": 4,
        "head evened out": 10,
        "head whole instead of evened out": 20,
        "all units evened out instead of the head": -3,
        "random instead of scores, heads evened out": 4,
        "random instead of scores, heads whole": 4,
        "head evened out, random masks": 10,
        "scored values kept": 2,
        "values kept, random masks (nothing to expect)": 2,
    }
    for contrast, value in expected.items():
        row = _cell(found, contrast, 0.02)
        assert [row.difference, row.low, row.high, row.seeds] == pytest.approx([value, value, value, 2])
    assert len(found) == 2 * len(expected)


def test_the_interval_is_students_over_seeds_and_a_single_seed_has_none():
    def value(mask, density, seed):
        return (mask.saliency == "random") * (1.0, 2.0, 6.0)[seed]

    row = _cell(effects(_records(value, (0, 1, 2))), "random instead of scores")
    half = 2.919986 * 2.645751 / 3**0.5  # t(0.95, 2), sd of 1, 2, 6
    assert [row.difference, row.low, row.high] == pytest.approx([3, 3 - half, 3 + half], rel=1e-5)
    alone = effects(_records(value, (2,)))
    assert _cell(alone, "random instead of scores").difference == 6 and alone["low"].isna().all()
    assert effects_table(alone)[0.1]["a", "random instead of scores"] == "+6.00"


def test_another_saliency_takes_the_place_of_gradients_and_missing_arms_leave_their_contrasts_out():
    records = _records(lambda m, d, s: 3.0 * (m.saliency == "snip"), saliency="snip")
    assert _cell(effects(records), "random instead of scores").difference == -3
    some = records[~records["arm"].str.contains("evened|constant")]
    names = set(effects(some)["contrast"])
    assert "random instead of scores" in names and not any("evened" in name or "kept" in name for name in names)
    assert effects(records[:0]).empty


def test_the_table_has_a_row_for_each_task_and_question_and_a_column_per_density_largest_first():
    records = _records(lambda m, d, s: 0.0, densities=(0.02, 0.1))
    table = effects_table(effects(pd.concat([records, records.assign(task="b")])))
    assert list(table.columns) == [0.1, 0.02] and list(table.index.unique(0)) == ["a", "b"]
    assert table[0.1]["b", "head evened out"] == "+0.00 (+0.00 to +0.00)"


def test_two_arms_are_compared_on_the_seeds_that_have_both():
    rows = [("a", "x", 0, 3.0), ("a", "x", 1, 5.0), ("a", "y", 1, 1.0), ("a", "y", 2, 9.0), ("b", "x", 1, 50.0)]
    records = pd.DataFrame(rows, columns=["task", "arm", "seed", "value"]).assign(metric="accuracy")
    found = between(records, "a", "x", "y")
    assert (found.difference, found.seeds, str(found)) == (4.0, 1, "+4.00")
    with pytest.raises(ValueError, match="no seed has both"):
        between(records, "b", "x", "y")


def test_a_difference_of_trainings_that_a_cap_ended_is_marked():
    records = _records(lambda m, d, s: float(s))
    records["capped"] = records["arm"].eq(Mask("random", "whole").arm(0.02) + ", converged") & records["seed"].eq(1)
    found = effects(records)
    marked = found[found["capped"] > 0].set_index(["density", "contrast"])["capped"].to_dict()
    assert marked == {
        (0.02, "random instead of scores, heads whole"): 1,
        (0.02, "values kept, random masks (nothing to expect)"): 1,
    }
    table = effects_table(found)
    assert table[0.02]["a", "random instead of scores, heads whole"].endswith(")*")
    assert not table[0.1].str.endswith("*").any()


@pytest.mark.parametrize("mask", [Mask("gradient"), Mask("random"), Mask("gradient", "evened")])
def test_that_outputs_starve_is_said_only_where_masks_by_scores_with_heads_as_cut_left_some(mask):
    records = _records(lambda m, d, s: float(s)).assign(experiment="starves", profile="laptop")
    records["dead_outputs"] = 2 * records["arm"].eq(mask.arm(0.02) + ", converged")
    said = starving(records)
    assert "2 % of the weights each" in said and "trained to convergence" in said
    assert ("outputs own none" in said) == (mask == Mask("gradient"))
