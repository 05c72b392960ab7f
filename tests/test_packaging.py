"""pyproject.toml, requirements.lock, environment.yml and the commands name the same things."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import msnlib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DEPENDENCIES = [
    Requirement(line) for line in [*PROJECT["dependencies"], *(x for extra in EXTRAS.values() for x in extra)]
]


def _locked() -> dict[str, list[Requirement]]:
    """Return the lock's lines by name; a package has several where its version depends on the platform."""
    locked: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            locked.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return locked


@pytest.mark.parametrize("dependency", DEPENDENCIES, ids=str)
def test_the_lock_pins_every_dependency_within_its_bound(dependency):
    assert [bound.operator for bound in dependency.specifier] == [">="]
    for pinned in _locked()[canonicalize_name(dependency.name)]:
        (exact,) = pinned.specifier
        assert exact.operator == "==" and dependency.specifier.contains(exact.version)


def test_the_lock_only_pins_and_names_no_index():
    for requirements in _locked().values():
        for requirement in requirements:
            assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)) and requirement.url is None, requirement


def test_the_environment_uses_the_lock_and_the_projects_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, requirements = environment["dependencies"]
    assert (environment["name"], python, pip) == (PROJECT["name"], "python=3.11", "pip")
    assert PROJECT["requires-python"] == ">=3.11"
    assert requirements == {"pip": ["-r requirements.lock", "-e ."]}


def test_make_installs_the_lock_and_locks_every_extra():
    make = (ROOT / "Makefile").read_text()
    assert "--python $(VENV)/bin/python requirements.lock" in make
    (compiled,) = re.findall(r"pip compile .*?-o requirements\.lock", make, flags=re.DOTALL)
    assert "--all-extras" in compiled
    assert "--universal --python-version 3.11 " in compiled


def test_ci_runs_the_readmes_test_command():
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("README.md is not written yet")
    text = readme.read_text()
    assert re.search(r"^\s*(\$ )?make test\b", text, re.MULTILINE) and "make reproduce" in text


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"].split(":")[0], citation["version"]) == (PROJECT["name"], msnlib.__version__)
    assert citation["license"] == PROJECT["license"] == "MIT"
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Renn", "Sotnek", "Harvey", "Caffo"]
    assert "2207.08821" in paper["url"]


def test_one_setting_puts_the_repositorys_address_everywhere(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    online = importlib.import_module("online")
    names = ("CITATION.cff", "README.md", "docs/online.ipynb")
    (tmp_path / "docs").mkdir()
    for name in names:
        shutil.copy(ROOT / name, tmp_path / name)
    online.write(tmp_path)
    assert [(tmp_path / name).read_text() == (ROOT / name).read_text() for name in names] == [True] * 3  # as committed
    for address in ("https://github.com/a/b", "https://github.com/c/d/"):
        online.write(tmp_path, address)
    citation = yaml.safe_load((tmp_path / names[0]).read_text())
    assert citation["repository-code"] == "https://github.com/c/d" and "a/b" not in (tmp_path / names[1]).read_text()
    assert "github/c/d/blob/main/docs/online.ipynb" in (tmp_path / names[1]).read_text()
    assert r"%pip install --quiet \"msnlib @ git+https://github.com/c/d\"" in (tmp_path / names[2]).read_text()
    online.write(tmp_path, "")
    assert [(tmp_path / name).read_text().count("c/d") for name in names] == [0, 0, 0]
    with pytest.raises(ValueError, match="'https://example.org' is not like"):
        online.write(tmp_path, "https://example.org")


def test_no_public_name_is_hidden_by_a_module_of_that_name():
    """Importing msnlib.x would put the module in the place of the function x."""

    modules = {path.stem for path in Path(msnlib.__file__).parent.glob("*.py")}
    assert not modules & set(msnlib.__all__)


def test_an_installation_without_a_checkout_runs_a_notebook_in_an_empty_folder(tmp_path):
    """The wheel is unpacked, not installed: what it needs is there, and its folder comes first."""
    tree, site, empty = (tmp_path / name for name in ("tree", "site", "empty"))
    for folder in ("msnlib", "notebooks"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    shipped = sorted(path.name for path in site.rglob("*.ipynb"))
    assert shipped == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))  # no answers, no problem sets
    assert not (site / "notebooks").exists() and not (site / "tests").exists()

    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site)}

    def msn(*arguments):
        command = [sys.executable, "-m", "msnlib", *arguments]
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert msn("list").splitlines()[-1] == f"in {site / 'msnlib' / 'notebooks'}"
    assert msn("run", "1", "--out", "out").startswith("01_subnetworks_by_hand quick seed 0: done in ")
    msn("copy", "notebooks")
    assert msn("list").splitlines()[-1] == f"in {empty / 'notebooks'}"


def test_a_job_of_the_workflow_is_another_user_another_language_and_another_path():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    elsewhere = yaml.safe_dump(jobs["elsewhere"], allow_unicode=True)
    for part in ("sudo -u someone", "LC_ALL=tr_TR.UTF-8", "with a space, and ümläuts", "/notebooks", "make test"):
        assert part in elsewhere
    assert jobs["tests"]["steps"][-1]["run"] == "make test"


def test_every_promise_names_tests_that_exist():
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    promises = re.findall(r"^\| (?!promise).* \| (.*) \|$", page, re.MULTILINE)
    assert len(promises) > 30
    for cell in promises:
        named = re.findall(r"`(\w+)::(\w+)`", cell)
        assert named, f"no test is named in {cell!r}"
        for file, test in named:
            source = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(", source, re.MULTILINE), f"{file}.py has no {test}"
