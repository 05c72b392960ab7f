"""What README and guides show works as it stands there, and the README stays one screen and a half."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN_TASKS = (ROOT / "docs" / "own_tasks.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _examples(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_readme_is_short_and_shows_code_early():
    lines = README.splitlines()
    assert len(lines) <= 120 and len(README.split()) <= 850
    assert lines.index("```python") < 45
    (code,) = _examples(README)
    assert len([line for line in code.splitlines() if line]) <= 10
    (shown,) = re.findall(r'<img src="[^"]+" alt="([^"]+)">', README)
    assert shown.count(" ") > 20  # the figure's text


def test_the_readmes_lines_are_those_of_the_guide():
    """The guide's run below; these run too, as they are among them."""
    guide = [line.partition("#")[0].strip() for line in _examples(OWN_TASKS)[0].splitlines()]
    (code,) = _examples(README)
    assert [line for line in code.splitlines() if line.partition("#")[0].strip() not in guide] == []


def test_the_example_runs_and_does_what_it_says(tmp_path, monkeypatch):
    import msnlib

    monkeypatch.chdir(tmp_path)
    example, _ = _examples(OWN_TASKS)
    learn_digits, rest = example.split("net.add_task", 1)
    names: dict = {}
    exec(learn_digits, names)
    before = msnlib.predict(names["net"], names["digits"])
    exec("net.add_task" + rest.split("msn.release", 1)[0], names)
    assert before.equal(msnlib.predict(names["net"], names["digits"]))
    measured = msnlib.evaluate(names["net"], [names["digits"], names["wine"]])
    assert min(task["accuracy"] for task in measured.values()) > 80
    assert (tmp_path / "two_tasks.safetensors").is_file()
    exec("msn.release" + rest.split("msn.release", 1)[1], names)
    assert msnlib.tasks(names["net"]) == ["wine"]


def test_the_example_of_another_model_runs():
    import torchvision

    import msnlib

    _, example = _examples(OWN_TASKS)
    names = {"msn": msnlib}
    exec(example, names)
    assert names["logits"].shape == (2, 10)
    assert type(names["alone"]) is torchvision.models.ResNet


@pytest.mark.filterwarnings("error")
def test_the_rule_of_how_it_is_built_runs():
    import msnlib

    (example,) = _examples((ROOT / "docs" / "built.md").read_text(encoding="utf-8"))
    names: dict = {}
    exec(example, names)
    weight = msnlib.shared_tensors(names["net"])["trunk.0.weight"]
    assert len(weight["digits"].positions) == msnlib.entries(weight.numel(), 0.1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_somewhere(page):
    for target in re.findall(r'(?:\]\(|src="|srcset=")((?!https?:)[^)#"]+)[)"]', page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
