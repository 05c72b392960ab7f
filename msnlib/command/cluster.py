"""Runs on the workers of a Dask cluster, which see the same files as the driver: notebooks, output folder and data."""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import msnlib
from msnlib.command.jobs import Job
from msnlib.command.process import Outcome, failed_folder
from msnlib.command.runner import prepare, run_job, skipped
from msnlib.files import UsageError, one_line

_ASK_SECONDS = 1.0  # how often a worker asks whether to go on, and the driver who has joined
_ANSWER_SECONDS = 10.0  # for a scheduler's answer, and without any worker
_VERSION = "__import__('msnlib').__version__"  # as a text: a worker without msnlib could not even unpack a function


def run_on_cluster(
    jobs: Sequence[Job],
    out: Path,
    scheduler: str,
    force: bool = False,
    timeout: float | None = None,
    stored: bool = True,
) -> Iterator[Outcome]:
    """As `msnlib.command.runner.run_jobs`, on the workers of the Dask scheduler at ``scheduler`` (``tcp://HOST:PORT``).

    A run whose worker dies starts again on another one. Closing the iterator ends the runs; when this process is killed
    instead, what runs on the workers is finished and kept, and what waits is dropped.

    Raises `UsageError` when distributed is not installed, no scheduler answers, or ``out`` cannot be written to; and,
    whenever that happens, when there has been no worker for ten seconds, or one cannot import msnlib.
    """
    try:
        from distributed import Client, Event
    except ImportError:
        raise UsageError("--scheduler needs distributed: pip install 'msnlib[cluster]'") from None
    out = prepare(out).resolve()
    _ask_scheduler(scheduler)
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what is wrong is said in one line, below
    client = Client(scheduler, timeout=f"{_ANSWER_SECONDS}s", set_as_default=False)
    name = f"msn-{uuid.uuid4().hex}"
    stop = Event(name, client=client)
    places = {key: os.path.abspath(os.environ[key]) for key in ("MSNLIB_DATA", "MSNLIB_STORE") if os.environ.get(key)}
    common = (out, force, timeout, name, msnlib.__version__, places, stored)
    try:
        yield from _drive(client, jobs, common, _Workers(client, scheduler))
    except (OSError, CancelledError) as error:  # no one here cancels a run
        if getattr(error, "filename", None) is not None:  # of a file of ours
            raise
        raise UsageError(f"the scheduler {scheduler} does not answer any more") from None
    finally:
        with suppress(OSError):
            stop.set()
        client.close()


def _drive(client: Any, jobs: Sequence[Job], common: tuple, workers: "_Workers") -> Iterator[Outcome]:
    """Hand out the jobs in order and yield what becomes of them; ``common`` is what `_on_worker` takes besides."""
    from distributed import Future, wait

    out, force, _, name, *_ = common
    futures: dict[Future, Job] = {}
    waiting = iter(jobs)
    while True:
        # Dask hands out what is queued in any order, so no more is sent than there are threads to run it.
        room = workers.threads() - len(futures)
        while room > 0 and (job := next(waiting, None)) is not None:
            outcome = None if force else skipped(job, out)
            if outcome is not None:
                yield outcome
                continue
            futures[client.submit(_on_worker, job, *common, key=f"{job} {name}", pure=False)] = job
            room -= 1
        if not futures and room > 0:
            return
        if not futures:
            time.sleep(_ASK_SECONDS)  # no worker yet
            continue
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


def _ask_scheduler(address: str) -> None:
    """Raise `UsageError` unless a Dask scheduler answers: a client would go on trying for minutes, with tracebacks."""
    from distributed.core import rpc

    async def kind() -> str:
        async with asyncio.timeout(_ANSWER_SECONDS), rpc(address) as server:
            return (await server.identity())["type"]

    try:
        found = asyncio.run(kind())
    except Exception as error:  # an address may be wrong in any way
        detail = str(error).strip().splitlines()
        reason = detail[0] if detail else f"timeout after {_ANSWER_SECONDS:.0f} s"
        raise UsageError(f"no Dask scheduler answers at {address}: {reason}") from None
    if found != "Scheduler":
        raise UsageError(f"no Dask scheduler answers at {address}, but a {found}")


class _Workers:
    """The workers of a scheduler, each asked once whether it has msnlib."""

    def __init__(self, client: Any, scheduler: str):
        self.client, self.scheduler = client, scheduler
        self.asked: set[str] = set()
        self.seen = time.monotonic()

    def threads(self) -> int:
        """Return how many runs they can make at a time.

        Raises `UsageError` when there has been none for a while, or one cannot import msnlib.
        """
        found = self.client.nthreads()
        if found:
            self.seen = time.monotonic()
        elif time.monotonic() - self.seen > _ANSWER_SECONDS:
            raise UsageError(f"no worker at the scheduler {self.scheduler} for {_ANSWER_SECONDS:.0f} s")
        new = sorted(found.keys() - self.asked)
        if new:
            answers = self.client.run(eval, _VERSION, workers=new, on_error="return")
            for worker, answer in answers.items():
                if isinstance(answer, ImportError):
                    raise UsageError(f"worker {worker} cannot import msnlib: {one_line(answer)}")
            self.asked.update(new)
        return sum(found.values())


def _on_worker(
    job: Job,
    out: Path,
    force: bool,
    timeout: float | None,
    stop: str,
    version: str,
    places: dict[str, str],
    stored: bool,
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
    for key, place in places.items():
        os.environ.setdefault(key, place)
    event = Event(stop)
    asked = [0.0, False]

    def told_to_stop() -> bool:
        if time.monotonic() - asked[0] > _ASK_SECONDS:
            asked[:] = time.monotonic(), event.is_set()
        return bool(asked[1])

    return run_job(job, out, force, timeout, told_to_stop, stored)
