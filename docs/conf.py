"""Sphinx's settings for the site; `pages.py` writes the pages and calls Sphinx."""

import inspect

import msnlib

project = "msnlib"
author = "The msnlib authors"
version = release = msnlib.__version__
html_title = f"msnlib {version}"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # serves MathJax from the site: a reader needs no network
]
exclude_patterns = ["parts/*"]  # Markdown that a page includes

nb_execution_mode = "off"  # a notebook's outputs are the ones that were committed
nb_merge_streams = True
nb_output_stderr = "show"  # warnings of a run belong to its result
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 2

autodoc_inherit_docstrings = False  # torch explains its methods itself
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "py:obj"
maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/owners.svg"
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_last_updated_fmt = None  # two builds of one tree are equal


def _public_name(app, env, node, contnode):
    """Link a name that docstrings write without its module, such as `allocate` or `msnlib.allocate`."""
    domain = env.domains["py"]
    name = node.get("reftarget", "").removeprefix("msnlib.")
    found = domain.find_obj(env, "", "", name, None, 1) if node.get("refdomain") == "py" and name else []
    if len(found) == 1:
        return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], found[0][0], node, contnode)


def _imported(app, what, name, obj, skip, options):
    """Leave out what a module imports before autodoc spends seconds on it, which then leaves it out too."""
    if what == "module" and (inspect.isclass(obj) or inspect.isroutine(obj)):
        return True if obj.__module__ != app.env.current_document.autodoc_module else None


def setup(app):
    app.connect("autodoc-skip-member", _imported)
    app.connect("missing-reference", _public_name)
