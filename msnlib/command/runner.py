"""Running notebooks through papermill: each in a process of its own, kept only when whole.

A finished run is the folder `Job.folder` with the executed notebook, ``record.json`` and the outcomes of examples in
``record.npz``. Until it is whole it is a folder whose name starts with a dot, which nobody reads.
"""

import glob
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from msnlib.command.environment import store_of
from msnlib.command.forking import CAN_FORK, Source
from msnlib.command.jobs import Job
from msnlib.command.process import POLL_SECONDS, Outcome, Process, failed_folder, make_shared
from msnlib.files import UsageError
from msnlib.lab.notebooks import code_digest


def run_jobs(
    jobs: Sequence[Job],
    out: Path,
    workers: int = 1,
    force: bool = False,
    timeout: float | None = None,
    stored: bool = True,
) -> Iterator[Outcome]:
    """Run ``jobs``, ``workers`` at a time, and yield each one's outcome when it is known.

    A job whose configuration is already done under ``out`` is skipped unless ``force``. A job that fails or takes
    longer than ``timeout`` seconds leaves an earlier result as it was and its log and partial notebook in
    ``<folder>.failed``. Unless ``stored``, no training is read from the store or kept there. Closing the iterator, or
    an exception such as Ctrl-C, kills what runs and leaves nothing of it.

    Raises `UsageError` when ``out`` cannot be written to, or trainings are to be stored and there is no place for them.
    """
    for job in jobs:
        store_of(job.profile, stored)
    out = prepare(out)
    stop = threading.Event()
    to_run = []
    for job in jobs:
        outcome = None if force else skipped(job, out)
        if outcome is None:
            to_run.append(job)
        else:
            yield outcome
    pool = ThreadPoolExecutor(workers)
    source = Source() if CAN_FORK and len(to_run) > 1 else None
    try:
        futures = [pool.submit(run_job, job, out, force, timeout, stop.is_set, stored, source) for job in to_run]
        for future in as_completed(futures):
            yield future.result()
    finally:
        stop.set()
        if source is not None:
            source.end()
        pool.shutdown(cancel_futures=True)


def prepare(out: Path) -> Path:
    """Return the folder of all runs, made when absent. Raises `UsageError` when it cannot be written to."""
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}") from None
    return out


def skipped(job: Job, out: Path) -> Outcome | None:
    """Return the outcome of a job that need not run because it is done, else None."""
    found = job.done(out)
    if found is None:
        return None
    folder, record = found
    changed = "" if record["run"].get("source") == job.source else "; the notebook's code has changed since"
    return Outcome(job, "skipped", folder, note=f"done before with this configuration{changed}")


def lock_path(job: Job, out: Path) -> Path:
    """Return the file that whoever runs ``job`` into ``out`` has locked."""
    return out / ".locks" / f"{job.folder.parent}-{job.folder.name}"


def lock(job: Job, out: Path) -> FileLock:
    """Return the lock of whoever runs ``job`` into ``out``; the system releases it when its holder is killed."""
    path = lock_path(job, out)
    make_shared(path.parent)
    return FileLock(path, mode=0o666)  # another user may run the job next


def run_job(
    job: Job,
    out: Path,
    force: bool = False,
    timeout: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    stored: bool = True,
    source: Source | None = None,
) -> Outcome | None:
    """Run one job in a process of its own, forked from ``source`` if there is one, and return its outcome; None when
    ``stop`` said so before it ended.

    Only one caller runs a job into a folder at a time; another one waits, and then finds it done. What a killed one
    left behind is removed.
    """
    start = time.monotonic()
    target = out / job.folder
    held, process = lock(job, out), None
    try:
        while not held.is_locked:
            if stop():
                return None
            with suppress(Timeout):
                held.acquire(timeout=POLL_SECONDS)
        outcome = None if force else skipped(job, out)
        if outcome is not None:
            return outcome
        if code_digest(job.notebook) != job.source:
            note = f"{job.notebook.name} has changed since this run was planned; start again"
            return Outcome(job, "failed", failed_folder(target), note=note)
        for left in target.parent.glob(f".{glob.escape(target.name)}.*"):
            shutil.rmtree(left, ignore_errors=True)
        process = Process(job, out, stored, source)
        while not stop():
            outcome = process.poll(timeout)
            if outcome is not None:
                return outcome
            time.sleep(POLL_SECONDS)
        return None
    except OSError as error:
        note = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        return Outcome(job, "failed", failed_folder(target), time.monotonic() - start, note)
    finally:
        if process is not None:
            process.discard()
        held.release()
