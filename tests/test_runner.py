"""``msn list`` and ``msn run`` on tiny notebooks, run for real by papermill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tiny import PACKAGE, PARAMETERS, RECORD, ended, files, good_notebook, msn, write_notebook

import msnlib
from msnlib.command import forking, runner
from msnlib.command.environment import kernel_environment
from msnlib.command.jobs import choose_notebooks, plan
from msnlib.files import UsageError
from msnlib.lab.notebooks import normalised
from msnlib.lab.parameters import parse_seeds
from msnlib.lab.records import digest


class _NoProcess:
    def __init__(self, *_, **__):
        raise AssertionError("a process was started")


@pytest.fixture
def no_process(monkeypatch):
    monkeypatch.setattr(runner, "Process", _NoProcess)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Run a good notebook and four bad ones together, once: (folder, exit code, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("batch")
    notebooks = folder / "notebooks"
    write_notebook(notebooks, "01_broken", "print('so far')", "1 / 0")
    good_notebook(notebooks, "02_good")
    write_notebook(notebooks, "03_silent", "print(seed)")
    write_notebook(notebooks, "04_stubborn", PACKAGE, "seed = 7", RECORD.replace("NAME", "'04_stubborn'"))
    write_notebook(notebooks, "05_dead", "import os", "os._exit(3)")
    command = f"{PACKAGE}\nfrom msnlib.command.cli import main\nsys.exit(main(sys.argv[1:]))"
    arguments = ["run", "--notebooks", "notebooks", "--out", "out", "--jobs", "2", "--seeds", "1"]
    environment = os.environ | {"MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    return folder, done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", [0]), ("0-2", [0, 1, 2]), ("0,3,5-7", [0, 3, 5, 6, 7]), ("4, 4,3-4", [4, 3])],
)
def test_seeds_are_read(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "2-1", "1-", "1,,2", "0-2-4", "1.5", "٣", "9999999999"])
def test_other_seeds_are_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_seeds(text)
    assert str(caught.value) == f"seeds are {text!r}, but must be like 0, 0-2 or 0,3,5-7"


def test_more_seeds_than_anybody_means_are_refused_at_once():
    assert len(parse_seeds("1-9999,0")) == 10_000
    for text in ("0-10000", "0-99999999", ",".join(["0-999999999"] * 3)):
        with pytest.raises(UsageError) as caught:
            parse_seeds(text)
        assert str(caught.value) == f"seeds are {text!r}, but must be 10,000 of them at most"


def test_notebooks_are_chosen_by_number_name_or_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("02_b", "10_c", "01_a", "draft"):
        write_notebook(Path("nb"), name)
    elsewhere = write_notebook(Path("other"), "02_b")

    def chosen(*names):
        return [path.as_posix() for path in choose_notebooks(Path("nb"), names)]

    assert chosen() == ["nb/01_a.ipynb", "nb/02_b.ipynb", "nb/10_c.ipynb"]
    assert chosen("10", "2", "02", "02_b", "nb/02_b.ipynb") == ["nb/10_c.ipynb", "nb/02_b.ipynb"]
    assert chosen("draft") == ["nb/draft.ipynb"]
    assert chosen("other/02_b.ipynb") == [elsewhere.as_posix()]
    for name in ("3", "b", "nb/03.ipynb"):
        with pytest.raises(UsageError, match=f"no notebook {name} in nb; there are 01_a, 02_b, 10_c, draft"):
            chosen(name)
    with pytest.raises(UsageError, match="nb/02_b.ipynb and other/02_b.ipynb have the same name"):
        chosen("other/02_b.ipynb", "2")
    with pytest.raises(UsageError, match="no numbered notebooks in none"):
        choose_notebooks(Path("none"), [])


def test_list_shows_titles_and_parameters(tmp_path, capsys):
    write_notebook(tmp_path, "02_b")
    write_notebook(tmp_path, "01_longer", parameters="seed = 3")
    assert msn("list", "--notebooks", tmp_path) == 0
    assert capsys.readouterr().out == f"01_longer  About 01_longer\n02_b       About 02_b\nin {tmp_path}\n"
    assert msn("list", "-v", "--notebooks", tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "01_longer  About 01_longer",
        "    seed: int = 3",
        "02_b       About 02_b",
        "    profile: str = 'quick'  size of the run [quick, laptop, paper]",
        "    seed: int = 0  seed of every random draw",
        "    device: str = 'cpu'  [device in devices]",
        "    density: float = 0.1  share of weights a task keeps [0 < density <= 1]",
        "    width: int = 4  a parameter of this notebook only",
        f"in {tmp_path}",
    ]


_DENSITY = "but must be of type float"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "densty", "1"], "01_a.ipynb has no parameter densty; it has profile, seed, device, density, width"),
        (["-p", "density", "12e4567"], f"01_a.ipynb: parameter density is '12e4567', {_DENSITY}"),
        (["-p", "density", "nan"], f"01_a.ipynb: parameter density is 'nan', {_DENSITY}"),
        (["-p", "density", "1.5"], "01_a.ipynb: parameter density is 1.5, but must be such that 0 < density <= 1"),
        (["-p", "width", "0012"], "01_a.ipynb: parameter width is '0012', but must be of type int"),
        (["-p", "width", "3", "-p", "width", "4"], "parameter width is given 2 times"),
        (["-p", "extra", "1"], "01_a.ipynb has no parameter extra; it has profile, seed, device, density, width"),
        (["-p", "seed", "1"], "parameter seed is set with --seeds, not with -p"),
        (["--profile", "huge"], "01_a.ipynb: parameter profile is 'huge', but must be one of paper, laptop, quick"),
        (["--seeds", "2-1"], "seeds are '2-1', but must be like 0, 0-2 or 0,3,5-7"),
        (["--jobs", "0"], "argument --jobs: '0' is not a whole number of at least 1 (see msn run --help)"),
        (["9"], "no notebook 9 in notebooks; there are 01_a, 02_more"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_kernel_starts(
    tmp_path, monkeypatch, capsys, no_process, arguments, message
):
    monkeypatch.chdir(tmp_path)
    good_notebook(tmp_path / "notebooks", "01_a")
    write_notebook(tmp_path / "notebooks", "02_more", parameters=PARAMETERS + "\nextra: int = 1  # not in 01_a")
    try:
        code = msn("run", *arguments)
    except SystemExit as error:  # argparse's own refusals
        code = error.code
    assert (code, capsys.readouterr().err) == (2, f"msn: {message}\n")
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tag": "other"}, "02_b.ipynb has no cell tagged 'parameters', but must have one"),
        ({"parameters": "profile: str = 'quick'"}, "02_b.ipynb has no parameter seed; it has profile"),
        ({"parameters": "seed: int = 0"}, "02_b.ipynb has no parameter profile; it has seed"),
        (
            {"parameters": PARAMETERS + "\ntasks: int = 0  # [tasks >= 1]"},
            "02_b.ipynb: parameter tasks is 0, but must be such that tasks >= 1",
        ),
    ],
)
def test_a_notebook_that_cannot_be_parameterised_is_refused(tmp_path, capsys, no_process, changes, message):
    good_notebook(tmp_path / "notebooks", "01_a")
    write_notebook(tmp_path / "notebooks", "02_b", **changes)
    assert msn("run", "--notebooks", tmp_path / "notebooks", "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == f"msn: {message}\n"
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path, capsys, no_process):
    good_notebook(tmp_path / "notebooks", "01_a")
    (tmp_path / "file").write_text("")
    assert msn("run", "--notebooks", tmp_path / "notebooks", "--out", tmp_path / "file" / "out") == 2
    assert capsys.readouterr().err == f"msn: cannot write to {tmp_path / 'file' / 'out'}: Not a directory\n"


def test_failures_are_named_and_the_others_finish(batch):
    folder, code, printed, errors = batch
    assert code == 1
    assert sorted(errors.splitlines()) == [
        "msn: 01_broken quick seed 1 failed: ZeroDivisionError: division by zero "
        "(what is left: out/01_broken/quick-seed1.failed)",
        "msn: 03_silent quick seed 1 failed: wrote no record, but must write one "
        "(what is left: out/03_silent/quick-seed1.failed)",
        "msn: 04_stubborn quick seed 1 failed: wrote a record of seed 7, but was run as seed 1 "
        "(what is left: out/04_stubborn/quick-seed1.failed)",
        "msn: 05_dead quick seed 1 failed: nbclient.exceptions.DeadKernelError: Kernel died "
        "(what is left: out/05_dead/quick-seed1.failed)",
    ]
    lines = printed.splitlines()
    assert sorted(line.split(" in ")[0] for line in lines[:5]) == [
        "01_broken quick seed 1: failed",
        "02_good quick seed 1: done",
        "03_silent quick seed 1: failed",
        "04_stubborn quick seed 1: failed",
        "05_dead quick seed 1: failed",
    ]
    found, last, _ = lines[5:]
    assert re.fullmatch(r"out/02_good/quick-seed1/02_good.ipynb \(\d+ s\): \d+ results?", found)
    assert last == "every number: out/table.md"
    assert (folder / "out" / "table.md").read_text().startswith("# Results\n\n## quick profile\n\n| experiment |")
    assert files(folder / "out") == sorted(
        [
            *("02_good/quick-seed1/02_good.ipynb", "02_good/quick-seed1/record.json", "records.csv", "table.md"),
            *(
                f"{name}/quick-seed1.failed/{left}"
                for name in ("01_broken", "03_silent", "04_stubborn", "05_dead")
                for left in (f"{name}.ipynb", "log.txt", "note.txt")
            ),
        ]
    )
    assert "so far" in (folder / "out/01_broken/quick-seed1.failed/01_broken.ipynb").read_text()


def test_a_finished_run_holds_the_executed_notebook_and_its_record(batch):
    folder = batch[0] / "out/02_good/quick-seed1"
    record = json.loads((folder / "record.json").read_text())
    assert record["configuration"] == {"profile": "quick", "seed": 1, "density": 0.1}
    assert record["results"][0]["value"] == 91
    assert record["run"]["overrides"] == {} and len(record["run"]["configuration_hash"]) == 64
    notebook = json.loads((folder / "02_good.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [1, 2, 3, 4, 5]
    injected = code[1]
    assert injected["id"] == "injected-parameters"
    assert "".join(injected["source"]) == '# Parameters\nprofile = "quick"\nseed = 1\n'
    assert "papermill" not in json.dumps([notebook["metadata"], *(cell["metadata"] for cell in notebook["cells"])])
    assert tempfile.gettempdir() not in json.dumps([cell["outputs"] for cell in code])
    printed, warning = code[3]["outputs"]
    at, environment = "".join(printed["text"]).splitlines()
    assert at.startswith("at scratch/work ") and at.endswith(" []")
    assert environment == "1 False PASSIVE"
    assert "".join(warning["text"]).startswith("notebook-cell:2: UserWarning: watch out")


def test_a_warning_from_msnlib_does_not_say_where_it_is_installed(tmp_path):
    text = [f"{Path(msnlib.__file__).parent / 'training.py'}:9: UserWarning: watch out\n", "  a line\n"]
    output = {"output_type": "stream", "name": "stderr", "text": text}
    notebook = {"metadata": {}, "cells": [{"cell_type": "code", "metadata": {}, "outputs": [output]}]}
    (shown,) = normalised(notebook, tmp_path)["cells"][0]["outputs"]
    assert shown["text"] == ["msnlib/training.py:9: UserWarning: watch out\n", "  a line\n"]


def test_a_picture_is_left_as_it_is_and_costs_no_time(tmp_path):
    picture = {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo/" * 100_000}}
    notebook = {"metadata": {}, "cells": [{"cell_type": "code", "metadata": {}, "outputs": [picture]}]}
    start = time.process_time()
    assert normalised(notebook, tmp_path)["cells"][0]["outputs"] == [picture]
    assert time.process_time() - start < 1


def test_a_finished_run_is_skipped_until_forced_or_changed(batch, tmp_path, capsys, monkeypatch):
    shutil.copytree(batch[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out/02_good/quick-seed1"
    before = (folder / "02_good.ipynb").read_bytes()
    run = ("run", "2", "--out", "out", "--seeds", "1")

    monkeypatch.setattr(runner, "Process", _NoProcess)
    assert msn(*run) == 0
    skipped = "02_good quick seed 1: done before with this configuration (--force runs it again)"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == skipped and lines[1].startswith("out/02_good/quick-seed1/02_good.ipynb (") and len(lines) == 4
    path = tmp_path / "notebooks/02_good.ipynb"
    original = path.read_text()
    path.write_text(original.replace("watch out", "beware"))
    assert msn(*run) == 0
    assert "configuration; the notebook's code has changed since (--force" in capsys.readouterr().out
    path.write_text(original.replace("density: float = 0.1", "density: float = 0.2"))
    with pytest.raises(AssertionError, match="a process was started"):  # another configuration: not skipped
        msn(*run)
    path.write_text(original)
    monkeypatch.undo()

    monkeypatch.chdir(tmp_path)
    (folder / "left-from-before").write_text("")
    (folder.parent / "quick-seed1.failed").mkdir()
    assert msn(*run, "--force") == 0
    assert capsys.readouterr().out.startswith("02_good quick seed 1: done in ")
    assert files(folder.parent) == ["quick-seed1/02_good.ipynb", "quick-seed1/record.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["quick-seed1"]
    assert (folder / "02_good.ipynb").read_bytes() == before  # the same seed: byte for byte the same notebook


def test_a_changed_parameter_has_a_folder_of_its_own_the_same_for_all_seeds(tmp_path, capsys):
    path = good_notebook(tmp_path / "notebooks", "01_a")
    same, changed = [("width", "4")], [("density", "0.2"), ("width", "4")]
    hashed = digest({"density": 0.2})[:8]
    assert [job.folder.as_posix() for job in plan([path], "quick", [0, 1], same)] == [
        "01_a/quick-seed0",
        "01_a/quick-seed1",
    ]
    assert [job.folder.as_posix() for job in plan([path], "paper", [0, 1], changed)] == [
        f"01_a/paper-seed0-{hashed}",
        f"01_a/paper-seed1-{hashed}",
    ]
    run = ("run", "--notebooks", tmp_path / "notebooks", "--out", tmp_path / "out", "-p", "density", "0.2")
    assert msn(*run) == 0
    record = json.loads((tmp_path / f"out/01_a/quick-seed0-{hashed}/record.json").read_text())
    assert (record["configuration"]["density"], record["run"]["overrides"]) == (0.2, {"density": 0.2})
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| density=0.2 | mnist | multitask | accuracy (%) |       90.00 |" in table


def test_a_run_that_takes_too_long_fails_and_keeps_the_earlier_result(tmp_path, capsys):
    write_notebook(tmp_path / "notebooks", "01_slow", "import time", "time.sleep(600)")
    earlier = tmp_path / "out/01_slow/quick-seed0/record.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("{}")
    run = ("run", "--notebooks", tmp_path / "notebooks", "--out", tmp_path / "out")
    start = time.monotonic()
    assert msn(*run, "--timeout", 1) == 1
    assert time.monotonic() - start < 60
    left = tmp_path / "out/01_slow/quick-seed0.failed"
    assert capsys.readouterr().err == (
        f"msn: 01_slow quick seed 0 failed: not finished after 1 s (what is left: {left})\n"
    )
    assert earlier.read_text() == "{}" and (left / "log.txt").is_file()


def test_ctrl_c_kills_the_kernels_and_leaves_nothing(tmp_path):
    pid = tmp_path / "pid"
    code = f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    write_notebook(tmp_path / "notebooks", "01_slow", code)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = f"{PACKAGE}\nfrom msnlib.command.cli import main\nsys.exit(main(['run', '--out', 'out']))"
    driver = subprocess.Popen(
        [sys.executable, "-c", command],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
        # a test run in the background may have been started with Ctrl-C ignored, which children inherit
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    assert driver.communicate(timeout=30)[1] == "msn: interrupted; finished runs are kept\n"
    assert driver.returncode == 130
    assert ended(int(pid.read_text()))
    assert files(tmp_path / "out") == [] and not (tmp_path / "out/01_slow").exists()
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(not forking.CAN_FORK, reason="jobs are forked on Linux alone")
def test_a_forked_job_is_as_one_that_starts_from_nothing(tmp_path, monkeypatch):
    show = """import multiprocessing, os, subprocess, sys, tempfile, warnings
import matplotlib, torch
print(sorted(os.environ), sys.path, len(sys.argv), sys.stdin.read(), sys.flags, hash("a"), __name__)
print(os.getsid(0) == os.getpid(), torch.get_num_threads(), matplotlib.rcParams)
print(subprocess.run("cat", capture_output=True, check=True).stdout, os.environ["MSNLIB_STORE"])
folder = tempfile.TemporaryDirectory()  # removed by no one but the end of Python
warnings.warn("watch out")
unclosed = open("UNCLOSED", "a")
unclosed.write(".")
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.map(abs, [-1]))""".replace("UNCLOSED", str(tmp_path / "unclosed"))
    draw = "import matplotlib.pyplot as plt, seaborn\nfigure, axes = plt.subplots()\naxes.plot([0, 1]);"
    net = """from msnlib import Task, allocate, dense_network, fit, seed_everything
seed_everything(0)
x = torch.rand(64, 5, generator=torch.Generator().manual_seed(0))
task = Task("a", "classification", *3 * [(x, (x[:, 0] > 0.5).long())], outputs=2, batch_size=8)
net = dense_network([task], width=8, depth=2)
allocate(net, "a", density="free")
fit(net, task, epochs=2).table.drop(columns="seconds").to_dict()"""
    for name in ("01_a", "02_b"):  # a single one is not forked
        write_notebook(tmp_path / "notebooks", name, show, draw, net, RECORD.replace("NAME", f"'{name}'"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "temporary").mkdir()
    forks, fork = [], forking.Source.fork
    monkeypatch.setattr(forking.Source, "fork", lambda *given: forks.append(fork(*given)) or forks[-1])
    runs = {}
    for can_fork in (True, False):
        monkeypatch.setattr(runner, "CAN_FORK", can_fork)
        outcomes = list(
            runner.run_jobs(plan(choose_notebooks(tmp_path / "notebooks", []), "quick", [0]), tmp_path / f"{can_fork}")
        )
        assert [outcome.note for outcome in outcomes] == ["", ""]
        runs[can_fork] = [
            json.dumps([cell.get("outputs") for cell in json.loads(path.read_text())["cells"]], indent=1)
            for path in sorted((tmp_path / f"{can_fork}").rglob("*.ipynb"))
        ]
    assert len(forks) == 2  # where no fork succeeds, jobs start from nothing, and would be equal too
    assert runs[True] == runs[False] and "image/png" in runs[True][0]
    assert [left.name for left in (tmp_path / "temporary").iterdir() if "torchinductor" not in left.name] == []
    assert (tmp_path / "unclosed").read_text() == 4 * "."


@pytest.mark.skipif(not forking.CAN_FORK, reason="jobs are forked on Linux alone")
def test_jobs_start_from_nothing_when_what_they_are_forked_from_has_ended(tmp_path, monkeypatch):
    class Ended(forking.Source):
        def __init__(self):
            super().__init__()
            self._process.kill()

    monkeypatch.setattr(runner, "Source", Ended)
    for name in ("01_a", "02_b"):
        good_notebook(tmp_path / "notebooks", name)
    jobs = plan(choose_notebooks(tmp_path / "notebooks", []), "quick", [0])
    assert [outcome.state for outcome in runner.run_jobs(jobs, tmp_path / "out")] == ["done", "done"]


@pytest.mark.parametrize("can_fork", [True, False] if forking.CAN_FORK else [False])
def test_a_killed_job_is_told_and_its_kernel_ends(can_fork, tmp_path, monkeypatch):
    tell = f"import os, pathlib\npathlib.Path({str(tmp_path)!r}, name).write_text(f'{{os.getppid()}} {{os.getpid()}}')"
    for name, then in (("01_a", "import time\ntime.sleep(600)"), ("02_b", "1 / 0")):
        write_notebook(tmp_path / "notebooks", name, f"name = {name!r}\n{tell}", then)
    monkeypatch.setattr(runner, "CAN_FORK", can_fork)
    outcomes = runner.run_jobs(plan(choose_notebooks(tmp_path / "notebooks", []), "quick", [0]), tmp_path / "out", 2)
    assert next(outcomes).note == "ZeroDivisionError: division by zero"
    job, kernel = map(int, (tmp_path / "01_a").read_text().split())
    os.kill(job, signal.SIGKILL)
    assert next(outcomes).note == "its process was killed; did the memory run out?"
    assert ended(kernel)


def test_a_kernel_takes_no_port_that_another_could_take_first(tmp_path, capsys):
    check = "import ipykernel\nassert ipykernel.get_connection_info(unpack=True)['transport'] == 'ipc'"
    write_notebook(tmp_path / "notebooks", "01_a", PACKAGE, check, RECORD.replace("NAME", "'01_a'"))
    assert msn("run", "--notebooks", tmp_path / "notebooks", "--out", tmp_path / "out") == 0, capsys.readouterr().err


def test_runs_are_listed_in_the_order_of_notebooks_and_seeds_however_they_were_started(tmp_path, capsys):
    for name in ("01_a", "02_b"):
        good_notebook(tmp_path / "notebooks", name)
    where = ("--notebooks", tmp_path / "notebooks", "--out", tmp_path / "out")
    assert msn("run", "2", "1", "--seeds", "1,0", *where) == 0, capsys.readouterr().err
    listed = re.findall(r"(\d\d_[ab])/quick-seed(\d)/\S+ \(\d+ s\)", capsys.readouterr().out)
    assert listed == [("01_a", "0"), ("01_a", "1"), ("02_b", "0"), ("02_b", "1")]


def test_a_figure_is_drawn_once_for_its_margins_and_once_to_be_shown(tmp_path, capsys):
    count = """import matplotlib.figure, matplotlib.pyplot as plt
from msnlib.lab import style
style()
drawn, draw = [], matplotlib.figure.Figure.draw
matplotlib.figure.Figure.draw = lambda *given: drawn.append(given) or draw(*given)"""
    check = "assert len(drawn) == 2, len(drawn)"
    write_notebook(tmp_path / "notebooks", "01_a", count, "plt.plot([0, 1]);", check, RECORD.replace("NAME", "'01_a'"))
    assert msn("run", "--notebooks", tmp_path / "notebooks", "--out", tmp_path / "out") == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: '{"cells": [1]}',
        lambda text: '{"cells": [{"cell_type": "code", "metadata": {}}]}',
        lambda text: text.replace('"metadata": {"tags"', '"metadata": 3, "other": {"tags"'),
        lambda text: "[" * 100_000,
    ],
)
def test_a_half_saved_notebook_is_one_line(tmp_path, capsys, no_process, damage):
    path = good_notebook(tmp_path / "notebooks", "01_a")
    path.write_text(damage(path.read_text()))
    for command in (["list", "-v"], ["run", 1, "--out", tmp_path / "out"]):
        assert msn(*command, "--notebooks", tmp_path / "notebooks") == 2
        assert capsys.readouterr().err == f"msn: {path} is not a notebook\n"


def test_a_copy_that_an_editor_left_is_refused_but_by_its_name(tmp_path, capsys, no_process):
    path = good_notebook(tmp_path / "notebooks", "01_a")
    shutil.copy(path, path.with_name("01_a-Copy1.ipynb"))
    for asked in ([], [1]):
        assert msn("run", *asked, "--notebooks", path.parent, "--out", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert error.startswith("msn: 01_a-Copy1.ipynb and 01_a.ipynb") and "have the same number" in error
    assert [found.stem for found in choose_notebooks(path.parent, ["01_a"])] == ["01_a"]


def test_a_closed_pipe_loses_no_file_and_says_nothing(tmp_path):
    good_notebook(tmp_path / "notebooks", "01_a")
    good_notebook(tmp_path / "notebooks", "02_b")
    command = f"{PACKAGE}\nfrom msnlib.command.cli import main\nsys.exit(main(sys.argv[1:]))"
    driver = subprocess.Popen(
        [sys.executable, "-c", command, "run", "--out", "out", "--seeds", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    driver.stdout.close()  # as head does
    assert driver.communicate(timeout=120)[1] == "" and driver.returncode == 0
    made = [name for number in ("01_a", "02_b") for name in (f"{number}/quick-seed1/record.json",)]
    assert {*made, "records.csv", "table.md"} <= set(files(tmp_path / "out"))


@pytest.mark.parametrize("broken", [">/dev/full", ">&-", "2>&-"])
def test_a_broken_output_stream_ends_no_run_and_is_no_success(broken, tmp_path):
    write_notebook(tmp_path / "notebooks", "01_wrong", "1 / 0")
    good_notebook(tmp_path / "notebooks", "02_b")
    (tmp_path / "msn.py").write_text(f"{PACKAGE}\nfrom msnlib.command.cli import main\nsys.exit(main(sys.argv[1:]))")

    def said(*arguments):
        command = f"exec {sys.executable} -u msn.py {' '.join(arguments)} {broken}"
        return subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)

    done, again = said("run", "--out", "out"), said("run", "2", "--out", "out")
    assert {"02_b/quick-seed0/record.json", "table.md"} <= set(files(tmp_path / "out"))
    reason = "No space left on device" if "full" in broken else "it is closed"
    line = f"msn: standard output cannot be written: {reason}\n"
    if broken.startswith("2"):
        assert (done.returncode, again.returncode) == (1, 0)
        assert "02_b quick seed 0: done in " in done.stdout and done.stderr == ""
    else:
        assert (done.returncode, again.returncode, said("--version").returncode) == (1, 2, 2)
        assert "msn: 01_wrong quick seed 0 failed: ZeroDivisionError" in done.stderr and again.stderr == line


def test_letters_that_a_terminal_has_not_are_written_otherwise(tmp_path):
    write_notebook(tmp_path / "nb", "01_é")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", f"{PACKAGE}\nfrom msnlib.command.cli import main\nsys.exit(main(sys.argv[1:]))"]
    for arguments, name in ((["list", "-v"], "stdout"), (["run", "é"], "stderr")):
        done = subprocess.run(
            [*command, *arguments, "--notebooks", "nb"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert "\\xe9" in getattr(done, name) and "Traceback" not in done.stderr


def test_notebooks_are_copied_whole_and_nothing_is_overwritten(tmp_path, capsys):
    path = good_notebook(tmp_path / "notebooks", "01_a")
    for _ in range(2):
        assert msn("copy", tmp_path / "mine", "--notebooks", path.parent) == 0
    assert (tmp_path / "mine/01_a.ipynb").read_bytes() == path.read_bytes()
    (tmp_path / "mine/01_a.ipynb").write_text("my work")
    assert msn("copy", tmp_path / "mine", "--notebooks", path.parent) == 2
    assert "01_a.ipynb is there already, and is another one" in capsys.readouterr().err
    assert (tmp_path / "mine/01_a.ipynb").read_text() == "my work"


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit) as ended:
        msn("--version")
    assert (ended.value.code, capsys.readouterr().out) == (0, f"msn {msnlib.__version__}\n")


def test_the_caller_changes_neither_outputs_nor_assertions(tmp_path, capsys, monkeypatch):
    """A home that cannot be written, settings of matplotlib, filters, a language: a run sees none of them."""
    show = """import locale, os, sys, warnings
import matplotlib
print(__debug__, sys.flags.optimize, sys.warnoptions, os.environ.get("FOREIGN"), locale.getlocale())
print(os.path.isdir(os.path.expanduser("~")), matplotlib.rcParams["lines.linewidth"])"""
    write_notebook(tmp_path / "notebooks", "01_a", PACKAGE, show, RECORD.replace("NAME", "'01_a'"))
    outputs = []
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "matplotlibrc").write_text("lines.linewidth: 77\nlines.wrong: 3\n")
    foreign = {
        "HOME": str(tmp_path / "none"),
        "MPLCONFIGDIR": str(settings),
        "MATPLOTLIBRC": str(settings),
        "XDG_CONFIG_HOME": str(settings),
        "PYTHONWARNINGS": "error",
        "PYTHONOPTIMIZE": "2",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C",
        "FOREIGN": "seen",
        "MSNLIB_RECORDS": "/none",
    }
    for environment in ({}, foreign):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        out = tmp_path / f"out{len(outputs)}"
        assert msn("run", 1, "--notebooks", tmp_path / "notebooks", "--out", out) == 0, capsys.readouterr().err
        notebook = json.loads((out / "01_a/quick-seed0/01_a.ipynb").read_text())
        outputs.append([cell["outputs"] for cell in notebook["cells"] if "outputs" in cell])
    assert outputs[0] == outputs[1]
    assert outputs[0][3][0]["text"][0].startswith("True 0 [] None ") and "True 1.5" in outputs[0][3][0]["text"][1]


def test_make_test_runs_in_the_same_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREIGN", "seen")
    monkeypatch.setenv("MSNLIB_DATA", "data")
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    command = [sys.executable, "-m", "msnlib.command.environment", str(tmp_path), sys.executable, "-c", show]
    seen = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert "FOREIGN" not in seen and seen["MSNLIB_DATA"] == str(Path("data").resolve())
    assert {name: seen[name] for name in kernel_environment(tmp_path)} == kernel_environment(tmp_path)
    assert '-m msnlib.command.environment "$$scratch"' in (Path(__file__).parent.parent / "Makefile").read_text()
