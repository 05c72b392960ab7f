"""Making a finished run again, and comparing the two."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msnlib.command.jobs import Job, choose_notebooks, plan
from msnlib.files import UsageError, one_line
from msnlib.lab.examples import read_examples
from msnlib.lab.notebooks import declared
from msnlib.lab.records import read_record


@dataclass(frozen=True)
class Mismatch:
    """A result that differs between the run that is checked and its repetition; None where one of them lacks it."""

    task: str
    arm: str
    metric: str
    then: float | None
    now: float | None

    def __str__(self) -> str:
        shown = ["missing" if value is None else repr(value) for value in (self.then, self.now)]
        return f"{self.task}, {self.arm}, {self.metric}: {shown[0]} then, {shown[1]} now"


def repetition(folder: Path, notebooks: Path) -> Job:
    """Return the job that makes the run in ``folder`` again, with today's notebook of that name.

    Raises:
        UsageError: no finished run lies there, a file of it is broken, or the notebook's parameters are not what they
            were.
    """
    path = Path(folder) / "record.json"
    try:
        record = read_record(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    _examples(folder)  # that it is broken must not be found only when the run is made again
    configuration = record["configuration"]
    (notebook,) = choose_notebooks(notebooks, [record["notebook"]])
    overrides = record["run"].get("overrides", {})
    if "split_seed" in declared(notebook) and "split_seed" not in configuration:
        overrides = overrides | {"split_seed": 0}  # before notebooks had it, all seeds had this split
    own = declared(notebook).get("precision")
    if own and configuration.get("precision") in own.choices:
        overrides = overrides | {"precision": configuration["precision"]}  # what auto was there
    given = sorted(overrides.items())
    (job,) = plan([notebook], configuration["profile"], [configuration["seed"]], given)
    for name, now in job.configuration.items():
        then = configuration.get(name, now)  # a parameter the run did not record, or did not have yet
        if then != now and now not in (None, "auto"):  # what the notebook works out itself
            raise UsageError(f"{folder}: parameter {name} was {then!r}, and is {now!r} in {notebook} now")
    return job


def differences(then: Path, now: Path) -> list[Mismatch]:
    """Return the results in which two folders of runs differ, in order; seconds are not compared.

    Where both keep the outcomes of examples, a result counts as different too when one example's outcome is.
    """
    values = [_values(then), _values(now)]
    outcomes = [_examples(folder) for folder in (then, now)]
    found = []
    for key in dict.fromkeys([*values[0], *values[1]]):
        pair = [each.get(key) for each in values]
        examples = [each.get(key[:2]) for each in outcomes]
        if pair[0] != pair[1] or not _equal(*examples):
            found.append(Mismatch(*key, *pair))
    return found


def _values(folder: Path) -> dict[tuple[str, str, str], float]:
    results = read_record(Path(folder) / "record.json")["results"]
    return {(row["task"], row["arm"], row["metric"]): row["value"] for row in results}


def _examples(folder: Path) -> dict[tuple[str, ...], Any]:
    path = Path(folder) / "record.npz"
    try:
        return read_examples(path)
    except ValueError as error:
        raise UsageError(one_line(error)) from None
    except Exception as error:  # torn bytes may raise anything
        raise UsageError(f"{path}: broken ({one_line(error) or type(error).__name__})") from None


def _equal(one: Any, other: Any) -> bool:
    import numpy

    return one is None or other is None or numpy.array_equal(one, other)


def surroundings(then: Path, now: Path) -> list[str]:
    """Return a line for everything that two runs' records say about versions, machine and threads and that differs."""
    pair = [read_record(Path(folder) / "record.json")["versions"] for folder in (then, now)]
    said = {name: [each.get(name, "not said") for each in pair] for each in pair for name in each}
    return [f"{name}: {one} then, {other} now" for name, (one, other) in said.items() if one != other]
