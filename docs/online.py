"""The repository's address, in one place: `python docs/online.py [https://github.com/OWNER/NAME]`.

CITATION.cff holds it, as repository-code. Without an argument what follows from it is written anew: the links to Colab
and Binder in the README, and the cell that installs msnlib in docs/online.ipynb. Without an address there are no links.
"""

import json
import re
import sys
from pathlib import Path

MARKS = ("<!-- online: written by docs/online.py -->", "<!-- end of online -->")


def write(root: Path, given: str | None = None) -> None:
    """Write the address ``given``, or the one that CITATION.cff has, wherever it belongs; "" takes it away.

    Raises:
        ValueError: an address that is none of GitHub.
    """
    citation, readme, notebook = (root / name for name in ("CITATION.cff", "README.md", "docs/online.ipynb"))
    text = citation.read_text(encoding="utf-8")
    found = re.search(r"^repository-code: (\S+)\n", text, re.MULTILINE)
    address = (found[1] if found else "") if given is None else given.rstrip("/")
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise ValueError(f"{address!r} is not like https://github.com/OWNER/NAME")
    text = text.replace(found[0], "") if found else text
    line = f"repository-code: {address}\n" if address else ""
    citation.write_text(text.replace("license:", f"{line}license:", 1), encoding="utf-8")
    before, _, rest = readme.read_text(encoding="utf-8").partition(MARKS[0])
    content = f"{MARKS[0]}\n{links(address)}{MARKS[1]}"
    readme.write_text(before + content + rest.partition(MARKS[1])[2], encoding="utf-8")
    page = json.loads(notebook.read_text(encoding="utf-8"))
    (cell,) = (cell for cell in page["cells"] if cell["id"] == "install")
    unset = 'raise ModuleNotFoundError("msnlib is not installed, and the address of its repository is not set")'
    cell["source"][-1] = "    " + (f'%pip install --quiet "msnlib @ git+{address}"' if address else unset)
    notebook.write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def links(address: str) -> str:
    """Return the line of the README that opens the quick runs without an installation; nothing without an address."""
    name = address.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{name}/blob/main/docs/online.ipynb"
    binder = f"https://mybinder.org/v2/gh/{name}/HEAD?labpath=notebooks"
    return f"\nOr in the browser: the quick runs on [Colab]({colab}) or [Binder]({binder}).\n\n" if address else ""


if __name__ == "__main__":
    try:
        write(Path(__file__).resolve().parent.parent, *sys.argv[1:2])
    except ValueError as error:
        sys.exit(f"online.py: {error}")
