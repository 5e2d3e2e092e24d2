"""Sphinx: how the site of the documentation is built; ``make docs`` does it, warnings are errors."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # this tree, whatever is installed

project = "darts_xr"
author = "The authors of darts_xr"
release = version = version_of("darts-xr")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "_generate"]
exclude_patterns = ["_build"]
# References between our own pages are checked; types of other projects are not looked up on their servers.
nitpicky = True
nitpick_ignore = [
    ("py:class", "collections.abc.Callable")
]  # the type of a field, which autodoc makes a reference

# Notebooks are executed as they are read, those that did not change since the last build excepted. DARTS_XR_DOCS=text
# builds the site without: their code is shown, and nothing of it is run.
EXECUTED = os.environ.get("DARTS_XR_DOCS", "all") != "text"
nb_execution_mode = "auto" if EXECUTED else "off"
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds a cell
nb_execution_in_temp = True
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # would be fetched from other hosts
# Threads that wait for each other burn the cores of a shared machine: one in the notebooks, none that spins in workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if EXECUTED and "DARTS_XR_NOTEBOOKS" not in os.environ:
    # One synthetic world and one run for all of them; the first that needs it makes it.
    os.environ["DARTS_XR_NOTEBOOKS"] = tempfile.mkdtemp(prefix="darts_xr_notebooks_")
    atexit.register(shutil.rmtree, os.environ["DARTS_XR_NOTEBOOKS"], ignore_errors=True)

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
