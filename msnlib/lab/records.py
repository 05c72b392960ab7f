"""Records: what a run found, with everything needed to tell it from another run.

A record is one JSON file: experiment, notebook, configuration, versions, and results of task, arm, metric, value and
seconds. It holds no path, host name or user name.
"""

import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msnlib.files import CHECKOUT, write_json
from msnlib.lab.examples import write_examples
from msnlib.lab.parameters import check, of_this_notebook

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas

FORMAT = "msnlib record 1"
NUMERICS = 1  # revision of the code that decides a run's numbers: runs of different revisions are never averaged
RESULT_COLUMNS = ("task", "arm", "metric", "value", "seconds")
ENDING = ", converged"  # of an arm's name, where training ended by `msnlib.CONVERGED`, not as the authors' did
NOTES = ("capped", "dead_outputs")  # what a result may say beside; records made before they existed have neither
RECORD_COLUMNS = (
    *("experiment", "notebook", "profile", "seed"),
    *(*RESULT_COLUMNS, *NOTES),
    *("overrides", "configuration", "configuration_hash", "versions", "file"),
)

_log = logging.getLogger(__name__)


def digest(content: Any) -> str:
    """Return the sha256 of ``content`` as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def configuration_hash(notebook: str, configuration: dict[str, Any]) -> str:
    """Return the sha256 that two runs share only if notebook, configuration and msnlib's version are equal."""
    return digest({"notebook": notebook, "configuration": configuration, "msnlib": _version("msnlib")})


class Run:
    """The results of one run of one notebook.

    Attributes:
        results: what was added, a dict each.
        examples: (task, arm) -> the outcome of every test example, bool or float32; (task, `TEST_ROWS`) -> which rows
            of the dataset these are, where the test part was drawn anew.
        data: task -> what its data is and where it came from.
        stored: the trainings that `msnlib.lab.stored` looked after, and how many epochs of each it had; None without.

    Args:
        experiment: its id, as in `msnlib.lab.published` (``"E1"``).
        notebook: the notebook's name without folder or ending (``"02_parallel_dense"``).
        profile, seed, configuration: everything that decides the results; JSON values only.

    Raises `msnlib.lab.parameters.ParameterError` for a value its parameter does not allow, before any work starts: in a
    notebook, what its parameters cell says is allowed.

    Example::

        run = Run("E1", notebook="02_parallel_dense", profile=profile, seed=seed, density=density)
        run.add(task="mnist", arm="multitask", metric="accuracy", value=97.53, seconds=12.3)
        run.save()
    """

    def __init__(self, experiment: str, *, notebook: str, profile: str, seed: int, **configuration: Any):
        for name, text in (("experiment", experiment), ("notebook", notebook)):
            if not isinstance(text, str) or not re.fullmatch(r"[\w.-]+", text):
                raise ValueError(f"{name} is {text!r}, but must be letters, digits, '_', '-' and '.'")
        given = {"profile": profile, "seed": seed, **configuration}
        self.experiment = experiment
        self.notebook = notebook
        self.configuration = check(of_this_notebook(), given)
        self.results: list[dict[str, Any]] = []
        self.examples: dict[tuple[str, str], Any] = {}
        self.data: dict[str, str] = {}
        self.stored: list[dict[str, Any]] | None = None

    def add(
        self,
        *,
        task: str,
        arm: str,
        metric: str,
        value: float,
        seconds: float | None = None,
        examples: Any = None,
        capped: bool | None = None,
        dead_outputs: int | None = None,
    ) -> None:
        """Add one result; accuracies are in %.

        Args:
            task, arm, metric, value: the result.
            seconds: of training.
            examples: the outcomes that ``value`` is the mean of, one per test example in the data's order, as
                `msnlib.Task.outcomes` gives them: with them anyone can redo a test of two arms.
            capped: whether the most epochs allowed ended the training, and no stopping rule.
            dead_outputs: how many of the task's outputs own no weight.

        Raises `ValueError` naming the result when ``value`` (or ``seconds``) is no finite number, a name no text, a
        note of another kind, or when task, arm and metric were added before.
        """
        label = f"{task}, {arm}, {metric}"
        if not all(isinstance(name, str) for name in (task, arm, metric)):
            raise ValueError(f"result {label}: task, arm and metric must be texts")
        if any((task, arm, metric) == (row["task"], row["arm"], row["metric"]) for row in self.results):
            raise ValueError(f"result {label} was added before")
        notes = _notes({"capped": capped, "dead_outputs": dead_outputs}, label)
        self.results.append(
            {
                "task": task,
                "arm": arm,
                "metric": metric,
                "value": _finite(value, f"value of {label}"),
                "seconds": None if seconds is None else _finite(seconds, f"seconds of {label}"),
                **{name: note for name, note in notes.items() if note is not None},
            }
        )
        if examples is not None:
            # Not where and as they were computed: numpy reads nothing on a GPU, of a graph, or in bfloat16.
            found = examples.detach().cpu() if hasattr(examples, "cpu") else examples
            self.examples[task, arm] = found.float() if str(getattr(found, "dtype", "")) == "torch.bfloat16" else found

    def table(self) -> "pandas.DataFrame":
        """Return what was added, one row per result, in order."""
        import pandas  # here, so that a run without a table does not wait for it

        return pandas.DataFrame(self.results, columns=list(RESULT_COLUMNS))

    def records(self) -> "pandas.DataFrame":
        """Return what was added as `read_records` will give it once it is saved; it has no file yet."""
        import pandas

        record = self._record() | {"run": {}}
        return _typed(pandas.DataFrame(_rows(record, ""), columns=list(RECORD_COLUMNS)))

    def _record(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "experiment": self.experiment,
            "notebook": self.notebook,
            "configuration": self.configuration,
            "configuration_hash": configuration_hash(self.notebook, self.configuration),
            "versions": versions(self.configuration.get("device")),
            "data": self.data,
            "results": self.results,
        } | ({} if self.stored is None else {"stored": self.stored})

    def save(self) -> Path:
        """Write the record as one JSON file and return its path; outcomes of examples stand beside it in an ``.npz``.

        The folder is ``$MSNLIB_RECORDS``, else ``records`` under the current one; it is made when absent. Raises
        `ValueError` when nothing was added.
        """
        if not self.results:
            raise ValueError(f"the record of {self.notebook} has no results")
        folder = Path(os.environ.get("MSNLIB_RECORDS") or "records")
        folder.mkdir(parents=True, exist_ok=True)
        record = self._record()
        profile, seed = self.configuration["profile"], self.configuration["seed"]
        path = folder / f"{self.notebook}-{profile}-seed{seed}-{record['configuration_hash'][:8]}.json"
        if self.examples:
            write_examples(path.with_suffix(".npz"), self.examples)
        write_json(path, record)
        if not self.examples:
            path.with_suffix(".npz").unlink(missing_ok=True)  # of an older record of this name
        return path


def _finite(value: Any, label: str) -> float:
    """Return ``value`` as a float; numbers of numpy and torch count, bools and texts do not."""
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bool) or not isinstance(plain, int | float) or not math.isfinite(plain):
        raise ValueError(f"{label} is {value!r}, but must be a finite number")
    return float(plain)


def _notes(notes: dict[str, Any], label: str) -> dict[str, Any]:
    """Return notes of a result as JSON has them: a bool and a whole number, or None for what is not known."""
    plain = {name: note.item() if hasattr(note, "item") else note for name, note in notes.items()}
    capped, dead = (plain.get(name) for name in NOTES)
    if not (capped is None or isinstance(capped, bool)):
        raise ValueError(f"capped of {label} is {capped!r}, but must be True or False")
    if not (dead is None or isinstance(dead, int) and not isinstance(dead, bool) and dead >= 0):
        raise ValueError(f"dead_outputs of {label} is {dead!r}, but must be a whole number from 0")
    return plain


def _version(distribution: str) -> str | None:
    """Return the version of what is imported, which knows its build (``+cpu``), else of what is installed."""
    loaded = getattr(sys.modules.get(distribution), "__version__", None)
    if loaded:
        return str(loaded)
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(device: str | None = None) -> dict[str, Any]:
    """Return what ran the code: versions, platform, threads, the name of ``device``, the git commit, the numerics."""
    torch = sys.modules.get("torch")  # a record must not cost its import
    found = {name: _version(name) for name in ("msnlib", "torch", "torchvision", "numpy")}
    return found | {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads() if torch else None,
        "device": _device_name(torch, device),
        "commit": _commit(),
        "numerics": NUMERICS,
        "mkl": torch.backends.mkl.is_available() if torch else None,  # whether products can leave out zeros
    }


def _device_name(torch: Any, device: str | None) -> str | None:
    if torch is None:
        return None
    if device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return torch.cuda.get_device_name(device if device and device.startswith("cuda") else None)


def _commit() -> str | None:
    """Return the commit of the source tree that msnlib is imported from, marked ``-dirty`` when it was changed."""
    if not (CHECKOUT / ".git").exists():
        return None
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def is_clean(versions: dict[str, Any]) -> bool:
    """Say whether a record's ``versions`` name a commit, and the work tree was as that commit left it."""
    commit = versions.get("commit")
    return bool(commit) and not commit.endswith("-dirty")


def read_record(path: Path) -> dict[str, Any]:
    """Return the record at ``path``. Raises `ValueError` when it is broken or no record, `OSError` when unreadable.

    A record has ``format``, ``experiment``, ``notebook``, ``configuration`` (with profile and seed),
    ``configuration_hash``, ``versions`` and ``results``; ``run`` is empty unless ``msn run`` filled it.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError("not an msnlib record")
    try:
        [record[name] for name in ("configuration_hash", "results")]
        texts = [record["experiment"], record["notebook"], record["configuration"]["profile"]]
        for result in record["results"]:
            _finite(result["value"], "value")
            _notes({name: result.get(name) for name in NOTES}, "a result")
            texts += [result[name] for name in ("task", "arm", "metric")]
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise TypeError(f"{wrong[0]!r} where a text should be")
        if type(record["configuration"]["seed"]) is not int:
            raise TypeError(f"seed {record['configuration']['seed']!r} is no whole number")
        record["versions"].get("numerics"), record.setdefault("run", {}).get("overrides", {}).get("seed")
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(f"an incomplete record ({error})") from None
    return record


def read_records(folder: Path | str) -> "pandas.DataFrame":
    """Return every result of every record under ``folder``, one row each, in order of file and result.

    ``capped`` and ``dead_outputs`` are missing where a record does not say. Configuration, overrides and versions are
    JSON texts with sorted keys. Files and folders whose name starts with a dot are not looked at. A file that is
    broken or no record is left out, with a warning of one line that names it.
    """
    import pandas

    folder = Path(folder)
    rows = []
    for path in sorted(_json_files(folder)):
        name = path.relative_to(folder)
        try:
            record = read_record(path)
        except (OSError, RecursionError, ValueError) as error:
            _log.warning("%s skipped: %s", path, str(error).splitlines()[0])
            continue
        rows += _rows(record, name.as_posix())
    return _typed(pandas.DataFrame(rows, columns=list(RECORD_COLUMNS)))


def _json_files(folder: Path) -> "Iterator[Path]":
    """Yield the files below a folder, links to folders followed once; a folder that cannot be read is warned of."""
    seen = set()

    def skipped(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            _log.warning("%s skipped: %s", error.filename, error.strerror)

    for here, folders, names in os.walk(folder, onerror=skipped, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(here, name) for name in names if name.endswith(".json") and not name.startswith("."))


def _rows(record: dict[str, Any], file: str) -> list[dict[str, Any]]:
    """Return a row for every result of a record."""
    configuration = record["configuration"]
    shared = {
        "experiment": record["experiment"],
        "notebook": record["notebook"],
        "profile": configuration["profile"],
        "seed": configuration["seed"],
        "overrides": json.dumps(record["run"].get("overrides", {}), sort_keys=True),
        "configuration": json.dumps(configuration, sort_keys=True),
        "configuration_hash": record["configuration_hash"],
        "versions": json.dumps(record["versions"], sort_keys=True),
        "file": file,
    }
    columns = (*RESULT_COLUMNS, *NOTES)
    return [shared | {column: result.get(column) for column in columns} for result in record["results"]]


def _typed(table: "pandas.DataFrame") -> "pandas.DataFrame":
    return table.astype({"capped": "boolean", "dead_outputs": "Int64"})
