"""pyproject.toml, requirements.lock, environment.yml and the commands name the same things."""

import re
import tomllib
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


def test_no_public_name_is_hidden_by_a_module_of_that_name():
    """Importing msnlib.x would put the module in the place of the function x."""

    modules = {path.stem for path in Path(msnlib.__file__).parent.glob("*.py")}
    assert not modules & set(msnlib.__all__)
