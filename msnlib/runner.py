"""Running notebooks through papermill: checked before, each in a process of its own, kept only when whole.

A finished run is the folder ``<out>/<notebook>/<profile>-seed<seed>`` with the executed notebook and ``record.json``;
when a parameter differs from the notebook's default, the folder's name ends in a hash of the differing ones.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from msnlib.parameters import (
    ParameterError,
    check,
    declared,
    parameter_cells,
    read_notebook,
    source_of,
)
from msnlib.records import configuration_hash, digest, read_record, write_json

# What a run's process executes; its arguments come as JSON. jsonschema imports rfc3987_syntax when JupyterLab has
# brought it, only to check addresses that no notebook has: 2.3 s of processor time in every process (measured).
_EXECUTE = """
import json, sys
sys.modules["rfc3987_syntax"] = None
from papermill import execute_notebook
execute_notebook(**json.load(sys.stdin))
"""
_POLL_SECONDS = 0.05


class UsageError(ValueError):
    """What was asked cannot be done; the message is one line."""


def find_notebooks(folder: Path) -> list[Path]:
    """Return the numbered notebooks (``02_parallel_dense.ipynb``) of ``folder`` in order.

    Raises `UsageError` when there are none.
    """
    found = sorted(path for path in Path(folder).glob("*.ipynb") if re.match(r"\d\d_", path.name))
    if not found:
        raise UsageError(f"no numbered notebooks in {folder}")
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
        for path in matches:
            if not path.samefile(chosen.setdefault(path.stem, path)):
                raise UsageError(f"{path} and {chosen[path.stem]} have the same name")
    return list(chosen.values())


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of ``0``, ``0-2`` or ``0,3,5-7``, each once, in the order written.

    Raises `UsageError` for anything else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise UsageError(f"seeds are {text!r}, but must be like 0, 0-2 or 0,3,5-7")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


@dataclass(frozen=True)
class Job:
    """One notebook with one seed. ``overrides`` are the parameters that differ from the notebook's defaults, profile
    and seed aside; ``configuration`` is all of them; ``source`` is a hash of the notebook's code.
    """

    notebook: Path
    profile: str
    seed: int
    overrides: dict[str, Any]
    configuration: dict[str, Any]
    source: str

    def __str__(self) -> str:
        changed = "".join(f" {name}={value}" for name, value in sorted(self.overrides.items()))
        return f"{self.notebook.stem} {self.profile} seed {self.seed}{changed}"

    @property
    def configuration_hash(self) -> str:
        """`msnlib.records.configuration_hash` of the notebook's whole configuration."""
        return configuration_hash(self.notebook.stem, self.configuration)

    @property
    def folder(self) -> Path:
        """Where the run belongs, relative to the folder of all runs; the same for every seed but for the seed."""
        suffix = f"-{digest(self.overrides)[:8]}" if self.overrides else ""
        return Path(self.notebook.stem) / f"{self.profile}-seed{self.seed}{suffix}"


def plan(
    notebooks: Sequence[Path], profile: str, seeds: Sequence[int], given: Sequence[tuple[str, str]] = ()
) -> list[Job]:
    """Return a job for every notebook and seed. ``given`` are names and values of other parameters as typed.

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
            values = {name: own[name].parse(text) for name, text in given}
            defaults = {name: check(name, item.default, item.default) for name, item in own.items()}
            for seed in seeds:
                check("seed", seed)
            check("profile", profile)
        except ParameterError as error:
            raise ParameterError(f"{notebook.name}: {error}") from None
        overrides = {name: value for name, value in values.items() if value != defaults[name]}
        source = _source(notebook)
        for seed in seeds:
            configuration = defaults | overrides | {"profile": profile, "seed": seed}
            jobs.append(Job(Path(notebook).resolve(), profile, seed, overrides, configuration, source))
    return jobs


def _source(path: Path) -> str:
    notebook = read_notebook(path)
    parameters = parameter_cells(notebook)
    return digest(
        [source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code" and cell not in parameters]
    )


@dataclass(frozen=True)
class Outcome:
    """What became of a job: ``state`` is ``done``, ``skipped`` or ``failed``; ``note`` the error or why it was skipped;
    ``folder`` holds the run, or what is left of a failed one.
    """

    job: Job
    state: str
    folder: Path
    seconds: float = 0.0
    note: str = ""


def run_jobs(
    jobs: Sequence[Job], out: Path, workers: int = 1, force: bool = False, timeout: float | None = None
) -> Iterator[Outcome]:
    """Run ``jobs``, ``workers`` at a time, and yield each one's outcome when it is known.

    A job whose configuration is already done under ``out`` is skipped unless ``force``. A job that fails or takes
    longer than ``timeout`` seconds leaves an earlier result as it was and its log and partial notebook in
    ``<folder>.failed``. Closing the iterator, or an exception such as Ctrl-C, kills what runs and leaves nothing of it.

    Raises `UsageError` when ``out`` cannot be written to.
    """
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}") from None
    waiting = []
    for job in jobs:
        note = None if force else _done_before(job, out)
        if note is None:
            waiting.append(job)
        else:
            yield Outcome(job, "skipped", out / job.folder, note=note)
    running: list[_Process] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_Process(waiting.pop(0), out))
            time.sleep(_POLL_SECONDS)
            for process in list(running):
                outcome = process.poll(timeout)
                if outcome is not None:
                    running.remove(process)
                    yield outcome
    finally:
        for process in running:
            process.discard()


def _done_before(job: Job, out: Path) -> str | None:
    """Return why ``job`` need not run, or None."""
    folder = out / job.folder
    try:
        run = read_record(folder / "record.json")["run"]
    except (OSError, ValueError):
        return None
    if run.get("configuration_hash") != job.configuration_hash or not (folder / job.notebook.name).is_file():
        return None
    changed = "" if run.get("source") == job.source else "; the notebook's code has changed since"
    return f"done before with this configuration{changed} (--force runs it again)"


class _Process:
    """One running job: its process, its scratch folder and the hidden folder that becomes the result."""

    def __init__(self, job: Job, out: Path):
        self.job = job
        self.target = out / job.folder
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.scratch = Path(tempfile.mkdtemp(prefix="msn-"))
        self.part = Path(tempfile.mkdtemp(prefix=f".{self.target.name}.", dir=self.target.parent)).resolve()
        self.part.chmod(0o755)
        for name in ("work", "records", "jupyter", "ipython"):
            (self.scratch / name).mkdir()
        self.notebook = self.part / job.notebook.name
        self.log = self.part / "log.txt"
        try:
            self._start()
        except BaseException:
            shutil.rmtree(self.scratch, ignore_errors=True)
            shutil.rmtree(self.part, ignore_errors=True)
            raise

    def _start(self) -> None:
        job = self.job
        arguments = {
            "input_path": str(job.notebook),
            "output_path": str(self.notebook),
            "parameters": {"profile": job.profile, "seed": job.seed, **job.overrides},
            "kernel_name": "python3",
            "cwd": str(self.scratch / "work"),
            "iopub_timeout": 30,
            "coalesce_streams": True,
            "record_timing": False,
            "progress_bar": False,
            "extra_arguments": ["--IPKernelApp.log_level=ERROR"],
        }
        self.start = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _EXECUTE],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self.scratch / "work",
                env=_environment(self.scratch, out=self.target.parent.parent),
                start_new_session=True,  # a Ctrl-C at the terminal is handled here, once
            )
        with suppress(BrokenPipeError), self.process.stdin as stream:
            json.dump(arguments, stream)

    def poll(self, timeout: float | None) -> Outcome | None:
        """Return the outcome once the process has ended or run out of time, and put its results in place."""
        seconds = time.monotonic() - self.start
        late = timeout is not None and seconds > timeout
        if self.process.poll() is None and not late:
            return None
        if self.process.poll() is None:
            self._kill()
            error: str | None = f"not finished after {timeout:g} s"
        elif self.process.returncode != 0:
            error = self._error()
        else:
            error = self._keep(seconds)
        if error is None:
            outcome = Outcome(self.job, "done", self.target, seconds)
            shutil.rmtree(self._failed, ignore_errors=True)
        else:
            _move_into_place(self.part, self._failed)
            outcome = Outcome(self.job, "failed", self._failed, seconds, error)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return outcome

    def discard(self) -> None:
        """Kill the process and remove everything it wrote."""
        self._kill()
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.rmtree(self.part, ignore_errors=True)
        with suppress(OSError):  # not empty: it has results of earlier runs
            self.part.parent.rmdir()

    @property
    def _failed(self) -> Path:
        return self.target.with_name(self.target.name + ".failed")

    def _kill(self) -> None:
        """Kill the process and its kernel, which has a session of its own and would outlive it."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        self.process.kill()
        self.process.wait()

    def _keep(self, seconds: float) -> str | None:
        """Put notebook and record in place, or return why they are no result."""
        written = sorted((self.scratch / "records").glob("*.json"))
        if len(written) != 1:
            return f"wrote {len(written) or 'no'} record{'s' if written else ''}, but must write one"
        try:
            record = read_record(written[0])
        except ValueError as error:
            return f"wrote {written[0].name}: {error}"
        job = self.job
        for name, said, meant in (
            ("notebook", record["notebook"], job.notebook.stem),
            ("profile", record["configuration"]["profile"], job.profile),
            ("seed", record["configuration"]["seed"], job.seed),
        ):
            if said != meant:
                return f"wrote a record of {name} {said!r}, but was run as {name} {meant!r}"
        record["run"] = {
            "configuration_hash": job.configuration_hash,
            "overrides": job.overrides,
            "source": job.source,
            "seconds": round(seconds, 1),
        }
        executed = normalised(read_notebook(self.notebook), self.scratch)
        self.notebook.write_text(
            json.dumps(executed, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        write_json(self.part / "record.json", record)
        examples = written[0].with_suffix(".npz")
        if examples.exists():
            shutil.copyfile(examples, self.part / "record.npz")
        self.log.unlink()
        _move_into_place(self.part, self.target)
        return None

    def _error(self) -> str:
        """Return the last line of what went wrong: the notebook's own error, else the end of the log."""
        with suppress(ParameterError):
            for cell in read_notebook(self.notebook)["cells"]:
                for output in cell.get("outputs", []):
                    if output["output_type"] == "error":
                        last = output["evalue"].strip().splitlines()[-1:]
                        return ": ".join([output["ename"], *last])
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.process.returncode}"


def _environment(scratch: Path, out: Path) -> dict[str, str]:
    """Return the environment of a run: the caller's, without what would change outputs from one machine to the next."""
    dropped = ("MPLBACKEND", "PYTHONSTARTUP", "JUPYTER_PATH", "JUPYTER_CONFIG_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    # A run has a folder of its own: relative paths would point elsewhere.
    if environment.get("MSNLIB_DATA"):
        environment["MSNLIB_DATA"] = os.path.abspath(os.path.expanduser(environment["MSNLIB_DATA"]))
    if environment.get("PYTHONPATH"):
        paths = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths))
    return environment | {
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait starve the runs beside them
        "PYTHONHASHSEED": "0",
        "IPYTHONDIR": str(scratch / "ipython"),
        "JUPYTER_CONFIG_DIR": str(scratch / "jupyter"),
        "JUPYTER_DATA_DIR": str(scratch / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "jupyter"),
        "MSNLIB_RECORDS": str(scratch / "records"),
        "MSNLIB_REPORTS": str(out.resolve()),  # where a notebook finds the runs of other seeds
    }


def _move_into_place(part: Path, target: Path) -> None:
    """Rename the folder ``part`` to ``target``, which it replaces."""
    old = part.with_name(part.name + ".old")
    try:
        if target.exists():
            os.replace(target, old)  # a folder that is not empty cannot be replaced in one step
        os.replace(part, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def normalised(notebook: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Return an executed notebook without what differs between two equal runs, or names a machine.

    That is: papermill's times and paths, the random id of the cell it injects, which of a cell's standard output and
    error came first, the path of the ``scratch`` folder, and in warnings the kernel's name for a cell's file and the
    folder msnlib is installed in.
    """
    notebook["metadata"].pop("papermill", None)
    for cell in notebook["cells"]:
        cell["metadata"].pop("papermill", None)
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["id"] = "injected-parameters"
        if cell["cell_type"] == "code":
            cell["outputs"] = _without_paths(_stdout_first(cell["outputs"]), scratch)
    return notebook


def _stdout_first(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``outputs`` with neighbouring streams in one order: the kernel sends each from a buffer of its own."""
    ordered: list[dict[str, Any]] = []
    for is_stream, group in itertools.groupby(outputs, lambda output: output["output_type"] == "stream"):
        neighbours = list(group)
        ordered += sorted(neighbours, key=lambda output: output["name"] != "stdout") if is_stream else neighbours
    return ordered


_PACKAGE = Path(__file__).parent


def _without_paths(content: Any, scratch: Path) -> Any:
    if isinstance(content, list):
        return [_without_paths(item, scratch) for item in content]
    if isinstance(content, dict):
        return {name: _without_paths(value, scratch) for name, value in content.items()}
    if not isinstance(content, str):
        return content
    for path in sorted({str(scratch), str(scratch.resolve())}, key=len, reverse=True):
        content = content.replace(path, "scratch")
    content = content.replace(f"{_PACKAGE}{os.sep}", f"{_PACKAGE.name}/")  # a warning from msnlib names its file
    # A pattern that starts with a fixed text: one that starts with any text takes minutes on a picture's base64.
    return re.sub(re.escape(tempfile.gettempdir()) + r"/ipykernel_\d+/\d+\.py", "notebook-cell", content)
