"""What ``msn`` can be asked on a command line."""

import argparse
import math
from pathlib import Path
from typing import Any, NoReturn

from msnlib import __version__
from msnlib.lab.parameters import PROFILES


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with 2 and one line instead of the whole usage."""
        self.exit(2, f"msn: {message} (see {self.prog} --help)\n")


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days, 0 or more")
    return days


def parser() -> argparse.ArgumentParser:
    """The parser of ``msn``; what it returns names the command in ``command``."""
    parser = _Parser(prog="msn", description="Several tasks in disjoint subnetworks of one network: run the notebooks.")
    parser.add_argument("--version", action="version", version=f"msn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    notebooks = argparse.ArgumentParser(add_help=False)
    notebooks.add_argument("--notebooks", type=Path, metavar="DIR", help="where the notebooks are (./notebooks)")
    out = argparse.ArgumentParser(add_help=False)
    out.add_argument("--out", type=Path, default=Path("reports"), metavar="DIR", help="where results go (./reports)")

    command = commands.add_parser("list", parents=[notebooks], help="list the notebooks")
    command.add_argument("-v", "--verbose", action="store_true", help="with their parameters")

    command = commands.add_parser("copy", parents=[notebooks], help="copy the notebooks, to read, run and change them")
    command.add_argument("folder", type=Path, metavar="DIR", help="where to; it is made when absent")

    _add_running(commands, notebooks, out)

    command = commands.add_parser("report", parents=[out], help="write and print the table of results")
    command.add_argument(
        "--readme", type=Path, metavar="FILE", help="also put both of its tables into FILE and draw the figures"
    )

    command = commands.add_parser("inspect", help="what a saved network holds: tasks, entries, bytes")
    command.add_argument("file", type=Path, metavar="FILE", help="written by msnlib.save")

    _add_course(commands, notebooks)
    return parser


def _add_running(commands: Any, notebooks: argparse.ArgumentParser, out: argparse.ArgumentParser) -> None:
    command = commands.add_parser("run", parents=[notebooks, out], help="run notebooks; finished runs are skipped")
    command.add_argument("notebook", nargs="*", metavar="NOTEBOOK", help="number or name; all numbered ones if none")
    command.add_argument("--profile", default="quick", help=f"one of {', '.join(PROFILES)} (quick)")
    command.add_argument("--seeds", default="0", help="0, 0-2 or 0,3,5-7 (0)")
    command.add_argument("--jobs", type=_at_least_one, default=1, metavar="N", help="notebooks at a time (1)")
    command.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter of the notebooks; 'msn list -v' shows them",
    )
    command.add_argument("--force", action="store_true", help="also run what is already done")
    command.add_argument("--timeout", type=_at_least_one, metavar="SECONDS", help="fail a run that takes longer")
    command.add_argument("--no-store", action="store_true", help="train everything anew and keep no epoch")

    command = commands.add_parser(
        "sweep", parents=[notebooks, out], help="run what a file says: notebooks x profiles x seeds x parameters"
    )
    command.add_argument("file", type=Path, metavar="SPEC.toml", help="see sweeps/ and docs/sweeps.md")
    command.add_argument("--jobs", type=_at_least_one, default=1, metavar="N", help="runs at a time, here (1)")
    command.add_argument("--scheduler", metavar="ADDRESS", help="run on the workers of this Dask scheduler instead")
    command.add_argument("--timeout", type=_at_least_one, metavar="SECONDS", help="fail a run that takes longer")
    command.add_argument("--no-store", action="store_true", help="train everything anew and keep no epoch")

    command = commands.add_parser("status", parents=[notebooks, out], help="what of a sweep is done, running, failed")
    command.add_argument("file", type=Path, metavar="SPEC.toml")

    command = commands.add_parser("verify", parents=[notebooks], help="make finished runs again and compare")
    command.add_argument("run", type=Path, nargs="+", metavar="RUN", help="its folder, in reports/")

    command = commands.add_parser("clean", help="list stored trainings; with --yes remove them")
    command.add_argument("--older-than", type=_days, default=0.0, metavar="DAYS", help="only those not used since (0)")
    command.add_argument("--job", default="", metavar="KEY", help="only the one whose key starts so")
    command.add_argument("--yes", action="store_true", help="remove what is listed")


def _add_course(commands: Any, notebooks: argparse.ArgumentParser) -> None:
    command = commands.add_parser("course", parents=[notebooks], help="release, grade and answer the problem sets")
    steps = ("release", "collect", "grade", "feedback", "instructor")
    command.add_argument("step", choices=steps, help="the first four in this order; instructor: the lecturer's archive")
    command.add_argument("folder", type=Path, metavar="DIR", help="the lecturer's folder")
    command.add_argument("--variant", default="", metavar="NAME", help="release: 2027, or ties=higher,rounding=up")
    command.add_argument("--students", type=Path, metavar="FILE", help="release: a name a line, a variant for each")
    command.add_argument("--install", default="", metavar="WHAT", help="release: from where students' pip gets msnlib")
    command.add_argument("--set", metavar="NAME", help="collect: the problem set, such as ps1")
    command.add_argument(
        "--zip", type=Path, metavar="FILE", help="collect: everybody's files, from a learning platform"
    )
    command.add_argument(
        "--timeout", type=_at_least_one, metavar="SECONDS", help="grade: interrupt a longer cell (120)"
    )
    command.add_argument("--force", action="store_true", help="grade: also what is graded and has not changed")
    command.add_argument("--answers", action="store_true", help="feedback: with model answers before the due date too")
