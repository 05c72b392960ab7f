"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs_and_does_what_it_says(tmp_path, monkeypatch):
    import msnlib

    monkeypatch.chdir(tmp_path)
    example, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
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

    _, example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"msn": msnlib}
    exec(example, names)
    assert names["logits"].shape == (2, 10)
    assert type(names["alone"]) is torchvision.models.ResNet


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README))))
def test_links_point_somewhere(target):
    assert (ROOT / target).exists(), f"README.md links to {target}, which is not there"
