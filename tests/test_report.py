"""The table of results, from records whose means are known by hand."""

import itertools
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from msnlib.command.cli import main
from msnlib.lab.checklist import checklist
from msnlib.lab.claim import claim_table
from msnlib.lab.design import read_design, read_designs
from msnlib.lab.findings import findings, loss
from msnlib.lab.gains import controls_section, gains_section, smaller_section
from msnlib.lab.parameters import ParameterError
from msnlib.lab.pooling import headline
from msnlib.lab.power import power_table
from msnlib.lab.publish import (
    SECTIONS,
    claim_section,
    marks,
    publish,
    recipe_section,
    results_tables,
)
from msnlib.lab.records import NUMERICS, Run, read_records
from msnlib.lab.report import EmptyReport, format_difference, format_table, format_value, paired, report_table


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setenv("MSNLIB_RECORDS", str(tmp_path))
    return tmp_path


def _save(experiment, seed, value, profile="paper", notebook="02_a", task="mnist", metric="accuracy", **configuration):
    run = Run(experiment, notebook=notebook, profile=profile, seed=seed, **configuration)
    run.add(task=task, arm="multitask", metric=metric, value=value)
    return run.save()


def test_mean_spread_and_published(out):
    for seed, value in enumerate((97.0, 98.0, 99.0)):
        _save("E1", seed, value)
    (row,) = report_table(read_records(out)).to_dict("records")
    assert row == {
        "profile": "paper",
        "experiment": "E1",
        "notebook": "02_a",
        "settings": "",
        "task": "mnist",
        "arm": "multitask",
        "metric": "accuracy",
        "mean": 98.0,
        "min": 97.0,
        "max": 99.0,
        "sd": 1.0,
        "seeds": 3,
        "published": 97.58,
        "difference": pytest.approx(0.42),
    }


def test_the_written_table_is_exact(out, capsys):
    _save("E3", 0, 0.0161, notebook="03_b", task="boston", metric="mse")
    for seed, value in enumerate((97.0, 98.0)):
        _save("E1", seed, value)
        _save("E1", seed, value, profile="quick", task="digits")
    assert main(["report", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[:12] == [
        "## paper profile",
        "",
        "| experiment | notebook | task   | arm       | metric       "
        "| ours (mean) |       min to max |   sd | seeds | published | difference |",
        "| ---------- | -------- | ------ | --------- | ------------ "
        "| ----------: | ---------------: | ---: | ----: | --------: | ---------: |",
        "| E1         | 02_a     | mnist  | multitask | accuracy (%) "
        "|       97.50 |   97.00 to 98.00 | 0.71 |     2 |     97.58 |      -0.08 |",
        "| E3         | 03_b     | boston | multitask | mse          "
        "|      0.0161 | 0.0161 to 0.0161 |      |     1 |    0.0160 |    +0.0001 |",
        "",
        "## quick profile",
        "",
        "| experiment | notebook | task   | arm       | metric       "
        "| ours (mean) |     min to max |   sd | seeds | published | difference |",
        "| ---------- | -------- | ------ | --------- | ------------ "
        "| ----------: | -------------: | ---: | ----: | --------: | ---------: |",
        "| E1         | 02_a     | digits | multitask | accuracy (%) "
        "|       97.50 | 97.00 to 98.00 | 0.71 |     2 |           |            |",
    ]
    assert (out / "table.md").read_text() == f"# Results\n\n{printed}"
    assert (out / "records.csv").read_text().count("\n") == 6  # a header and five results


def test_the_quick_profile_is_not_compared_with_published_figures(out):
    for profile in ("quick", "laptop"):
        _save("E1", 0, 97.0, profile=profile)
    table = report_table(read_records(out)).set_index("profile")
    assert list(table.index) == ["laptop", "quick"]
    assert table["published"].fillna(-1).tolist() == [97.58, -1]
    assert table["difference"].isna().tolist() == [False, True]
    assert table["sd"].isna().all()


def test_runs_of_different_configurations_are_not_averaged(out):
    for density in (0.1, 0.2):
        for seed in (0, 1):
            _save("E1", seed, 90 + 10 * density, density=density, method="snip")
    table = report_table(read_records(out))
    assert table[["settings", "mean", "seeds"]].values.tolist() == [["density=0.1", 91.0, 2], ["density=0.2", 92.0, 2]]
    assert "| density=0.1 |" in format_table(table)


def test_an_override_the_notebook_did_not_record_still_tells_runs_apart(out):
    path = _save("E1", 0, 90.0)
    record = json.loads(path.read_text())
    record["results"][0]["value"] = 80.0
    (out / "other.json").write_text(json.dumps(record | {"run": {"overrides": {"batch": 32}}}))
    table = report_table(read_records(out))
    assert table[["settings", "mean", "seeds"]].values.tolist() == [["", 90.0, 1], ["batch=32", 80.0, 1]]


def test_the_same_run_counts_once(out):
    path = _save("E1", 0, 97.0)
    (out / "copy").mkdir()
    (out / "copy" / path.name).write_bytes(path.read_bytes())
    assert report_table(read_records(out))["seeds"].tolist() == [1]


def test_rows_are_in_order_of_profile_experiment_and_notebook(out):
    for profile in ("quick", "paper"):
        for experiment in ("E10", "E2"):
            for number in (5, 4):
                _save(experiment, 0, 50.0, profile=profile, notebook=f"0{number}_{experiment}")
    table = report_table(read_records(out))
    assert [" ".join(row) for row in table[["profile", "experiment", "notebook"]].values] == [
        "paper E2 04_E2",
        "paper E2 05_E2",
        "paper E10 04_E10",
        "paper E10 05_E10",
        "quick E2 04_E2",
        "quick E2 05_E2",
        "quick E10 04_E10",
        "quick E10 05_E10",
    ]


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("accuracy", 97.5, "97.50"),
        ("accuracy_before", 97.456, "97.46"),
        ("mse", 0.016, "0.0160"),
        ("forgetting", 0.0, "0"),
        ("weights", 123456.0, "123456"),
        ("accuracy", float("nan"), ""),
    ],
)
def test_numbers_are_shown_as_their_metric_asks(metric, value, shown):
    assert format_value(metric, value) == shown


def test_an_empty_folder_is_one_line(tmp_path, capsys):
    assert main(["report", "--out", str(tmp_path / "none")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"msn: no records in {tmp_path / 'none'}; 'msn run --out {tmp_path / 'none'}' makes them\n"


def test_the_recipes_stand_beside_ours_with_the_outputs_that_own_no_weight(out):
    assert recipe_section(read_records(out)) == "No run is made yet."
    for seed in (10, 11, 12):
        run = Run("recipe", notebook="18_recipe", profile="paper", seed=seed)
        for arm, value, dead in (("multitask", 97.0, 0), ("authors values", 97.0 - 3 * (seed - 10), seed - 10)):
            for ending in ("", ", converged"):
                lower = value - (not ending)
                run.add(task="mnist", arm=arm + ending, metric="accuracy", value=lower, dead_outputs=dead, capped=False)
        run.save()
    scope, _, head, _, *rows = recipe_section(read_records(out)).splitlines()
    assert scope == "**`paper`, 3 seeds**"
    assert [cell.strip() for cell in head.split("|")[2:-1]] == ["MNIST", "dead, MNIST"]
    assert [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows] == [
        ["initial values as released", "-3.00 (-8.06 to +2.06)", "0 1 2"]
    ]


def test_every_number_of_readme_and_results_page_comes_from_the_committed_records():
    root = Path(__file__).resolve().parent.parent
    records, design = read_records(root / "reports"), read_designs(root / "sweeps")
    claim = claim_table(root / "reports", design)
    assert (records["profile"] == "paper").any() and {"E1", "E3"} <= set(claim["experiment"])
    for page, name, content in [
        ("README.md", "findings", findings(records, claim)),
        ("docs/results.md", "claim", claim_section(claim)),
        *[("docs/results.md", name, section(records)) for name, section in SECTIONS.items()],
        ("docs/checklist.md", "checklist", checklist(records, claim, root / "reports", root / "notebooks")),
    ]:
        start, end = marks(name)
        assert f"{start}\n\n{content}\n\n{end}" in (root / page).read_text(encoding="utf-8")
    pd.testing.assert_frame_equal(pd.read_csv(root / "reports" / "claim.csv"), claim, rtol=1e-5, check_dtype=False)
    power = power_table(root / "reports", design)
    pd.testing.assert_frame_equal(pd.read_csv(root / "reports" / "power.csv"), power, rtol=1e-3, check_dtype=False)


def test_tables_have_six_columns_at_most():
    root = Path(__file__).resolve().parent.parent
    for page in [root / "README.md", *(root / "docs").glob("*.md")]:
        rows = [line for line in page.read_text(encoding="utf-8").splitlines() if re.match(r"\|[ :-]+\|", line)]
        assert all(line.count("|") <= 7 for line in rows), page.name


def test_an_experiment_is_shown_in_its_largest_profile(out):
    for experiment, profile in [
        ("E10", "laptop"),
        ("E2", "laptop"),
        ("E2", "quick"),
        ("E1", "paper"),
        ("E1", "laptop"),
    ]:
        _save(experiment, 0, 90.0, profile, notebook=f"02_{experiment}")
    _save("E2", 0, 99.0, "paper", density=0.5)
    records = read_records(out)
    records.loc[records["profile"].eq("paper") & records["experiment"].eq("E2"), "overrides"] = '{"density": 0.5}'
    shown = headline(records)
    assert shown[["experiment", "profile"]].values.tolist() == [["E1", "paper"], ["E2", "laptop"], ["E10", "laptop"]]
    lines = [line for line in results_tables(records).splitlines() if re.match(r"\*|\| E", line)]
    assert [line if line[0] == "*" else line.replace(" ", "").split("|")[1:4] for line in lines] == [
        "**Stopped as the authors did, at the published sizes** (`paper`)",
        ["E1MNIST(%)", "97.24", "97.58"],
        "**Stopped as the authors did, in smaller networks, on fewer examples** (`laptop`)",
        ["E2MNIST(%)", "98.74", "98.84"],
        ["E10MNIST(%,prototypes)", "", ""],
    ]


def test_of_several_configurations_the_one_with_the_most_seeds_is_shown(out):
    _save("E1", 0, 10.0, epochs=50)  # an older default, and no override
    for seed in (1, 2):
        _save("E1", seed, 97.0 + seed, epochs=100)
    _save("E2", 0, 90.0, epochs=50)
    shown = headline(read_records(out))
    assert shown[["experiment", "seed", "value"]].values.tolist() == [["E1", 1, 98.0], ["E1", 2, 99.0], ["E2", 0, 90.0]]
    assert "98.50 (98.00–99.00)" in results_tables(read_records(out))


def test_experiments_nobody_published_are_not_in_the_readme(out):
    _save("E1", 0, 97.0)
    _save("capacity", 0, 90.0, notebook="10_b")
    assert len(results_tables(read_records(out)).splitlines()) == 5  # a title, and a table of one line


def test_gains_stand_beside_the_published_ones_at_the_published_size(out):
    for seed, (own, control) in enumerate([(50.0, 40.0), (49.0, 48.0), (48.0, 48.5)]):
        for profile in ("paper", "laptop"):
            run = Run("E5", notebook="06_a", profile=profile, seed=seed)
            for arm, value in (("multitask", own), ("dedicated", control)):
                run.add(task="cifar10", arm=arm, metric="accuracy", value=value)
                run.add(task="cifar10", arm=f"{arm}, converged", metric="accuracy", value=2 * value)
            run.add(task="mnist", arm="multitask", metric="accuracy", value=98.0)  # nothing to compare with
            run.save()
    header, _, line = gains_section(read_records(out)).splitlines()
    assert [part.strip() for part in line.strip("|").split("|")][:2] == ["E5 CIFAR-10", "+13.35"]
    assert "+3.50 (-6.07 to +13.07)" in line and "+10.00 +1.00 -0.50" in line and "+7.00" in line
    assert gains_section(read_records(out).query("profile == 'laptop'")) == "No run is made yet."


def test_all_arms_of_a_run_stand_side_by_side_the_longer_side_downwards(out):
    def save(experiment, notebook, tasks, trained, **configuration):
        run = Run(experiment, notebook=notebook, profile="paper", seed=0, **configuration)
        for (i, task), arm in itertools.product(enumerate(tasks), trained):
            run.add(task=task, arm=arm, metric="accuracy", value=90 + i, dead_outputs=2 * (arm[0] == "r"))
        path = run.save()
        record = json.loads(path.read_text())
        record["run"] = {"overrides": configuration}
        path.write_text(json.dumps(record))

    many = ["multitask, converged", "random, converged", "small, converged", "small"]
    save("E2", "04_a", ["mnist", "fashion"], many, arms="all")
    save("E7", "08_a", [f"fashion_{k}" for k in range(1, 6)], many[:2], arms="all")
    save("E2", "04_a", ["mnist"], ["pruned, converged"], precision="float32")
    records = read_records(out)
    older = records[records["overrides"].ne("{}")].assign(value=10.0, versions='{"numerics": 0}')
    assert controls_section(pd.concat([records, older])) == controls_section(records)  # a pool, and not a mean of two
    two, five = controls_section(records).split("\n\n**")
    assert [line.split("|")[1].strip() for line in two.splitlines()[4:]] == ["multitask", "random", "small"]
    assert "90.00 (2 without)" in two and "pruned" not in two
    for seed, (own, control) in enumerate([(97.0, 96.0), (98.0, 98.5)]):
        run = Run("E2", notebook="04_a", profile="laptop", seed=seed)
        for arm, value in (("multitask", own), ("small", control)):
            run.add(task="mnist", arm=f"{arm}, converged", metric="accuracy", value=value)
        run.save()
    header, _, line = smaller_section(read_records(out)).splitlines()
    assert header.startswith("| points, 2 seeds |")
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["E2 MNIST", "", "", "", "+0.2 (-4.5 to +5.0)"]
    assert len(five.splitlines()) == 4 + 5 and "| Fashion-MNIST, no. 5 |" in five


def test_no_committed_run_that_tables_call_trained_to_convergence_was_ended_by_a_cap():
    records = read_records(Path(__file__).parent.parent / "reports")
    records = records[records["profile"] != "quick"]
    shown = pd.concat([headline(records, ("notebook", "profile")), records[records["overrides"] != "{}"]])
    shown = shown[[json.loads(text).get("numerics") == NUMERICS for text in shown["versions"]]]
    assert len(shown) > 1000
    assert shown.loc[shown["capped"].eq(True), "file"].unique().tolist() == []


def test_differences_are_paired_within_a_run_and_positive_is_better(out):
    for seed, (own, control, error) in enumerate([(97.0, 96.0, 0.25), (98.0, 98.5, 0.125)]):
        run = Run("E3", notebook="03_b", profile="paper", seed=seed)
        run.add(task="mnist", arm="multitask", metric="accuracy", value=own)
        run.add(task="mnist", arm="dedicated", metric="accuracy", value=control)
        run.add(task="boston", arm="multitask, converged", metric="mse", value=0.125)
        run.add(task="boston", arm="small, converged", metric="mse", value=error)
        run.add(task="mnist", arm="multitask", metric="forgetting_accuracy", value=0.0)
        run.save()
    lone = Run("E3", notebook="03_b", profile="paper", seed=2)
    lone.add(task="mnist", arm="multitask", metric="accuracy", value=50.0)
    lone.save()
    records = read_records(out)
    assert paired(records).values.tolist() == [["E3", "paper", "mnist", "dedicated", 0.25, -0.5, 1.0, 2, 2]]
    assert paired(records, "converged").values.tolist() == [
        ["E3", "paper", "boston", "small", 0.0625, 0.0, 0.125, 2, 4]
    ]
    assert paired(records, "other").empty
    records["arm"] = records["arm"].str.replace(r"^(\w+)", r"\1 scaled", regex=True)
    assert paired(records, "converged", "scaled")["mean"].tolist() == [0.0625]


@pytest.fixture
def readme(out):
    """A README and a page of results to write into, and margins."""
    for folder in ("docs", "sweeps"):
        (out / folder).mkdir()
    (out / "sweeps" / "claim.toml").write_text('[margins]\nmnist = 0.5\nboston = "10 %"\n')
    others = [line for name in ("claim", *SECTIONS) if name != "results" for line in marks(name)]
    (out / "docs" / "results.md").write_text("\n".join(["top", *marks("results"), "then", *others, "after\n"]))
    (out / "docs" / "checklist.md").write_text("\n".join(marks("checklist")))
    (out / "README.md").write_text("before\n" + "old\n".join(marks("findings")) + "\nafter\n")
    return out / "README.md"


def test_a_page_that_cannot_be_written_stays_as_it_was(out, readme, monkeypatch):
    _save("E1", 0, 97.0)
    page, before = out / "docs" / "results.md", (out / "docs" / "results.md").read_text()
    write = Path.write_text

    def full(path, text, **options):
        if path.name.startswith(f".{page.name}"):
            write(path, text[:100], **options)
            raise OSError(28, "No space left on device", str(path))
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        publish(out, readme)
    assert page.read_text() == before and not list(page.parent.glob(".*"))


def test_boxes_are_refreshed_in_finished_runs_alone(out, readme):
    _save("E1", 0, 97.0)
    for folder in ("laptop-seed7.failed", ".laptop-seed8.abcd"):
        (out / "02_a" / folder).mkdir(parents=True)
        (out / "02_a" / folder / "02_a.ipynb").write_text("cut off")
    publish(out, readme)
    assert [path.read_text() for path in sorted(out.glob("02_a/*/*.ipynb"))] == ["cut off"] * 2


def test_publish_fills_the_pages_between_their_marks(out, readme):
    for seed, value in enumerate((97.0, 98.5)):
        _save("E1", seed, value)
        _save("E1", seed, 10.0, profile="quick")
    publish(out, readme)
    assert readme.read_text() == f"before\n{marks('findings')[0]}\n\n\n\n{marks('findings')[1]}\nafter\n"  # no control
    page = (out / "docs" / "results.md").read_text()
    assert page.startswith(
        f"top\n{marks('results')[0]}\n\n{results_tables(read_records(out))}\n\n{marks('results')[1]}\nthen\n"
    )
    assert "| E1 MNIST (%) |" in page and "97.75 (97.00–98.50)" in page
    listed = (out / "docs" / "checklist.md").read_text()
    assert re.search(
        r"\| E1 +\| paper, 2 seeds +\| 1 of 1, 3 not tried ", listed
    )  # 97.58 of 97.24, 88.11, 97.58 and 87.09
    assert re.search(r"\| E9 +\| quick only +\| none tried ", listed)
    assert (out / "results.png").stat().st_size > 1000
    assert not (out / "speed.png").exists()
    run = Run("performance", notebook="80_b", profile="laptop", seed=0)
    for count in (1, 2):
        run.add(task=f"{count} tasks", arm="scattered", metric="speedup_batch_32", value=2.0)
    run.save()
    publish(out, readme)
    assert (out / "speed.png").stat().st_size > 1000
    readme.write_text("no marks")
    with pytest.raises(EmptyReport, match="no marks"):
        publish(out, readme)


@pytest.mark.parametrize(
    ("profile", "values", "repeated"),
    [
        ("paper", (97.0, 98.0), "1 of 1, 3 not tried"),
        ("paper", (98.0, 99.0), "0 of 1, 3 not tried"),
        ("paper", (97.58,), "none tried"),
        ("laptop", (97.0, 98.0), "none tried"),
    ],
)
def test_a_published_figure_is_repeated_within_two_seeds_of_its_size(out, profile, values, repeated):
    for seed, value in enumerate(values):
        path = _save("E1", seed, value, profile=profile)
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"run": {"seconds": 3600}}))
    (out / "claim.toml").write_text("[margins]\nmnist = 0.5\n")
    records, design = read_records(out), read_design(out / "claim.toml")
    _, _, line, *rest = checklist(records, claim_table(out, design), out, out).splitlines()
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == [
        "E1",
        f"{profile}, {len(values)} seed{'s' * (len(values) > 1)}",
        repeated,
        "not tested",
        f"{len(values)}.0",
    ]
    assert f"took {len(values)} hours by the clock, 0 of them" in rest[-1]


def _save_pair(
    experiment, seed, own, control, metric="accuracy", task="mnist", subnetwork="multitask", profile="paper"
):
    run = Run(experiment, notebook=f"02_{experiment}", profile=profile, seed=seed)
    for arm, value in ((subnetwork, own), ("dedicated", control)):
        run.add(task=task, arm=f"{arm}, converged", metric=metric, value=value)
    run.save()


def test_publish_answers_the_claim_between_its_marks(out, readme):
    for seed, noise in enumerate((-0.01, 0.0, 0.01)):
        _save_pair("E1", seed, 97.0 + noise, 97.0, profile="laptop")
        _save_pair("E2", seed, 90.0 + noise, 97.0)
    _save_pair("E3", 0, 0.008, 0.01, "mse", "boston")
    _save_pair("E6", 0, 90.0, 90.0, task="easy")
    margins, page = out / "sweeps" / "claim.toml", out / "docs" / "results.md"
    whole, before = page.read_text(), readme.read_text()
    page.write_text("\n".join(marks("results")))
    with pytest.raises(EmptyReport, match="results.md: no marks '<!-- claim"):
        publish(out, readme)
    assert readme.read_text() == before and page.read_text() == "\n".join(marks("results"))  # nothing is written
    page.write_text(whole)
    publish(out, readme)
    written = page.read_text()
    _, rest = written.split(f"then\n{marks('claim')[0]}\n\n")
    lines = rest.partition(marks("effects")[0])[0].splitlines()
    assert lines[:6] == [
        "- **E1 (exploration): it holds.** Shown for MNIST.",
        "- **E2 (exploration): it does not hold.** Refuted for MNIST.",
        "- **E3 (exploration): undecided.** Open for Boston housing.",
        "- **All of it at the published sizes (exploration): it does not hold.** Refuted for E2; open for E3.",
        "- **All of it in smaller networks, on fewer examples (exploration): it holds.** Shown for E1.",
        "",
    ]
    lines = lines[6:]
    assert lines[0] == "**Trained to convergence**"
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:7] if "--" not in line]
    assert cells == [
        ["task", "verdict", "difference", "margin", "seeds", "a tenth more errors"],
        ["E1 MNIST", "non-inferior", "+0.00 (-0.02 to +0.02)", "0.5 (17 %)", "3, laptop, exploration",
         "non-inferior"],
        ["E2 MNIST", "inferior", "-7.00 (-7.02 to -6.98)", "0.5 (17 %)", "3, exploration",
         "inferior"],
        ["E3 Boston housing (% of the error)", "inconclusive", "+20.0", "10", "1, exploration", "inconclusive"],
    ]  # fmt: skip
    assert lines[7:] == [
        "",
        "- Not tested, without a margin or a control: E6 (easy half).",
        "",
        marks("claim")[1],
    ]
    assert pd.read_csv(out / "claim.csv")["verdict"].tolist() == ["non-inferior", "inferior", "inconclusive"]
    assert (out / "claim.png").stat().st_size > 1000
    found = readme.read_text()
    assert "of the paper's 2 experiments 1 is open, 1 refutes it." in found
    assert "-7.00 points (-7.02" in found
    before = [(out / name).read_bytes() for name in ("claim.png", "overview.png")]
    publish(out, readme)
    assert (page.read_text(), readme.read_text()) == (written, found)
    assert [(out / name).read_bytes() for name in ("claim.png", "overview.png")] == before
    margins.write_text("[margins]\nmnist = 0\n")
    with pytest.raises(ParameterError, match="mnist: margin 0 must be"):
        publish(out, readme)
    margins.write_text("[margins]\ncifar10 = 1\n")
    publish(out, readme)
    assert "No run yet has a task with a margin in both networks." in page.read_text()


def test_the_claim_without_untested_tasks_and_with_all_tasks_shown(out):
    for seed in (0, 1):
        _save_pair("E1", seed, 97.0, 97.0)
        _save_pair("E10", seed, 97.0, 97.0, subnetwork="told")
    (out / "claim.toml").write_text("[margins]\nmnist = 0.5\n")
    table = claim_table(out, read_design(out / "claim.toml"))
    answer = claim_section(table).partition("\n\n")[0].splitlines()[-1]
    assert answer == "- **All of it at the published sizes (exploration): it holds.** Shown for E1, E10."


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [("accuracy", 0.126, "+0.13"), ("accuracy", -0.001, "+0.00"), ("mse", -10.04, "-10.0"), ("mse", float("nan"), "")],
)
def test_differences_are_shown_with_their_sign(metric, value, shown):
    assert format_difference(metric, value) == shown


def test_the_forest_draws_what_the_table_holds(out):
    from msnlib.lab.figures import forest

    for seed, own in enumerate((97.0, 97.2, 97.4)):
        _save_pair("E1", seed, own, 97.0)
        _save_pair("E2", seed, own - 10, 97.0)
    _save_pair("E10", 0, 97.2, 97.0, subnetwork="told")
    (out / "claim.toml").write_text("[margins]\nmnist = 0.5\n")
    table = claim_table(out, read_design(out / "claim.toml"))
    table.loc[0, ["both_low", "both_high"]] = 0.1, 0.3
    table.loc[0, "both_seeds"] = 3
    (ax,) = forest(table).axes
    drawn = [line.get_xydata().tolist() for line in ax.lines]
    assert [[table["low"][0] / 0.5, 0.0], [table["high"][0] / 0.5, 0.0]] in drawn
    assert [[0.2, 0.22], [0.6, 0.22]] in drawn and [[pytest.approx(0.4), 0.0]] in drawn
    assert [[-4.0, 1.0]] in drawn  # 9.8 points are beyond the edge
    assert not any(2.0 in [y for _, y in line] and len(line) == 2 and line[0][1] == line[1][1] for line in drawn)
    words = [text.get_text() for text in ax.texts]
    assert {"+0.20 points", "-9.80 points", "one seed", *table["verdict"]} <= set(words)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["E1 MNIST", "E2 MNIST", "E10 MNIST"]


def _save_rules(out, values, **notes):
    """Save records of one pair; values: rule's ending -> differences by seed, from a control at 97."""
    for seed in range(3):
        run = Run("E3", notebook="03_b", profile="paper", seed=seed)
        for ending, differences in values.items():
            run.add(task="mnist", arm=f"multitask{ending}", metric="accuracy", value=97 + differences[seed], **notes)
            run.add(task="mnist", arm=f"dedicated{ending}", metric="accuracy", value=97.0)
        run.save()
    (out / "claim.toml").write_text("[margins]\nmnist = 0.5\n")
    return claim_table(out, read_design(out / "claim.toml"))


def test_a_small_shown_loss_and_a_sign_that_the_rule_decides_are_said(out):
    text = claim_section(_save_rules(out, {"": (0.2, 0.25, 0.3), ", converged": (-0.3, -0.25, -0.2)}))
    lines = [line for line in text.splitlines() if line.startswith("| E3")]
    assert "| non-inferior | -0.25 (-0.33 to -0.17) |" in lines[0] and "non-inferior | +0.25 (+0.17 to" in lines[1]
    assert "- E3 MNIST: within the margin, but a loss is shown, -0.25 (-0.33 to -0.17)." in text
    assert (
        "- E3 MNIST: the stopping rule decides the sign, -0.25 (-0.33 to -0.17) converged, "
        "+0.25 (+0.17 to +0.33) by the authors' rule." in text
    )


def test_nothing_is_said_of_rows_that_agree_and_nothing_of_rows_without_a_verdict(out):
    text = claim_section(_save_rules(out, {"": (-0.1, 0.0, 0.1), ", converged": (-0.1, 0.0, 0.1)}, dead_outputs=2))
    assert "sign" not in text and "a loss is shown" not in text
    assert "starved outputs" in (rows := text.partition("**Trained")[2].splitlines())[2] and rows[4].endswith(" 2 |")
    text = claim_section(_save_rules(out, {"": (0.2, 0.25, 0.3), ", converged": (-0.3, -0.25, -0.2)}, capped=True))
    assert "sign" not in text and "- **E3 (exploration): no verdict.** Ended by the cap on epochs: MNIST." in text


def test_published_figures_stand_beside_the_arm_that_repeats_them(out):
    for seed in range(2):
        run = Run("E4", notebook="05_a", profile="paper", seed=seed)
        for arm, value in (("dedicated", 81.0), ("dedicated 512", 79.0 + seed), ("multitask", 80.0 + seed)):
            run.add(task="imdb", arm=arm, metric="accuracy", value=value)
        run.save()
        run = Run("E10", notebook="11_a", profile="paper", seed=seed)
        for arm, value in (("discerner", 99.94), ("multitask", 80.0)):
            run.add(task="task_identity", arm=arm, metric="accuracy", value=value)
        run.save()
    lines = [[cell.strip() for cell in line.split("|")[1:5]] for line in results_tables(read_records(out)).splitlines()]
    assert [line for line in lines if line and line[0].startswith("E")] == [
        ["E4 film reviews (%)", "", "81.89*", "81.00 (81.00–81.00)"],
        ["E4 film reviews (%, control in batches of 512)", "79.66", "81.89*", "79.50 (79.00–80.00)"],
        ["E10 which task it is (%, trained discerner)", "", "99.94", ""],
        ["E10 which task it is (%, prototypes)", "", "", ""],
    ]


def _save_limits(out, **values):
    """Save three seeds of a sequence and of a full network; values: arm -> what it forgets, or its accuracy."""
    for seed in range(3):
        run = Run("forgetting", notebook="09_a", profile="laptop", seed=seed)
        run.add(task="mnist", arm="multitask", metric="accuracy", value=90.0)
        for arm, name in (("multitask", "ours"), ("fine-tuning", "theirs")):
            run.add(task="all", arm=arm, metric="forgetting_accuracy", value=values[name] + seed * values[name] / 10)
        for arm in ("multitask", "dedicated"):
            run.add(task="all", arm=arm, metric="accuracy", value=90.0 + (arm == "dedicated"))
        run.save()
        run = Run("capacity", notebook="10_a", profile="laptop", seed=seed)
        for count, arm in itertools.product((4, 8), ("multitask", "random", "small")):
            ended = dict(capped=(arm, count) in values.get("capped", ()))
            run.add(task="mean", arm=f"{arm} T={count}", metric="accuracy", value=values[arm] + 0.1 * seed, **ended)
        run.save()
    (out / "claim.toml").write_text("[margins]\nmnist = 0.5\n")
    return findings(read_records(out), claim_table(out, read_design(out / "claim.toml")))


def _case(experiment="E1", evidence="claim", **differences):
    """Rows of a claim's table, one for each rule: the difference with an interval of 0.1 to either side."""
    same = {"experiment": experiment, "profile": "paper", "task": "mnist", "metric": "accuracy", "evidence": evidence}
    same |= {"seeds": 3, "margin": 0.5, "verdict": "non-inferior", "without_one_verdict": None}
    return [
        same | {"rule": rule, "difference": value, "low": value - 0.1, "high": value + 0.1}
        for rule, value in differences.items()
    ]


def test_what_is_ruled_out_is_counted_and_the_rest_is_named():
    close = _case(converged=-0.2)
    far = _case("E2", converged=0.0)[0] | {"low": -0.9, "verdict": "inconclusive", "margin": 1.0, "task": "fashion"}
    lost = _case("E6", converged=-2.0)[0] | {"verdict": "inferior", "margin": 1.0, "task": "hard"}
    same = _case("E6", converged=0.0)[0] | {"margin": 1.0, "task": "easy"}
    first, *parts = loss(pd.DataFrame([*close, far, lost, same])).splitlines()
    assert first == (
        "**Does a task lose against a network of its own? In some experiments.** No loss beyond a margin, on any task: "
        "of the paper's 3 experiments 1 shows it, 1 is open, 1 refutes it."
    )
    assert [part.removeprefix("  - ") for part in parts] == [
        "A loss beyond the margin is ruled out in 2 of 4 comparisons. Two image tasks in parallel (E1): MNIST; easy "
        "and hard classes (E6): easy half.",
        "Open are 1 (hollow dots), whose intervals reach beyond it. Two with convolutions (E2): Fashion-MNIST.",
        "Beyond it as a whole are 1. E6: hard half.",
        "2 of 4 means are worse (below 0). A loss is shown for E1 MNIST -0.20 points (-0.30 to -0.10): within the "
        "margin; E6 hard half -2.00 points (-2.10 to -1.90): beyond it.",
        "*The published size, trained to convergence, 3 seeds, 90 % intervals; margins: 0.5 points on MNIST, 1 point "
        "on the others.*",
    ]


def test_more_error_is_said_as_such():
    (row,) = _case("E3", converged=-20.0)
    row |= {"task": "boston", "metric": "mse", "low": -30.0, "high": -10.0, "verdict": "inferior", "margin": 10.0}
    assert "A loss is shown for E3 Boston housing 20.0 % more error (10.0 to 30.0): beyond it." in loss(
        pd.DataFrame([row])
    )


@pytest.mark.parametrize(
    ("verdicts", "answer"),
    [
        (["non-inferior"] * 2, "Not beyond a margin"),
        (["non-inferior", "inconclusive", "inconclusive"], "Mostly open"),
        (["non-inferior", "inconclusive"], "Partly open"),
        (["inferior", "inconclusive", "inconclusive"], "In some experiments"),
    ],
)
def test_the_first_finding_begins_with_its_answer(verdicts, answer):
    rows = [_case(f"E{k}", converged=0.0)[0] | {"verdict": word} for k, word in enumerate(verdicts, 1)]
    assert loss(pd.DataFrame(rows)).startswith(f"**Does a task lose against a network of its own? {answer}.** No loss")


def test_the_scope_says_how_the_runs_were_made(out):
    for experiment, more in (("E1", {}), ("E3", {"density": 0.5}), ("E2", {"density": 0.2, "precision": "bfloat16"})):
        run = Run(experiment, notebook=f"02_{experiment}", profile="paper", seed=0, **{"density": 0.1, **more})
        run.add(task="mnist", arm="multitask", metric="accuracy", value=90.0)
        run.save()
    claim = [_case(name, converged=0.0)[0] for name in ("E1", "E2", "E3")]
    (scope,) = [line for line in loss(pd.DataFrame(claim), headline(read_records(out))).splitlines() if "size" in line]
    assert "size, 10 to 50 % of the weights a task, E2 in bfloat16, trained to convergence" in scope
    assert "; E1's controls serve E3 too" in scope


def test_losses_under_the_authors_rule_are_said():
    lost = _case(converged=0.0, authors=-0.3)
    assert "Stopped as the authors did, a loss is shown for E1 MNIST -0.30" in loss(pd.DataFrame(lost))
    assert "Stopped as" not in loss(pd.DataFrame(_case(converged=-0.3, authors=-0.05)))


def test_what_is_exploration_is_named_beside_the_claim():
    decided, early = _case(converged=0.0, authors=0.0), _case("E10", "exploration", converged=0.0, authors=0.0)
    assert "exploration" not in loss(pd.DataFrame(decided))
    assert loss(pd.DataFrame(decided + early)).endswith("; exploration, not counted: E10.*")
    assert loss(pd.DataFrame(early)).endswith("; all of it exploration.*")  # counted, for want of others


def test_findings_say_what_the_records_say_and_their_headings_follow(out):
    accuracies = dict(ours=0.0, theirs=30.0, multitask=80.0, random=90.0, small=88.0)
    kept, full = _save_limits(out, **accuracies).splitlines()
    assert kept.startswith("- **Nothing is forgotten, by construction.** Of 1 image tasks")
    assert "33.0 points for each earlier task (30.0 to 36.0)" in kept and "freezes weights" not in kept
    assert (
        "is 1.0 points ahead of the subnetworks (1.0 to 1.0). *A smaller network, fewer images, ranges over 3 seeds"
        in kept
    )
    assert full.startswith("- **It breaks where weights are scarce.** Mean accuracy of three of 4, then 8 tasks")
    assert "weights as in the paper 80.1, then 80.1 % (80.0 to 80.2)" in full and full.endswith("to convergence.*")
    full = _save_limits(out, **accuracies, capped=[("small", 8)]).splitlines()[-1]
    assert full.endswith("a cap on epochs ended trainings in 3 of 18 means.*")
    kept, full = _save_limits(out, ours=1.0, theirs=30.0, multitask=90.0, random=90.0, small=88.0).splitlines()
    assert kept.startswith("- **Something is forgotten.**") and "lose at most 1.20 points" in kept
    assert full.startswith("- **No break up to 8 tasks.**")
