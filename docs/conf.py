"""Sphinx: how the site of the documentation is built; ``make docs`` does it, warnings are errors."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # this tree, whatever is installed

project = "darts_xr"
author = "The authors of darts_xr"
release = version = version_of("darts-xr")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "_generate"]
exclude_patterns = ["_build"]
# References between our own pages are checked; types of other projects are not looked up on their servers.
nitpicky = True
nitpick_ignore = [
    ("py:class", "collections.abc.Callable")
]  # the type of a field, which autodoc makes a reference

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = False
autodoc_typehints = "none"  # the docstrings have them
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

smartquotes = False
html_theme = "furo"
html_title = f"darts_xr {release}"
html_copy_source = False
html_show_sourcelink = False
