"""One job in a process of its own: its scratch folder, its environment, and its results put in place when whole.

Run as a module, ``python -m msnlib.command.process`` is that process; its arguments come as one line of JSON.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil

from msnlib.command.environment import kernel_environment, store_of
from msnlib.command.forking import Fork, Source
from msnlib.command.jobs import Job
from msnlib.files import move_into_place, write_json
from msnlib.lab.notebooks import normalised, read_notebook
from msnlib.lab.parameters import ParameterError
from msnlib.lab.records import read_record

POLL_SECONDS = 0.05
PROGRESS = "progress.json"  # of the training that goes on: its task, epoch and seconds an epoch


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


def failed_folder(target: Path) -> Path:
    """Return where the log and partial notebook of a failed run are kept, and in ``note.txt`` why it failed."""
    return target.with_name(f"{target.name}.failed")


def make_shared(folder: Path) -> None:
    """Make ``folder``, unless it is there, open to whoever its parent is open to, whatever the umask."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    with suppress(PermissionError):
        folder.chmod(folder.parent.stat().st_mode & 0o777)


class Process:
    """One running job: its process, its scratch folder and the hidden folder that becomes the result."""

    def __init__(self, job: Job, out: Path, stored: bool = True, source: Source | None = None):
        self.job, self.stored, self.source = job, stored, source
        self.target = out / job.folder
        make_shared(self.target.parent)
        self.scratch = Path(tempfile.mkdtemp(prefix="msn-"))
        self.part = Path(tempfile.mkdtemp(prefix=f".{self.target.name}.", dir=self.target.parent)).resolve()
        self.part.chmod(self.target.parent.stat().st_mode & 0o777)  # mkdtemp's 0700 would hide it from others
        (self.scratch / "work").mkdir()
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
            "scratch": str(self.scratch),
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
        write_json(self.part / "run.json", {"host": platform.node(), "pid": os.getpid(), "started": time.time()})
        work, environment = self.scratch / "work", self._environment()
        with self.log.open("w") as log:
            self.process = self._forked(log, work, environment) or subprocess.Popen(
                [sys.executable, "-m", "msnlib.command.process"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=work,
                env=environment,
                start_new_session=True,  # a Ctrl-C at the terminal is handled here, once
            )
        self.start = time.monotonic()  # that the source imports is no part of this job
        with suppress(BrokenPipeError):
            print(json.dumps(arguments), file=self.process.stdin, flush=True)

    def _forked(self, log: TextIO, work: Path, environment: dict[str, str]) -> Fork | None:
        """Return the process as a fork; None where there is nothing to fork from, or no more."""
        if self.source is not None:
            with suppress(OSError):
                return self.source.fork(log.fileno(), work, environment)
        return None

    def _environment(self) -> dict[str, str]:
        own = {
            "MSNLIB_REPORTS": str(self.target.parent.parent.resolve()),  # the runs of other seeds
            "MSNLIB_PROGRESS": str(self.part / PROGRESS),
        }
        return kernel_environment(self.scratch) | store_of(self.job.profile, self.stored) | own

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
        failed = failed_folder(self.target)
        if error is None:
            shutil.rmtree(failed, ignore_errors=True)
            return Outcome(self.job, "done", self.target, seconds)
        self._forget()
        (self.part / "note.txt").write_text(f"{error}\n", encoding="utf-8")
        move_into_place(self.part, failed)
        return Outcome(self.job, "failed", failed, seconds, error)

    def discard(self) -> None:
        """Kill the process and remove everything of it that is not in place."""
        self._kill()
        with suppress(OSError):
            self.process.stdin.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.rmtree(self.part, ignore_errors=True)
        with suppress(OSError):  # not empty: it has results of earlier runs
            self.part.parent.rmdir()

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
        self._forget()
        move_into_place(self.part, self.target)
        return None

    def _forget(self) -> None:
        """Remove what only says how far a run has come."""
        for name in ("run.json", PROGRESS):
            (self.part / name).unlink(missing_ok=True)

    def _error(self) -> str:
        """Return the last line of what went wrong: the notebook's own error, else the end of the log."""
        with suppress(ParameterError):
            for cell in read_notebook(self.notebook)["cells"]:
                for output in cell.get("outputs", []):
                    if output["output_type"] == "error":
                        last = output["evalue"].strip().splitlines()[-1:]
                        return ": ".join([output["ename"], *last])
        if self.process.returncode < 0:
            return "its process was killed; did the memory run out?"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        full = "; the disk is full" if shutil.disk_usage(self.part).free < 2**16 else ""
        return (lines[-1] if lines else f"exit code {self.process.returncode}") + full


def spare_addresses() -> None:
    """Keep jsonschema from importing a module with which it would check addresses, which no notebook has.

    JupyterLab brings it, and it takes from half a second to two of a processor (measured).
    """
    sys.modules["rfc3987_syntax"] = None


def execute() -> None:
    """Run one notebook through papermill, as the line of JSON on standard input says.

    Standard input stays open: when it ends, whoever started this process is gone, killed perhaps, and so must be what
    was started here.
    """
    arguments = json.loads(sys.stdin.readline())
    scratch = arguments.pop("scratch")
    threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
    spare_addresses()
    from papermill import execute_notebook
    from papermill.engines import NBClientEngine, papermill_engines
    from traitlets.config import Config

    class Engine(NBClientEngine):
        """Papermill's, but the notebook is not saved around every cell, of text too: only after one of code."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **how: Any) -> None:
            complete = nb_man.cell_complete
            nb_man.cell_start = lambda cell, cell_index: None
            nb_man.cell_complete = lambda cell, **place: cell.cell_type == "code" and complete(cell, **place)
            super().execute_managed_notebook(nb_man, kernel_name, **how)

    papermill_engines.register("msn", Engine)
    # The kernel listens at files in the scratch folder, by a relative path as that of a socket may not have many
    # letters: a port that was free when Jupyter chose it may be taken when the kernel binds it, and of notebooks that
    # start at the same time some fail (papermill's issue 511).
    kernel = {"connection_file": "../kernel.json"} | ({"transport": "ipc"} if os.name == "posix" else {})
    execute_notebook(**arguments, engine_name="msn", config=Config(KernelManager=kernel))


def _end_with_parent(scratch: str) -> None:
    while os.read(0, 1):
        pass
    for child in psutil.Process().children(recursive=True):
        child.kill()
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    execute()
