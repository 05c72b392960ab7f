"""``msn sweep``, ``msn status`` and ``msn verify`` on tiny notebooks, with real processes and a real Dask cluster."""

import errno
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy
import psutil
import pytest
from tiny import PACKAGE, RECORD, ended, files, good_notebook, msn, write_notebook

from msnlib.command import process as one_job
from msnlib.command import runner
from msnlib.command.jobs import plan
from msnlib.command.sweep import read_sweep, state
from msnlib.command.verify import repetition
from msnlib.files import UsageError
from msnlib.lab.examples import read_examples
from msnlib.lab.parameters import ParameterError

SPEC = """[[runs]]
notebooks = [1]
seeds = "0-1"
"""
# Says that it runs, then waits until it may go on.
WAIT = """import os, pathlib, time
here = pathlib.Path({folder!r})
(here / f"started-{{seed}}-{{os.getpid()}}").write_text(str(os.getpid()))
while not (here / "go").exists():
    time.sleep(0.02)"""


def _spec(folder: Path, text: str = SPEC) -> Path:
    path = folder / "spec.toml"
    path.write_text(text)
    return path


def _waiting_notebook(folder: Path) -> Path:
    record = RECORD.replace("NAME", "'01_waits'")
    return write_notebook(folder / "notebooks", "01_waits", PACKAGE, WAIT.format(folder=str(folder)), record)


def _until(condition, seconds: float = 60):
    """Wait until ``condition()`` is true and return its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def _driver(folder: Path, *arguments: str, **options) -> subprocess.Popen:
    command = f"{PACKAGE}\nfrom msnlib.command.cli import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", command, *arguments], cwd=folder, **options)


def _started(folder: Path, seed: int | str = "*") -> list[int]:
    return [int(path.name.rsplit("-", 1)[1]) for path in folder.glob(f"started-{seed}-*") if path.read_text()]


def _states(folder: Path) -> list[str]:
    return [state(job, folder / "out").name for job in read_sweep(folder / "spec.toml", folder / "notebooks")]


def test_the_first_seed_of_everything_comes_before_the_second(tmp_path):
    good_notebook(tmp_path / "nb", "01_a")
    good_notebook(tmp_path / "nb", "02_b")
    text = """
    [[runs]]
    notebooks = ["01_a", 2]
    profiles = ["quick", "laptop"]
    seeds = [5, 3]
    [runs.parameters]
    density = [0.1, 0.5]
    [[runs]]
    notebooks = 1
    seeds = "3,4"
    parameters = { width = "4" }
    [margins]
    mnist = 0.5
    """
    jobs = read_sweep(_spec(tmp_path, text), tmp_path / "nb")
    first = [(n, p, 5, d) for p in ("quick", "laptop") for d in (0.1, 0.5) for n in ("01_a", "02_b")]
    second = [(n, p, 3, d) for n, p, _, d in first]
    again = ("01_a", "quick", 3, 0.1)  # of both [[runs]]: the second sets width to its default
    expected = [*first, again, *(item for item in second if item != again), ("01_a", "quick", 4, 0.1)]
    assert [(j.notebook.stem, j.profile, j.seed, j.configuration["density"]) for j in jobs] == expected
    assert len({job.folder for job in jobs}) == len(jobs)
    for job in jobs:
        assert job.folder.name == f"{job.profile}-seed{job.seed}-{job.configuration_hash[:12]}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no [[runs]]"),
        ("[runs]\nnotebooks = 1", "has no [[runs]]"),
        ("runs = 3", "has no [[runs]]"),
        ("[[runs]]\nseeds = '0'", "[[runs]] has no notebooks, but may have notebooks, parameters, profiles, seeds"),
        ("[[runs]]\nnotebooks = 1\nseed = 0", "[[runs]] has 'seed', but may have notebooks, parameters, profiles"),
        ("[[run]]\nnotebooks = 1", "has 'run', but may have [[runs]], [margins] and [claim]"),
        ("[[runs]]\nnotebooks = 7", "no notebook 7 in"),
        ("[[runs]]\nnotebooks = 1\nseeds = '3-1'", "seeds are '3-1', but must be like"),
        ("[[runs]]\nnotebooks = 1\nseeds = [1.5]", "seeds is [1.5], but must be of type int, or a list of them"),
        ("[[runs]]\nnotebooks = 1\nprofiles = 'huge'", "parameter profile is 'huge', but must be one of paper"),
        ("[[runs]]\nnotebooks = 1\nparameters = 3", "parameters is 3, but must be a table"),
        ("[[runs]]\nnotebooks = 1\nparameters = { density = [0.1, 2] }", "parameter density is 2.0, but must be"),
        ("[[runs]]\nnotebooks = 1\nparameters = { densty = 1 }", "01_a.ipynb has no parameter densty; it has"),
        ("[[runs]]\nnotebooks = 1\nparameters = { width = true }", "parameter width is True, but must be of type int"),
        ("[[runs]\n", "Expected"),
        ("runs = [1, 2]", "has no [[runs]]"),
        ("runs = []", "has no [[runs]]"),
        ("[[runs]]\nnotebooks = []", "notebooks is an empty list, so nothing would run"),
        ("[[runs]]\nnotebooks = true", "notebooks is True, but must be of type str or int, or a list of them"),
        ("[[runs]]\nnotebooks = { a = 1 }", "notebooks is {'a': 1}, but must be of type str or int"),
        ("[[runs]]\nnotebooks = 1\nprofiles = []", "profiles is an empty list"),
        ("[[runs]]\nnotebooks = 1\nprofiles = 3", "profiles is 3, but must be of type str"),
        ("[[runs]]\nnotebooks = 1\nseeds = []", "seeds is an empty list"),
        ("[[runs]]\nnotebooks = 1\nseeds = [-1]", "seeds are '-1', but must be like"),
        ("[[runs]]\nnotebooks = 1\nparameters = []", "parameters is [], but must be a table"),
        ("[[runs]]\nnotebooks = 1\nparameters = { density = [] }", "parameter density is an empty list"),
        ("[[runs]]\nnotebooks = 1\nparameters = { density = {} }", "parameter density is {}, but must be of type"),
        ("[[runs]]\nnotebooks = 1\nparameters = { density = 1979-05-27 }", "but must be of type float"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, capsys, text, message):
    good_notebook(tmp_path / "nb", "01_a")
    path = _spec(tmp_path, text)
    with pytest.raises((UsageError, ParameterError)):
        read_sweep(path, tmp_path / "nb")
    for command in ("sweep", "status"):
        assert msn(command, path, "--notebooks", tmp_path / "nb", "--out", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"msn: {path}") and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert msn("sweep", tmp_path / "none.toml") == 2
    assert capsys.readouterr().err == f"msn: {tmp_path / 'none.toml'}: No such file or directory\n"


def test_what_is_done_is_skipped_and_a_change_is_a_new_run(tmp_path, capsys, monkeypatch):
    path = good_notebook(tmp_path / "nb", "01_a")
    spec, out = _spec(tmp_path), tmp_path / "out"
    common = ("--notebooks", tmp_path / "nb", "--out", out)
    assert msn("run", 1, *common) == 0  # of the sweep's seed 0: the same configuration under another name
    capsys.readouterr()
    assert msn("status", spec, *common) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("01_a quick seed 0  done ") and printed[0].endswith(" s")
    assert printed[1:] == ["01_a quick seed 1  waiting", "1 done, 1 waiting of 2"]

    assert msn("sweep", spec, *common) == 0
    printed = capsys.readouterr().out
    assert "seed 0: done before" in printed and "seed 1: done in" in printed
    assert printed.endswith(f"2 of 2 runs are done; 'msn report --out {out}' has the results\n")
    (seed0, seed1) = read_sweep(spec, tmp_path / "nb")
    assert seed0.done(out)[0] == out / "01_a/quick-seed0"
    assert seed1.done(out)[0] == out / seed1.folder
    before = files(out)

    path.write_text(path.read_text().replace("width: int = 4", "width: int = 5"))
    assert _states_of(spec, tmp_path) == ["waiting", "waiting"]
    assert msn("sweep", spec, *common) == 0
    assert set(before) < set(files(out)) and len(list((out / "01_a").iterdir())) == 4  # nothing was replaced
    monkeypatch.setattr("msnlib.__version__", "99.0")
    assert _states_of(spec, tmp_path) == ["waiting", "waiting"]


def _states_of(spec: Path, folder: Path) -> list[str]:
    return [state(job, folder / "out").name for job in read_sweep(spec, folder / "nb")]


def test_two_drivers_do_not_run_one_job_twice(tmp_path):
    _waiting_notebook(tmp_path)
    (job,) = plan([tmp_path / "notebooks/01_waits.ipynb"], "quick", [0], hashed=True)
    outcomes = []
    threads = [
        threading.Thread(target=lambda: outcomes.extend(runner.run_jobs([job], tmp_path / "out"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    _until(lambda: _started(tmp_path))
    found = state(job, tmp_path / "out")
    assert found.name == "running" and f"(process {os.getpid()})" in found.note
    time.sleep(0.5)
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join(60)
    assert sorted(outcome.state for outcome in outcomes) == ["done", "skipped"]
    assert len(_started(tmp_path)) == 1


def test_a_killed_driver_leaves_nothing_running_and_nothing_half_read(tmp_path, capsys):
    _waiting_notebook(tmp_path)
    spec = _spec(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    run = ("sweep", str(spec), "--out", "out")
    driver = _driver(tmp_path, *run, env=os.environ | {"TMPDIR": str(temporary)})
    (kernel,) = _until(lambda: _started(tmp_path))
    assert _states(tmp_path) == ["running", "waiting"]
    driver.kill()
    driver.wait()
    assert ended(kernel)
    _until(lambda: not list(temporary.glob("msn-*")))
    assert _states(tmp_path) == ["interrupted", "waiting"]
    assert msn("report", "--out", tmp_path / "out") == 1  # nothing to report, nothing half-written
    assert "no records" in capsys.readouterr().err

    (tmp_path / "go").touch()
    assert _driver(tmp_path, *run, stdout=subprocess.DEVNULL).wait(120) == 0
    assert _states(tmp_path) == ["done", "done"]
    assert [path.name for path in (tmp_path / "out/01_waits").glob(".*")] == []


def test_a_killed_kernel_and_a_full_disk_fail_one_run_and_the_next_start_makes_it(tmp_path, capsys, monkeypatch):
    _waiting_notebook(tmp_path)
    spec = _spec(tmp_path, SPEC.replace("0-1", "0-2"))
    full = [True]
    write = one_job.write_json

    def write_json(path, content):
        if full[0] and path.name == "record.json" and content["configuration"]["seed"] == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(one_job, "write_json", write_json)
    killer = threading.Thread(target=lambda: os.kill(_until(lambda: _started(tmp_path, 0))[0], signal.SIGKILL))
    killer.start()
    threading.Thread(target=lambda: (killer.join(), (tmp_path / "go").touch())).start()
    common = (spec, "--notebooks", tmp_path / "notebooks", "--out", tmp_path / "out")
    assert msn("sweep", *common) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith("msn: 01_waits quick seed 0 failed: ") and "Kernel died" in errors[0]
    assert errors[1].startswith("msn: 01_waits quick seed 1 failed: No space left on device")
    msn("status", *common)
    printed = capsys.readouterr().out.splitlines()
    assert "Kernel died" in printed[0] and "failed" in printed[0] and "done" in printed[2]
    full[0] = False
    assert msn("sweep", *common) == 0
    assert _states(tmp_path) == ["done"] * 3


def test_a_notebook_edited_meanwhile_is_not_run_as_if_it_were_the_old_one(tmp_path):
    path = good_notebook(tmp_path / "nb", "01_a")
    (job,) = plan([path], "quick", [0])
    path.write_text(path.read_text().replace("watch out", "beware"))
    (outcome,) = runner.run_jobs([job], tmp_path / "out")
    assert (outcome.state, outcome.note) == ("failed", "01_a.ipynb has changed since this run was planned; start again")


def test_verify_makes_a_run_again_and_compares(tmp_path, capsys):
    path = good_notebook(tmp_path / "nb", "01_a")
    out, folder = tmp_path / "out", tmp_path / "out/01_a/quick-seed3"
    where = ("--notebooks", tmp_path / "nb")
    assert msn("run", 1, "--seeds", 3, *where, "--out", out) == 0
    before = files(out)
    capsys.readouterr()
    assert msn("verify", folder, *where) == 0
    assert capsys.readouterr().out.endswith(f"{folder}: all 1 results are equal\n")

    record = json.loads((folder / "record.json").read_text())
    record["results"][0]["value"] += 1e-13
    record["versions"]["threads"] = 64
    del record["versions"]["numerics"]  # as in a record from before it was written
    (folder / "record.json").write_text(json.dumps(record))
    assert msn("verify", folder, *where) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-4:-2] == [
        f"{folder}: 1 of 1 results differ",
        f"  mnist, multitask, accuracy: {93 + 1e-13!r} then, 93.0 now",
    ]
    assert printed[-2].startswith("  threads: 64 then, ") and printed[-1].startswith("  numerics: not said then, ")
    assert files(out) == before

    path.write_text(path.read_text().replace("width: int = 4", "width: int = 5"))
    record["configuration"]["density"] = 0.3
    (folder / "record.json").write_text(json.dumps(record))
    assert msn("verify", folder, *where) == 2
    assert f"{folder}: parameter density was 0.3, and is 0.1 in " in capsys.readouterr().err
    assert msn("verify", tmp_path / "none", *where) == 2
    assert capsys.readouterr().err == f"msn: {tmp_path / 'none/record.json'}: No such file or directory\n"


def test_a_repetition_takes_the_split_that_the_run_had(tmp_path):
    root = Path(__file__).resolve().parent.parent
    old = root / "reports" / "03_sequential_unrelated" / "paper-seed4"
    assert "split_seed" not in json.loads((old / "record.json").read_text())["configuration"]
    assert repetition(old, root / "notebooks").configuration["split_seed"] == 0
    for split, then in ((4, None), (7, 7)):  # the seed's own, which the notebook works out; one set by hand
        record = json.loads((old / "record.json").read_text())
        record["configuration"]["split_seed"] = split
        record["run"]["overrides"] = {} if then is None else {"split_seed": then}
        (tmp_path / "record.json").write_text(json.dumps(record))
        job = repetition(tmp_path, root / "notebooks")
        assert (job.seed, job.configuration["split_seed"]) == (4, then)


def test_a_run_keeps_the_outcomes_of_examples_and_verify_compares_them(tmp_path, capsys, monkeypatch):
    record = RECORD.replace("NAME", "'01_a'").replace("seconds=1", "examples=[True, False, True]")
    write_notebook(tmp_path / "nb", "01_a", PACKAGE, record)
    folder, where = tmp_path / "out/01_a/quick-seed0", ("--notebooks", tmp_path / "nb")
    assert msn("run", 1, *where, "--out", tmp_path / "out") == 0
    kept = read_examples(folder / "record.json")
    assert kept["mnist", "multitask"].tolist() == [True, False, True]
    kept["mnist", "multitask"][0] = False
    numpy.savez_compressed(folder / "record.npz", **{": ".join(key): outcomes for key, outcomes in kept.items()})
    capsys.readouterr()
    assert msn("verify", folder, *where) == 1
    assert "1 of 1 results differ\n  mnist, multitask, accuracy: 90.0 then, 90.0 now" in capsys.readouterr().out

    monkeypatch.setattr(runner, "Process", None)  # nothing runs before the file is read
    with zipfile.ZipFile(folder / "record.npz") as stored:
        (info,) = stored.infolist()
    whole = (folder / "record.npz").read_bytes()
    at = info.header_offset + 30 + len(info.filename)
    flipped = bytes(byte ^ 255 for byte in whole[at : at + info.compress_size])
    for broken in (b"", whole[: len(whole) // 2], whole[:at] + flipped + whole[at + len(flipped) :]):
        (folder / "record.npz").write_bytes(broken)
        assert msn("verify", folder, *where) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.startswith(f"msn: {folder / 'record.npz'}: broken (")
        assert len(shown.err.splitlines()) == 1


@pytest.fixture
def cluster(tmp_path):
    """A scheduler on loopback: (its address, what starts a worker of one thread and returns its process)."""
    pytest.importorskip("distributed")
    processes = []

    def start(*arguments, **environment):
        log = (tmp_path / f"dask-{len(processes)}.log").open("w")
        command = [sys.executable, "-m", "dask", *arguments]
        processes.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, env=os.environ | environment))
        return processes[-1]

    at = tmp_path / "scheduler.json"
    start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(at))
    _until(at.exists)
    address = _until(lambda: at.read_text() and json.loads(at.read_text())["address"])
    options = ("--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--no-nanny")
    yield address, lambda **environment: start("worker", address, *options, **environment)
    for process in reversed(processes):
        process.kill()
        process.wait()


def test_a_sweep_completes_on_a_cluster_that_gains_and_loses_a_worker(tmp_path, cluster):
    address, start_worker = cluster
    worker = start_worker()
    _waiting_notebook(tmp_path)
    spec = _spec(tmp_path, SPEC.replace("0-1", "0-3"))
    driver = _driver(tmp_path, "sweep", str(spec), "--out", "out", "--scheduler", address, stdout=subprocess.PIPE)
    _until(lambda: len(_started(tmp_path)) == 1)
    assert _states(tmp_path) == ["running", "waiting", "waiting", "waiting"]
    start_worker()
    _until(lambda: len(_started(tmp_path)) == 2)
    assert _states(tmp_path) == ["running", "running", "waiting", "waiting"]  # in the order of the file
    lost = set(_descendants(worker.pid)) & set(_started(tmp_path))
    assert len(lost) == 1
    worker.kill()
    worker.wait()
    assert ended(lost.pop())
    (tmp_path / "go").touch()
    printed = driver.communicate(timeout=120)[0].decode()
    assert driver.returncode == 0
    assert printed.count(": done in ") == 4 and "4 of 4 runs are done" in printed
    assert _states(tmp_path) == ["done"] * 4
    assert len(_started(tmp_path)) == 5  # one began twice
    assert [path.name for path in (tmp_path / "out/01_waits").glob(".*")] == []


def test_ctrl_c_ends_what_runs_on_the_workers(tmp_path, cluster):
    address, start_worker = cluster
    start_worker()
    start_worker()
    _waiting_notebook(tmp_path)
    spec = _spec(tmp_path, SPEC.replace("0-1", "0-3"))
    driver = _driver(
        *(tmp_path, "sweep", str(spec), "--out", "out", "--scheduler", address),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    kernels = _until(lambda: len(_started(tmp_path)) == 2 and _started(tmp_path))
    driver.send_signal(signal.SIGINT)
    assert driver.wait(30) == 130
    assert all(ended(kernel) for kernel in kernels)
    _until(lambda: _states(tmp_path) == ["waiting"] * 4)


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_what_is_no_scheduler_is_one_line_within_fifteen_seconds(tmp_path, capsys, cluster):
    good_notebook(tmp_path / "nb", "01_a")
    run = ("sweep", _spec(tmp_path), "--notebooks", tmp_path / "nb", "--out", tmp_path / "out", "--scheduler")
    scheduler, start_worker = cluster
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        web = f"tcp://127.0.0.1:{server.server_port}"
        for address in ("nonsense://", "tls://127.0.0.1:9", "127.0.0.1", web):
            start = time.monotonic()
            assert msn(*run, address) == 2
            assert time.monotonic() - start < 15
            error = capsys.readouterr().err
            assert error.startswith(f"msn: no Dask scheduler answers at {address}: ") and error.count("\n") == 1
        server.shutdown()


def test_a_scheduler_without_workers_is_one_line_and_what_was_done(tmp_path, capsys, cluster, monkeypatch):
    monkeypatch.setattr("msnlib.command.cluster._ANSWER_SECONDS", 2.0)
    good_notebook(tmp_path / "nb", "01_a")
    common = ("--notebooks", tmp_path / "nb", "--out", tmp_path / "out")
    assert msn("run", 1, *common) == 0
    capsys.readouterr()
    assert msn("sweep", _spec(tmp_path), *common, "--scheduler", cluster[0]) == 2
    printed, error = capsys.readouterr()
    assert error.splitlines()[-1] == f"msn: no worker at the scheduler {cluster[0]} for 2 s"
    assert printed.splitlines()[-1].startswith("1 of 2 runs are done; ")


def test_a_worker_without_msnlib_is_one_line(tmp_path, capsys, cluster):
    address, start_worker = cluster
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    (nothing / "msnlib.py").write_text("raise ModuleNotFoundError(\"No module named 'msnlib'\")")
    start_worker(PYTHONPATH=str(nothing))
    good_notebook(tmp_path / "nb", "01_a")
    run = ("sweep", _spec(tmp_path), "--notebooks", tmp_path / "nb", "--out", tmp_path / "out")
    assert msn(*run, "--scheduler", address) == 2
    printed, error = capsys.readouterr()
    assert re.fullmatch(r"msn: worker tcp://.* cannot import msnlib: No module named 'msnlib'\n", error)
    assert printed.splitlines()[-1].startswith("0 of 2 runs are done; ")


def test_a_killed_scheduler_ends_a_sweep_with_one_line_and_what_was_done(tmp_path, cluster):
    address, start_worker = cluster
    start_worker()
    _waiting_notebook(tmp_path)
    spec = str(_spec(tmp_path))
    run = ("sweep", spec, "--out", "out", "--scheduler", address)
    driver = _driver(tmp_path, *run, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    kernels = _until(lambda: _started(tmp_path))
    (scheduler,) = (child for child in psutil.Process().children() if "scheduler" in child.cmdline())
    scheduler.kill()
    printed, errors = (text.decode() for text in driver.communicate(timeout=40))
    assert driver.returncode == 2, (printed, errors)
    said = [line for line in errors.splitlines() if "run/s]" not in line]  # the bar
    assert said == [f"msn: the scheduler {address} does not answer any more"], errors
    assert printed.splitlines()[-1].startswith("0 of 2 runs are done; ")
    (tmp_path / "go").touch()
    assert all(ended(kernel) for kernel in kernels)


def test_a_byte_order_mark_is_no_matter(tmp_path):
    good_notebook(tmp_path / "nb", "01_a")
    path = _spec(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_sweep(path, tmp_path / "nb")) == 2


def test_status_of_a_folder_that_one_may_only_read_changes_nothing(tmp_path, capsys):
    _waiting_notebook(tmp_path)
    (job, other) = read_sweep(_spec(tmp_path), tmp_path / "notebooks")
    out = tmp_path / "out"
    assert state(job, out).name == "waiting" and not out.exists()
    with runner.lock(job, runner.prepare(out)):
        before = sorted(out.rglob("*"))
        lock = runner.lock_path(job, out)
        lock.chmod(0o444)
        lock.parent.chmod(0o555)
        assert [state(each, out).name for each in (job, other)] == ["running", "waiting"]
        assert sorted(out.rglob("*")) == before and lock.stat().st_mode & 0o777 == 0o444
    assert state(job, out).name == "waiting"
    lock.parent.chmod(0o755)


def test_report_and_verify_of_a_folder_that_one_may_only_read(tmp_path, capsys, monkeypatch):
    good_notebook(tmp_path / "nb", "01_a")
    out, where = tmp_path / "out", ("--notebooks", tmp_path / "nb")
    assert msn("run", 1, *where, "--out", out) == 0
    before, shown = files(out), (out / "table.md").read_text().partition("\n\n")[2]
    write = Path.write_text

    def refuse(path, *arguments, **options):
        if out in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", refuse)
    capsys.readouterr()
    assert msn("report", "--out", out) == 0
    assert capsys.readouterr() == (shown, f"msn: {out / 'table.md'}: Permission denied; the table is only shown\n")
    assert msn("verify", out / "01_a/quick-seed0", *where) == 0
    assert files(out) == before


def test_what_one_user_makes_is_open_to_whoever_the_folder_is_open_to(tmp_path, capsys):
    good_notebook(tmp_path / "nb", "01_a")
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o770)
    before = os.umask(0o077)
    try:
        assert msn("run", 1, "--notebooks", tmp_path / "nb", "--out", out) == 0
    finally:
        os.umask(before)
    modes = {path.relative_to(out).as_posix(): path.stat().st_mode & 0o777 for path in out.rglob("*")}
    assert {modes[name] for name in (".locks", "01_a", "01_a/quick-seed0")} == {0o770}
    assert modes[".locks/01_a-quick-seed0"] == 0o666


def _descendants(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]
