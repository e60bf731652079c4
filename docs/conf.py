"""Sphinx: MyST pages, numpydoc docstrings, doctests."""

from __future__ import annotations

from optalloc import __version__

project = "optalloc"
author = "The optalloc authors"
copyright = "The optalloc authors"
release = __version__
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"optalloc {release}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
doctest_global_setup = "import optalloc as oa\nfrom optalloc import *"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
suppress_warnings = ["ref.python"]
