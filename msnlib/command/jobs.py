"""Jobs: which notebooks to run with which parameters, decided and checked before anything starts."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msnlib.files import UsageError
from msnlib.lab.notebooks import code_digest, declared
from msnlib.lab.parameters import ParameterError, check
from msnlib.lab.records import configuration_hash, digest, read_record


def find_notebooks(folder: Path) -> list[Path]:
    """Return the numbered notebooks (``02_parallel_dense.ipynb``) of ``folder`` in order.

    Raises `UsageError` when there are none, or two have one number: one of them may be a copy that an editor left.
    """
    found = sorted(path for path in Path(folder).glob("*.ipynb") if re.match(r"\d\d_", path.name))
    if not found:
        raise UsageError(f"no numbered notebooks in {folder}")
    for one, other in itertools.pairwise(found):
        if one.name[:2] == other.name[:2]:
            raise UsageError(f"{one.name} and {other.name} in {folder} have the same number")
    return found


def choose_notebooks(folder: Path, asked: Sequence[str]) -> list[Path]:
    """Return the notebooks of ``folder`` asked for by number (``2``, ``02``), name or path; all when none is asked for.

    Raises `UsageError` naming the first that does not exist.
    """
    if not asked:
        return find_notebooks(folder)
    there = sorted(Path(folder).glob("*.ipynb"))
    chosen: dict[str, Path] = {}
    for name in asked:
        if Path(name).name != name:
            matches = [Path(name)] if name.endswith(".ipynb") and Path(name).is_file() else []
        elif re.fullmatch(r"[0-9]{1,2}", name):
            matches = [path for path in there if path.name.startswith(f"{int(name):02}_")]
        else:
            matches = [path for path in there if path.stem == name.removesuffix(".ipynb")]
        if not matches:
            raise UsageError(f"no notebook {name} in {folder}; there are {', '.join(path.stem for path in there)}")
        if len(matches) > 1:
            raise UsageError(f"{' and '.join(path.name for path in matches)} have the same number: give a name")
        for path in matches:
            if not path.samefile(chosen.setdefault(path.stem, path)):
                raise UsageError(f"{path} and {chosen[path.stem]} have the same name")
    return list(chosen.values())


@dataclass(frozen=True)
class Job:
    """One notebook with one seed. ``overrides`` are the parameters that differ from the notebook's defaults, profile
    and seed aside; ``configuration`` is all of them; ``source`` is a hash of the notebook's code; ``hashed`` names the
    run's folder by the hash of everything, so that no two configurations or versions of msnlib share it.
    """

    notebook: Path
    profile: str
    seed: int
    overrides: dict[str, Any]
    configuration: dict[str, Any]
    source: str
    hashed: bool = False

    def __str__(self) -> str:
        changed = "".join(f" {name}={value}" for name, value in sorted(self.overrides.items()))
        return f"{self.notebook.stem} {self.profile} seed {self.seed}{changed}"

    @property
    def configuration_hash(self) -> str:
        """`msnlib.lab.records.configuration_hash` of the notebook's whole configuration."""
        return configuration_hash(self.notebook.stem, self.configuration)

    @property
    def folder(self) -> Path:
        """Where the run belongs, relative to the folder of all runs."""
        if self.hashed:
            suffix = f"-{self.configuration_hash[:12]}"
        else:  # the same for every seed but for the seed
            suffix = f"-{digest(self.overrides)[:8]}" if self.overrides else ""
        return Path(self.notebook.stem) / f"{self.profile}-seed{self.seed}{suffix}"

    def done(self, out: Path) -> tuple[Path, dict[str, Any]] | None:
        """Return folder and record of a finished run of this configuration under ``out``, whatever it is called.

        None when there is none, or only by another version of msnlib.
        """
        own = Path(out) / self.folder
        for folder in [own, *sorted(own.parent.glob("[!.]*"))]:
            if not (folder / self.notebook.name).is_file():
                continue
            try:
                record = read_record(folder / "record.json")
            except (OSError, ValueError):
                continue
            if record["run"].get("configuration_hash") == self.configuration_hash:
                return folder, record
        return None


def plan(
    notebooks: Sequence[Path],
    profile: str,
    seeds: Sequence[int],
    given: Sequence[tuple[str, Any]] = (),
    hashed: bool = False,
    here: bool = True,
) -> list[Job]:
    """Return a job for every notebook and seed. ``given`` are names and values of other parameters; a text is taken as
    typed on a command line. ``here`` is whether they will run on this machine.

    Raises `ParameterError` naming notebook, parameter and value for whatever a notebook does not have or allow.
    """
    names = [name for name, _ in given]
    for name in names:
        if name in ("profile", "seed"):
            raise ParameterError(f"parameter {name} is set with --{'seeds' if name == 'seed' else name}, not with -p")
        if names.count(name) > 1:
            raise ParameterError(f"parameter {name} is given {names.count(name)} times")
    jobs = []
    for notebook in notebooks:
        own = declared(notebook)
        for name in ("profile", "seed", *names):
            if name not in own:
                raise ParameterError(f"{notebook.name} has no parameter {name}; it has {', '.join(own) or 'none'}")
        try:
            defaults = {name: item.typed(item.default) for name, item in own.items()}
            values = {
                name: own[name].parse(value) if isinstance(value, str) else own[name].typed(value)
                for name, value in given
            }
            overrides = {name: value for name, value in values.items() if value != defaults[name]}
            configurations = [
                check(own, defaults | overrides | {"profile": profile, "seed": seed}, here) for seed in seeds
            ]
        except ParameterError as error:
            raise ParameterError(f"{notebook.name}: {error}") from None
        source = code_digest(notebook)
        for seed, configuration in zip(seeds, configurations, strict=True):
            jobs.append(Job(Path(notebook).resolve(), profile, seed, overrides, configuration, source, hashed))
    return jobs
