"""How long the problem sets take where this runs: ``python course/times.py`` writes times.json and times.md beside it.

To stand in for a slow laptop, start it under limits; it reads them back and writes them down.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from msnlib.command.environment import kernel_environment
from msnlib.command.variants import choose, resolve
from msnlib.lab.notebooks import read_notebook

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent / "notebooks" / "assignments" / "source"
PAGE = """\
# How long the problem sets take

Each problem set as it is published, with its model answers, run once from top to bottom as *Run all* does, the start of
Python and the import of PyTorch included. Another program that works beside it makes it longer, so read these times as
upper bounds for such a machine.

| problem set | minutes:seconds | its longest cell | computing | most memory of one process |
|---|---|---|---|---|
{rows}

Where: {cpu}; {cores} cores, no more than {quota} of one core's time in all, {memory} of memory; load {load} when it
began, {date}. The problem sets use one thread, so half of a core's time means a core half as fast.

Written from times.json by `python course/times.py`, which measures them anew. The limits were set with

```sh
cd /sys/fs/cgroup && mkdir memory/slow cpu/slow            # version 1 of Linux' control groups, as root
echo {bytes} > memory/slow/memory.limit_in_bytes
echo {share} > cpu/slow/cpu.cfs_quota_us                   # of cpu.cfs_period_us, {period}
for kind in memory cpu; do echo $$ > $kind/slow/cgroup.procs; done
```
"""


def measure(name: str, scratch: Path) -> dict[str, float]:
    """Run a problem set with its answers; return seconds, and the bytes of the largest process."""
    source = read_notebook(SOURCES / name / f"{name}.ipynb")
    path = scratch / f"{name}.ipynb"
    path.write_text(json.dumps(resolve(source, choose(source, name))), encoding="utf-8")
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", str(path)]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--log-level", "ERROR"], env=kernel_environment(scratch))
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{name} failed")
    return {
        "seconds": seconds,
        "longest_cell": max(_seconds(cell) for cell in read_notebook(path)["cells"]),
        "computing": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * 1024,
    }


def _seconds(cell: dict[str, Any]) -> float:
    times = cell["metadata"].get("execution", {})
    ends = [times.get(f"iopub.{what}") for what in ("execute_input", "status.idle")]
    start, end = (datetime.fromisoformat(one) if one else datetime.min for one in ends)
    return (end - start).total_seconds()


def machine() -> dict[str, Any]:
    """Return what this process may use, as Linux says."""
    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        groups = {kind: path for _, kinds, path in lines for kind in kinds.split(",")}
        quota, period, memory = (
            int(Path(f"/sys/fs/cgroup/{kind}{groups[kind]}/{name}").read_text())
            for kind, name in (
                ("cpu", "cpu.cfs_quota_us"),
                ("cpu", "cpu.cfs_period_us"),
                ("memory", "memory.limit_in_bytes"),
            )
        )
    except (KeyError, OSError):
        raise SystemExit("times.py reads the limits of Linux' control groups, version 1: there are none") from None
    if quota < 0:
        raise SystemExit("times.py stands in for a slow laptop: set limits first, as times.md says")
    info = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "cpu": next(line.split(": ")[1] for line in info if line.startswith("model name")),
        "cores": len(os.sched_getaffinity(0)),
        "cpu_quota_us": quota,
        "cpu_period_us": period,
        "memory": memory,
        "load": os.getloadavg()[0],
        "date": f"{datetime.now():%Y-%m-%d}",
    }


def page(found: dict[str, Any]) -> str:
    """Return the page for lecturers."""
    where, rows = found["machine"], []
    for name, took in found["problem_sets"].items():
        longest, computing = (f"{took[key]:.0f} s" for key in ("longest_cell", "computing"))
        clock = "{}:{:02}".format(*divmod(round(took["seconds"]), 60))
        rows.append(f"| {name} | {clock} | {longest} | {computing} | {took['memory'] / 2**30:.1f} GB |")
    return PAGE.format(
        rows="\n".join(rows),
        quota=f"{where['cpu_quota_us'] / where['cpu_period_us']:.0%}",
        memory=f"{where['memory'] / 2**30:g} GB",
        load=f"{where['load']:.1f}",
        bytes=where["memory"],
        share=where["cpu_quota_us"],
        period=where["cpu_period_us"],
        **{key: where[key] for key in ("cpu", "cores", "date")},
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        names = sorted(path.name for path in SOURCES.iterdir() if path.is_dir())
        found = {"machine": machine(), "problem_sets": {name: measure(name, Path(scratch)) for name in names}}
    (HERE / "times.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (HERE / "times.md").write_text(page(found), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
