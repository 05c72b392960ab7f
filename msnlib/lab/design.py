"""How the claim is tested, as declared before the runs: margins, the rule and interval that decide, the seeds."""

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msnlib.files import UsageError
from msnlib.lab.parameters import ParameterError, parse_seeds
from msnlib.lab.statistics import Margin

RULES = ("converged", "authors")  # the names of the stopping rules in records; the authors' arms carry no name
INTERVALS = ("crossed", "seeds")  # over seeds and test examples, or the paired t test's over seeds alone


@dataclass(frozen=True)
class Design:
    """What `read_design` reads.

    Attributes:
        margins: task -> the loss that would matter.
        rule: the stopping rule whose verdict counts, of `RULES`; the other stands beside it.
        interval: what decides, of `INTERVALS`.
        sensitivity: another margin for every task, in per cent of the control's errors, that decides nothing.
        runs: (notebook, profile) -> the seeds that are the claim's. All others are exploration: they were seen.
    """

    margins: dict[str, Margin]
    rule: str = RULES[0]
    interval: str = INTERVALS[0]
    sensitivity: Margin = Margin(10.0, "mse")
    runs: dict[tuple[str, str], frozenset[int]] = field(default_factory=dict)

    @property
    def rules(self) -> tuple[str, ...]:
        """Both stopping rules, the one that counts first."""
        return (self.rule, *(rule for rule in RULES if rule != self.rule))


def read_design(path: Path | str) -> Design:
    """Return the design in a sweep file: its tables ``[margins]`` and ``[claim]``, and the seeds of its ``[[runs]]``.

    Raises:
        ParameterError: the file is no TOML, has no margins, or a value that is not allowed; one line that names it.
        OSError: it cannot be read.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        margins = content.get("margins")
        if not isinstance(margins, dict) or not margins:
            raise ValueError("must have a table [margins] with a margin per task, like mnist = 0.5")
        margins = {task: _margin(task, value) for task, value in margins.items()}
        return Design(margins, **_claim(content.get("claim", {})), runs=_runs(content.get("runs", [])))
    except ValueError as error:
        raise ParameterError(f"{path}: {error}") from None


def read_designs(folder: Path | str) -> Design:
    """Return the design of a project: that of all sweep files in a folder which declare margins, taken together.

    Raises:
        ParameterError: as `read_design`; there is no such file; or two of them disagree on a margin or on what decides.
    """
    folder = Path(folder)
    paths = [path for path in sorted(folder.glob("*.toml")) if "[margins]" in path.read_text(encoding="utf-8")]
    if not paths:
        raise ParameterError(f"{folder}: no sweep file there has a table [margins]")
    first, *others = (read_design(path) for path in paths)
    margins, runs = dict(first.margins), dict(first.runs)
    for path, other in zip(paths[1:], others, strict=True):
        for task, margin in other.margins.items():
            if margins.setdefault(task, margin) != margin:
                raise ParameterError(f"{path}: margin of {task} is {margin}, but {margins[task]} in another sweep file")
        if replace(other, margins={}, runs={}) != replace(first, margins={}, runs={}):
            raise ParameterError(f"{path}: [claim] is not that of {paths[0].name}")
        for key, seeds in other.runs.items():
            runs[key] = runs.get(key, frozenset()) | seeds
    return replace(first, margins=margins, runs=runs)


def _margin(task: str, value: Any) -> Margin:
    try:
        return Margin.parse(value)
    except ValueError as error:
        raise ValueError(f"{task}: {error}") from None


def _claim(table: Any) -> dict[str, Any]:
    """Return the fields of a `Design` that ``[claim]`` sets."""
    allowed = {"rule": RULES, "interval": INTERVALS, "sensitivity": None}
    unknown = set(table) - set(allowed) if isinstance(table, dict) else {table}
    if unknown:
        raise ValueError(f"[claim] has {sorted(map(str, unknown))[0]!r}, but may have {', '.join(allowed)}")
    for name, value in table.items():
        if allowed[name] and value not in allowed[name]:
            raise ValueError(f"[claim]: {name} is {value!r}, but must be one of {', '.join(allowed[name])}")
    found = dict(table)
    if "sensitivity" in found:
        found["sensitivity"] = _margin("sensitivity", found["sensitivity"])
        if found["sensitivity"].metric != "mse":
            raise ValueError(f'[claim]: sensitivity is {table["sensitivity"]!r}, but must be a text like "10 %"')
    return found


def _runs(blocks: Any) -> dict[tuple[str, str], frozenset[int]]:
    """Return the seeds of every notebook and profile in ``[[runs]]``; notebooks must be named in full."""
    found: dict[tuple[str, str], frozenset[int]] = {}
    for block in blocks:
        notebooks, profiles, seeds = (block.get(name, []) for name in ("notebooks", "profiles", "seeds"))
        try:
            seeds = frozenset(parse_seeds(seeds if isinstance(seeds, str) else ",".join(map(str, seeds))))
        except UsageError as error:
            raise ValueError(str(error)) from None
        for notebook in [notebooks] if isinstance(notebooks, str | int) else notebooks:
            if not isinstance(notebook, str) or not notebook[:2].isdigit() or "_" not in notebook:
                raise ValueError(f"notebook {notebook!r} must be named in full here, like 02_parallel_dense")
            for profile in [profiles] if isinstance(profiles, str) else profiles:
                found[notebook, profile] = found.get((notebook, profile), frozenset()) | seeds
    return found
