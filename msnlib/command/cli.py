"""The command ``msn``: list and run the notebooks, sweep, check, report; and the problem sets of a course."""

import argparse
import errno
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NoReturn

from msnlib.command.arguments import parser
from msnlib.command.clean import kept_trainings
from msnlib.command.environment import store_folder
from msnlib.command.jobs import Job, choose_notebooks, find_notebooks, plan
from msnlib.command.pipe import Pipe
from msnlib.command.process import Outcome
from msnlib.command.runner import run_jobs
from msnlib.command.sweep import read_sweep, state
from msnlib.command.verify import differences, repetition, surroundings
from msnlib.files import CHECKOUT, PACKAGE, UsageError, replacing
from msnlib.lab.notebooks import declared, read_notebook, source_of
from msnlib.lab.parameters import parse_seeds
from msnlib.lab.records import read_record

_WIDTH = 120  # characters that the finding of a run may take at the end of ``msn run``


def _notebooks_folder(given: Path | None) -> Path:
    """Return the folder asked for, else ``notebooks`` here, else those installed with msnlib or of its source tree."""
    if given is not None:
        return given
    here, installed = Path("notebooks"), PACKAGE / "notebooks"
    return next((folder for folder in (here, installed) if folder.is_dir()), CHECKOUT / "notebooks")


def _title(path: Path) -> str:
    """Return the first heading of a notebook, or nothing."""
    for cell in read_notebook(path)["cells"]:
        if cell["cell_type"] == "markdown":
            for line in source_of(cell).splitlines():
                if line.startswith("#"):
                    return line.lstrip("#").strip()
    return ""


def _copy(arguments: argparse.Namespace) -> int:
    paths = find_notebooks(_notebooks_folder(arguments.notebooks))
    for path in paths:
        target = arguments.folder / path.name
        if target.exists() and target.read_bytes() != path.read_bytes():
            raise UsageError(f"{target} is there already, and is another one; choose another folder")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        with replacing(arguments.folder / path.name) as part:
            part.write_bytes(path.read_bytes())
    print(f"{len(paths)} notebooks of {paths[0].parent} are in {arguments.folder}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    paths = find_notebooks(_notebooks_folder(arguments.notebooks))
    width = max(len(path.stem) for path in paths)
    for path in paths:
        print(f"{path.stem:{width}}  {_title(path)}".rstrip())
        if arguments.verbose:
            for name, item in declared(path).items():
                written = item.annotation or getattr(item.kind, "__name__", "")
                print(f"    {name}: {written} = {item.default!r}  {item.comment}".rstrip())
    print(f"in {paths[0].parent.resolve()}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    notebooks = choose_notebooks(_notebooks_folder(arguments.notebooks), arguments.notebook)
    seeds = parse_seeds(arguments.seeds)
    jobs = plan(notebooks, arguments.profile, seeds, [tuple(pair) for pair in arguments.parameter])

    how = dict(timeout=arguments.timeout, stored=not arguments.no_store)
    outcomes = run_jobs(jobs, arguments.out, arguments.jobs, arguments.force, **how)
    failed = _follow(outcomes, len(jobs), " (--force runs it again)")
    try:
        if len(failed) < len(jobs):
            _summarise(jobs, arguments.out)
    finally:  # the disk that failed a run may be too full for a report
        code = _say_failures(failed)
    return code


def _summarise(jobs: Sequence[Job], out: Path) -> None:
    """Write the table of results into its file; print a line for every run: where it is, how long, and what it found,
    shortened: its notebook says the rest.
    """
    from msnlib.lab.report import write_report
    from msnlib.lab.summary import summary

    write_report(out)
    for job in sorted(jobs, key=lambda job: (job.notebook.name, job.seed)):
        found = job.done(out)
        if found is not None:
            folder, record = found
            said = summary(record).short(_WIDTH)
            print(f"{folder / job.notebook.name} ({record['run'].get('seconds', 0):.0f} s): {said}")
    print(f"every number: {out / 'table.md'}")
    if jobs[0].profile == "quick":
        print("quick runs are too small to judge the claim; what full-size runs found: docs/results.md")


def _follow(outcomes: Iterator[Outcome], total: int, hint: str = "") -> list[Outcome]:
    """Show a line for every outcome (``hint`` ends that of a skipped one) and one bar; return those that failed."""
    from tqdm import tqdm

    failed = []
    signal.signal(signal.SIGTERM, _interrupt)  # a time limit around msn must not leave kernels behind either
    with closing(outcomes), tqdm(total=total, unit="run", disable=None) as progress:
        for outcome in outcomes:
            if outcome.state == "skipped":
                line = f"{outcome.job}: {outcome.note}{hint}"
                if not progress.disable:
                    progress.initial += 1  # it took no time, from which the time left is reckoned
            else:
                line = f"{outcome.job}: {outcome.state} in {outcome.seconds:.1f} s"
            if outcome.state == "failed":
                failed.append(outcome)
                progress.set_postfix(failed=len(failed), refresh=False)
            progress.write(line)
            progress.update()
    return failed


def _say_failures(failed: list[Outcome]) -> int:
    for outcome in failed:
        left = f" (what is left: {outcome.folder})" if outcome.folder.exists() else ""
        print(f"msn: {outcome.job} failed: {outcome.note}{left}", file=sys.stderr)
    return 1 if failed else 0


def _sweep(arguments: argparse.Namespace) -> int:
    jobs = read_sweep(arguments.file, _notebooks_folder(arguments.notebooks), here=not arguments.scheduler)
    how = dict(timeout=arguments.timeout, stored=not arguments.no_store)
    if arguments.scheduler:
        from msnlib.command.cluster import run_on_cluster

        outcomes = run_on_cluster(jobs, arguments.out, arguments.scheduler, **how)
    else:
        outcomes = run_jobs(jobs, arguments.out, arguments.jobs, **how)
    try:
        code = _say_failures(_follow(outcomes, len(jobs)))
    finally:  # a cluster may be lost on the way
        done = sum(job.done(arguments.out) is not None for job in jobs)
        if done or arguments.out.is_dir():
            print(f"{done} of {len(jobs)} runs are done; 'msn report --out {arguments.out}' has the results")
    return code


def _status(arguments: argparse.Namespace) -> int:
    jobs = read_sweep(arguments.file, _notebooks_folder(arguments.notebooks))
    states = [state(job, arguments.out) for job in jobs]
    width = max(len(str(item.job)) for item in states)
    for item in states:
        print(f"{str(item.job):{width}}  {item.name:11}  {item.note}".rstrip())
    counts = Counter(item.name for item in states)
    print(", ".join(f"{count} {name}" for name, count in counts.items()), f"of {len(states)}")
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    root = store_folder()
    found = kept_trainings(root, arguments.older_than, arguments.job)
    listed, code = [], 0
    for training in found:
        print(training)
        try:
            if not arguments.yes or training.remove():
                listed.append(training)
            else:
                print(f"msn: {training.key[:12]} is being trained; it stays", file=sys.stderr)
        except OSError as error:
            code = 1
            print(f"msn: {training.folder} cannot be removed: {error.strerror or error}", file=sys.stderr)
    size = sum(training.bytes for training in listed) / 1e6
    hint = "removed" if arguments.yes else "--yes removes them"
    print(f"{len(listed)} trainings, {size:.1f} MB in {root}" + (f"; {hint}" if found else ""))
    return code


def _verify(arguments: argparse.Namespace) -> int:
    jobs = {folder: repetition(folder, _notebooks_folder(arguments.notebooks)) for folder in arguments.run}
    code = 0
    for folder, job in jobs.items():
        with tempfile.TemporaryDirectory() as again:
            failed = _follow(run_jobs([job], Path(again), stored=False), 1)
            now = Path(again) / job.folder
            if failed:
                print(f"msn: {job} failed: {failed[0].note}", file=sys.stderr)
                code = 1
                continue
            found = differences(folder, now)
            count = len(read_record(now / "record.json")["results"])
            if not found:
                print(f"{folder}: all {count} results are equal")
                continue
            code = 1
            print(f"{folder}: {len(found)} of {count} results differ")
            for line in [*map(str, found), *surroundings(folder, now)]:
                print(f"  {line}")
    return code


def _report(arguments: argparse.Namespace) -> int:
    from msnlib.lab.records import read_records
    from msnlib.lab.report import EmptyReport, format_table, report_table, write_report

    try:
        print(write_report(arguments.out), end="")
        if getattr(arguments, "readme", None):
            from msnlib.lab.publish import publish  # here, so that a table does not wait for figures

            publish(arguments.out, arguments.readme)
    except EmptyReport as error:
        print(f"msn: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or getattr(arguments, "readme", None):
            raise
        print(format_table(report_table(read_records(arguments.out))), end="")
        print(f"msn: {error.filename}: {error.strerror}; the table is only shown", file=sys.stderr)
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from msnlib.exchange.storage import inspect

    try:
        held = inspect(arguments.file)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from None
    network, size, width = held["network"] or {}, held["bytes"], max(map(len, ["task", *held["tasks"]]))
    print(f"{arguments.file}: {network.get('builder', 'a module of its own')}, format {held['format']}")
    print(f"{'task':{width}}  density    entries  reads")
    for name, task in held["tasks"].items():
        print(f"{name:{width}}  {task['density']:7.4f}  {task['entries']:9,}  {task['reads']}")
    for (one, other), count in held["overlap"].items():
        print(f"{one} and {other} both own {count:,} entries")
    parts = ", ".join(f"{part} {count:,}" for part, count in size.items() if part != "file")
    print(f"bytes: {size['file']:,} ({parts})")
    ratio = f"; the file is {size['file'] / held['bound']:.3f} times that" if held["bound"] else ""
    print(f"bound: {held['bound']:,}, what is in values and the entropy of positions{ratio}")
    return 0


def _names(file: Path | None) -> list[str]:
    """Return the names in a file, one a line."""
    if file is None:
        return []
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not a text in UTF-8") from None
    if not names or len(set(names)) < len(names):
        raise UsageError(f"{file} must hold names, one a line, each once")
    return names


def _course(arguments: argparse.Namespace) -> int:
    from msnlib.command import course, materials, platforms

    if arguments.step == "release":
        sources = _notebooks_folder(arguments.notebooks) / "assignments" / "source"
        names = _names(arguments.students)
        outcomes = materials.release(arguments.folder, sources, arguments.variant, names, arguments.install)
    elif arguments.step == "instructor":
        outcomes = materials.instructor(arguments.folder, _notebooks_folder(arguments.notebooks).parent)
    elif arguments.step == "collect":
        if not (arguments.set and arguments.zip):
            raise UsageError("msn course collect needs --set NAME and --zip FILE")
        outcomes = platforms.collect(arguments.folder, arguments.set, arguments.zip)
    elif arguments.step == "grade":
        outcomes = course.grade(arguments.folder, arguments.timeout, arguments.force)
    else:
        outcomes = course.feedback(arguments.folder, arguments.answers)
    failed = False
    for outcome in outcomes:
        print(f"msn: {outcome}" if outcome.failed else outcome, file=sys.stderr if outcome.failed else None, flush=True)
        failed |= outcome.failed
    return 1 if failed else 0


COMMANDS = {
    "list": _list,
    "copy": _copy,
    "run": _run,
    "sweep": _sweep,
    "status": _status,
    "verify": _verify,
    "report": _report,
    "inspect": _inspect,
    "clean": _clean,
    "course": _course,
}


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0; 1 when a run failed or there is nothing to report; 2 for what
    cannot be done as asked, or could not be printed; 130 after Ctrl-C.
    """
    out, err = Pipe(sys.stdout), Pipe(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            return _printed(_main(argv), out, err)
        except SystemExit as ended:  # after --help, and what argparse refuses
            ended.code = _printed(ended.code, out, err)
            raise


def _printed(code: int, out: Pipe, err: Pipe) -> int:
    """Return the exit code, which is not 0 when something that was printed is lost."""
    for stream, name in ((out, "output"), (err, "error")):
        stream.flush()
        if stream.lost:
            print(f"msn: standard {name} cannot be written: {stream.lost}", file=sys.stderr)
            code = code or 2
    return code


def _main(argv: Sequence[str] | None) -> int:
    try:
        arguments = parser().parse_args(argv)
        return COMMANDS[arguments.command](arguments)
    except UsageError as error:
        print(f"msn: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        print(f"msn: {named}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("msn: interrupted; finished runs are kept", file=sys.stderr)
        return 130
