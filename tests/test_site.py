"""The site: built once with a few notebooks, read as files and opened in a browser."""

import functools
import html
import http.server
import importlib
import json
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pandas as pd
import pytest

from msnlib.files import UsageError
from msnlib.lab.capacity import widest
from msnlib.lab.notebooks import read_notebook
from msnlib.lab.pooling import UnlikeRuns, headline
from msnlib.lab.records import RECORD_COLUMNS, read_records
from msnlib.lab.report import format_value

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ("1", "5", "10")  # one run, several runs, formulas, the records of a front page's figure
WITH_FORMULAS = ["notebooks/01_subnetworks_by_hand.html", "notebooks/10_capacity.html"]
OPENED = ["index.html", *WITH_FORMULAS, "api/msnlib.training.html"]

for needed in ("sphinx", "myst_nb", "furo"):
    pytest.importorskip(needed, reason="the site's packages are not installed: pip install -e '.[site]'")
sys.path.insert(0, str(ROOT / "docs"))  # as when docs/pages.py runs
front, pages_of, runs = (importlib.import_module(name) for name in ("front", "pages", "runs"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, ROOT / "docs" / "pages.py", out, *NOTEBOOKS]
    return out, subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def site(built):
    out, process = built
    assert process.returncode == 0, process.stderr
    return out


class Page(HTMLParser):
    """What a page names, links to and loads."""

    def __init__(self, path):
        super().__init__()
        self.names, self.links, self.loaded, self.images, self.headings = set(), [], [], [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names.add(given.get("id"))
        self.headings += tag == "h1"
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "img":
            self.images.append(given)
        address = given.get("src") or (given.get("href") if tag == "link" else None)
        if address:
            self.loaded.append(address)


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in sorted(site.glob("**/*.html"))}


@pytest.mark.parametrize(
    "link, on_the_site",
    [
        ("[a](../docs/results.md)", "[a](/results.md)"),
        ("[a](../docs/results.md#gains)", "[a](/results.md#gains)"),
        ("[a](results.md#gains)", "[a](/results.md#gains)"),
        ("[a](#gains)", "[a](#gains)"),
        ("[a](https://arxiv.org/abs/1#gains)", "[a](https://arxiv.org/abs/1#gains)"),
        ("[the list](../pyproject.toml)", "the list (`pyproject.toml`)"),
        ("[a](../docs/none.md#gains)", "[a](../docs/none.md#gains)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(link, on_the_site):
    assert pages_of.linked(link, {"docs/results.md": "results.md"}) == on_the_site


def test_sphinx_has_nothing_to_complain_about(built):
    """Docstrings that do not parse, links to no page, notebooks outside of every list."""
    assert built[1].stderr == ""


def test_links_lead_somewhere(pages):
    for path, page in pages.items():
        for address in page.links + page.loaded:
            where, anchor = urldefrag(address)
            if urlsplit(where).scheme in ("http", "https", "data"):
                continue
            target = (path.parent / unquote(where.partition("?")[0])).resolve() if where else path
            assert target.is_file(), f"{path.name}: {address}"
            if anchor and target in pages:
                assert unquote(anchor) in pages[target].names, f"{path.name}: {address}"


def test_nothing_is_loaded_from_elsewhere(pages):
    for path, page in pages.items():
        assert [a for a in page.loaded if urlsplit(a).scheme not in ("", "data") or a.startswith("//")] == [], path


def test_figures_have_a_text_and_pages_one_title(pages):
    assert sum(len(page.images) for page in pages.values()) > 10
    for path, page in pages.items():
        assert all((image.get("alt") or "").strip() for image in page.images), path
        assert page.headings == 1 or path.name == "search.html", path  # search.html writes its own


def test_a_page_says_which_run_it_is_and_where_larger_ones_are(site):
    text = (site / "notebooks" / "10_capacity.html").read_text()
    assert text.count('<p class="admonition-title">This run</p>') == 1
    note = text.split("This run")[1].split("</div>")[0]
    assert 'href="../results.html' in note and 'href="10_capacity/quick-seed0.html' in note


def test_what_was_found_stands_above_the_settings(site):
    texts = {path.name: path.read_text() for path in site.glob("notebooks/*.html")}
    boxed = {name: text for name, text in texts.items() if "tag_findings" in text}
    assert boxed
    for name, text in boxed.items():
        above = text.partition("tag_parameters")[0]
        assert "tag_findings" in above, name
        assert ("<strong>This run</strong> (" in above) == (name != "90_summary.html"), name
    assert re.search(r"<strong>Larger runs</strong> \(.*?<li>", boxed["10_capacity.html"], re.DOTALL)


def test_a_table_of_text_is_told_from_sentences(site):
    table = {"output_type": "stream", "text": ["a   b   c\n", "1   2   3\n", "4   5   6\n"]}
    assert runs._is_aligned(table) and not runs._is_aligned({"text": ["a sentence.  Another one.\n"] * 9})
    assert "tag_aligned" in (site / "notebooks" / "10_capacity.html").read_text()


def test_exercises_of_the_course_stay_out(site):
    assert not [path for path in site.glob("**/*") if path.stem in ("assignments", "solutions", "ps1", "ps2", "ps3")]


def test_every_name_of_the_package_is_in_the_reference(site):
    import msnlib

    listed = (site / "genindex.html").read_text()
    assert [name for name in msnlib.__all__ if f">{name}" not in listed] == []


def test_the_front_page_shows_the_records(site):
    text = (site / "index.html").read_text()
    shown = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).replace("\u2019", "'").split())  # straight quotes
    (found,) = re.findall(r"<!-- findings:.*?-->\n\n(.*?)\n\n<!-- end", (ROOT / "README.md").read_text(), re.DOTALL)
    for line in found.splitlines():  # the very words of the README
        assert " ".join(re.sub(r"^ *- |[*]", "", line).split()) in re.sub(r" ([.;,)])", r"\1", shown)
    records = headline(read_records(ROOT / "reports").query("profile != 'quick'"))
    means = widest(records[records["experiment"] == "capacity"]).groupby("arm")["value"].mean()
    assert len(means) > 5
    for value in means:
        assert f"<p>{format_value('accuracy', value)}</p>" in text


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


# Elements that stick out of the screen and lie in nothing that scrolls.
STICKING_OUT = """() => [...document.querySelectorAll("article *")].filter(element => {
    if (element.getBoundingClientRect().right <= innerWidth + 1) return false
    for (let box = element.parentElement; box.tagName != "ARTICLE"; box = box.parentElement)
        if (["auto", "scroll"].includes(getComputedStyle(box).overflowX)) return false
    return !["auto", "scroll"].includes(getComputedStyle(element).overflowX)
}).map(element => element.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("path", OPENED)
def test_a_page_in_the_browser(path, site, address, browser):
    page = browser.new_page(viewport={"width": 400, "height": 800})
    errors, elsewhere = [], []
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: request.url.startswith((address, "data:")) or elsewhere.append(request.url))
    page.goto(address + path)
    if path in WITH_FORMULAS:
        page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
        page.evaluate("MathJax.startup.promise")
        formulas = page.locator("article .math").count()
        assert page.locator("article .math mjx-container").count() == formulas > 5
        assert page.locator("mjx-merror").count() == 0
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.evaluate(STICKING_OUT) == []
    broken = "() => [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    assert page.evaluate(broken) == []
    assert (errors, elsewhere) == ([], [])
    page.close()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=f"^{tmp_path} holds something else"):
        importlib.import_module("pages").build(tmp_path, [])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.fixture
def run_folder(tmp_path):
    """Write a run of a notebook nn_x, and return where the notebook and the reports are."""
    cells = [{"cell_type": "markdown", "metadata": {}, "source": ["# nn · X\n", "\n", "Text."]}]
    notebook = tmp_path / "nn_x.ipynb"
    notebook.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))

    def write(name, profile, seed, **overrides):
        folder = tmp_path / "reports" / "nn_x" / name
        folder.mkdir(parents=True)
        shutil.copy(notebook, folder)
        source = next((ROOT / "reports").glob("*/*/record.json"))
        record = json.loads(source.read_text())
        record["configuration"] |= {"profile": profile, "seed": seed}
        record["run"]["overrides"] = overrides
        (folder / "record.json").write_text(json.dumps(record))

    return notebook, tmp_path / "reports", write


def test_the_run_to_read_first_and_no_run_of_older_sources(run_folder, caplog):
    notebook, reports, write = run_folder
    assert [run.folder for run in runs.executions(notebook, reports)] == ["quick-seed0"]
    write("laptop-seed0", "laptop", 0)
    write("paper-seed2", "paper", 2)
    write("paper-seed10", "paper", 10)
    write("paper-seed0-abc", "paper", 0, density=0.05)
    write("quick-seed3", "quick", 3)
    write("paper-seed1.failed", "paper", 1)
    write("paper-seed1", "paper", 1)
    page = reports / "nn_x" / "paper-seed1" / notebook.name
    page.write_text(page.read_text().replace("Text.", "Other text."))
    found = runs.executions(notebook, reports)
    assert "paper-seed1 skipped: its code or prose is not that of nn_x.ipynb" in caplog.text
    assert [run.folder for run in found] == [
        "paper-seed2", "paper-seed10", "laptop-seed0", "quick-seed0", "paper-seed0-abc",
    ]  # fmt: skip
    assert found[-1].title == "paper, seed 0, density 0.05"
    assert found[-1].command.endswith("--profile paper --seeds 0 -p density 0.05")
    runs.write_pages(notebook, reports, notebook.parent / "out")
    assert {path.stem for path in (notebook.parent / "out" / "nn_x").glob("*")} == {run.folder for run in found[1:]}
    (first,) = (notebook.parent / "out").glob("*.ipynb")
    note = read_notebook(first)["cells"][0]["source"]
    assert all(f"/notebooks/nn_x/{run.folder}.ipynb" in note for run in found[1:])
    assert "Numbers of all larger runs: [Results](/results.md)" in note


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), ids=lambda path: path.stem[:2])
def test_every_figure_of_a_notebook_gets_a_text(path, tmp_path):
    runs.write_pages(path, tmp_path / "none", tmp_path)
    for cell in read_notebook(tmp_path / path.name)["cells"]:
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            text = cell["metadata"]["mystnb"]["image"]["alt"]
            assert len(text) > 30 and not set("\n`$") & set(text), text


def test_texts_of_figures():
    assert runs.alternative("`Data`", "samples(tasks);", "").startswith("Data. The first test examples of every task,")
    assert runs.alternative("Why?", 'ax.set(xlabel="a", ylabel="b")', "") == "Why? Axes: b against a."
    assert runs.alternative("A", "draw(x)", "One. Two *words* here.") == "A. Figure after: Two words here."


def record(**values):
    texts = dict.fromkeys(("configuration", "overrides", "versions"), "{}")
    return dict.fromkeys(RECORD_COLUMNS, "") | texts | {"profile": "laptop", "metric": "accuracy"} | values


def test_density_on_the_front_page(tmp_path):
    shared = {"experiment": "density", "notebook": "14_density", "task": "mnist"}
    arms = {"density 0.1, converged": 91, "density 0.5, converged": 95, "density 0.1 random, converged": 92,
            "density 0.1": 50, "dedicated, converged": 97}  # fmt: skip
    rows = [record(**shared, seed=s, arm=arm, value=value + s) for arm, value in arms.items() for s in (0, 1)]
    text = front.density(pd.DataFrame(rows), tmp_path)
    assert "means of 2 seeds" in text and "97.50" in text and "50" not in text.replace(".50", "")
    assert "| weights as in the paper | 91.50 | 95.50 |" in text
    assert "| weights at random | 92.50 |  |" in text
    assert (tmp_path / "density_mnist.svg").read_text().startswith("<?xml")
    with pytest.raises(UnlikeRuns, match="epochs=1"):
        front.density(pd.DataFrame([*rows, rows[0] | {"configuration": '{"epochs": 1}', "seed": 2}]), tmp_path)


def test_what_is_not_there_yet_is_said(tmp_path):
    nothing = pd.DataFrame(columns=list(RECORD_COLUMNS))
    for part in (front.density, front.capacity):
        assert part(nothing, tmp_path).startswith("No run of notebook 1")
