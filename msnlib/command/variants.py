"""Variants of a problem set: one source holds several rules, and what is released has one of them in all its parts.

A source notebook names its choices in its metadata, ``{"msnlib": {"choices": {"ties": ["lower", "higher"]}}}``, the
published one first. Its cells are Jinja templates: lines such as ``# % if ties == "lower"`` in texts and code, and
``«ties»`` within a line.
"""

import copy
import hashlib
import itertools
import re
from collections.abc import Mapping
from typing import Any

from msnlib.files import UsageError, one_line
from msnlib.lab.notebooks import source_of

_SEED = re.compile(r"^seed: int = \d+", re.M)


def choices(notebook: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the choices of a problem set's source; the first of each is the published one."""
    return notebook["metadata"].get("msnlib", {}).get("choices", {})


def choose(notebook: Mapping[str, Any], name: str, variant: str = "") -> dict[str, str]:
    """Return what a variant of the problem set ``name`` asks for.

    Args:
        notebook: its source.
        name: its name.
        variant: nothing, for the published choices; ``ties=higher,rounding=up``; or any other text, such as a year or a
            year and a student's name, from which choices are drawn that are not all the published ones.

    Raises:
        UsageError: a choice or a value that the problem set has not.
    """
    offered = choices(notebook)
    chosen = {choice: values[0] for choice, values in offered.items()}
    if "=" in variant:
        for pair in variant.split(","):
            choice, _, value = pair.partition("=")
            if choice in offered and value not in offered[choice]:
                raise UsageError(f"{choice} of {name} is {value!r}, but must be one of {', '.join(offered[choice])}")
            if choice in offered:
                chosen[choice] = value
    elif variant and offered:
        everything = list(itertools.product(*offered.values()))[1:]
        chosen = dict(zip(offered, everything[_draw(variant, name) % len(everything)], strict=True))
    return chosen


def resolve(notebook: Mapping[str, Any], chosen: Mapping[str, str], seed: int | None = None) -> dict[str, Any]:
    """Return a problem set with only the rules that are ``chosen``, and, if given, this ``seed`` in its parameters.

    A notebook without ``msnlib`` in its metadata is returned as it is.

    Raises:
        UsageError: a cell is no template, or names a choice that is not there.
    """
    import jinja2

    environment = jinja2.Environment(
        block_start_string="«%",
        block_end_string="%»",
        variable_start_string="«",
        variable_end_string="»",
        comment_start_string="«#",
        comment_end_string="#»",
        line_statement_prefix="# %",
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    made = copy.deepcopy(dict(notebook))
    if made["metadata"].pop("msnlib", None) is None:
        return made
    for cell in made["cells"]:
        try:
            text = environment.from_string(source_of(cell)).render(chosen)
        except jinja2.TemplateError as error:
            raise UsageError(f"{source_of(cell).strip()[:40]!r} is no template: {one_line(error)}") from None
        if seed is not None and "parameters" in cell["metadata"].get("tags", []):
            text = _SEED.sub(f"seed: int = {seed}", text)
        cell["source"] = text.splitlines(keepends=True)
    return made


def seed_of(name: str, variant: str) -> int | None:
    """Return the seed of a drawn variant, or None when the problem set keeps its own."""
    return None if not variant or "=" in variant else 1 + _draw(variant, name, "seed") % 999


def _draw(*names: str) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).digest()[:8], "big")
