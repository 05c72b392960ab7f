"""Runs on the workers of a Dask cluster, which see the same files as the driver: notebooks, output folder and data."""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import msnlib
from msnlib.command.jobs import Job
from msnlib.command.process import Outcome, failed_folder
from msnlib.command.runner import prepare, run_job, skipped
from msnlib.files import UsageError

_ASK_SECONDS = 1.0  # how often a worker asks whether to go on, and the driver who has joined


def run_on_cluster(
    jobs: Sequence[Job], out: Path, scheduler: str, force: bool = False, timeout: float | None = None
) -> Iterator[Outcome]:
    """As `msnlib.command.runner.run_jobs`, on the workers of the Dask scheduler at ``scheduler`` (``tcp://HOST:PORT``).

    A run whose worker dies starts again on another one. Closing the iterator ends the runs; when this process is killed
    instead, what runs on the workers is finished and kept, and what waits is dropped.

    Raises `UsageError` when distributed is not installed, no scheduler answers, or ``out`` cannot be written to.
    """
    try:
        from distributed import Client, Event, Future, wait
    except ImportError:
        raise UsageError("--scheduler needs distributed: pip install 'msnlib[cluster]'") from None
    out = prepare(out).resolve()
    try:
        client = Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        detail = str(error).strip().splitlines()
        raise UsageError(f"no Dask scheduler answers at {scheduler}: {detail[0] if detail else 'timeout'}") from None
    name = f"msn-{uuid.uuid4().hex}"
    stop = Event(name, client=client)
    try:
        futures: dict[Future, Job] = {}
        waiting = iter(jobs)
        while True:
            # Dask hands out what is queued in any order, so no more is sent than there are threads to run it.
            room = max(1, sum(client.nthreads().values())) - len(futures)
            while room > 0 and (job := next(waiting, None)) is not None:
                outcome = None if force else skipped(job, out)
                if outcome is not None:
                    yield outcome
                    continue
                data = os.environ.get("MSNLIB_DATA")
                arguments = (job, out, force, timeout, name, msnlib.__version__, data and os.path.abspath(data))
                futures[client.submit(_on_worker, *arguments, key=f"{job} {name}", pure=False)] = job
                room -= 1
            if not futures:
                return
            try:
                with client.as_current():
                    ended = wait(list(futures), timeout=_ASK_SECONDS, return_when="FIRST_COMPLETED").done
            except TimeoutError:  # a worker may have joined
                continue
            for future in ended:
                job, error = futures.pop(future), future.exception()
                if error is None:
                    yield future.result()
                else:  # KilledWorker, or what cannot be sent: a run's own errors come as outcomes
                    note = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                    yield Outcome(job, "failed", failed_folder(out / job.folder), note=note)
    finally:
        stop.set()
        client.close()


def _on_worker(
    job: Job, out: Path, force: bool, timeout: float | None, stop: str, version: str, data: str | None
) -> Outcome | None:
    from distributed import Event, get_worker

    failed = failed_folder(out / job.folder)
    host = get_worker().address
    if msnlib.__version__ != version:
        note = f"worker {host} has msnlib {msnlib.__version__}, the driver {version}"
        return Outcome(job, "failed", failed, note=note)
    if not out.is_dir() or not job.notebook.is_file():
        missing = job.notebook if out.is_dir() else out
        return Outcome(job, "failed", failed, note=f"worker {host} does not see {missing}; files must be shared")
    if data:
        os.environ.setdefault("MSNLIB_DATA", data)
    event = Event(stop)
    asked = [0.0, False]

    def told_to_stop() -> bool:
        if time.monotonic() - asked[0] > _ASK_SECONDS:
            asked[:] = time.monotonic(), event.is_set()
        return bool(asked[1])

    return run_job(job, out, force, timeout, told_to_stop)
