"""The documentation site: ``make docs``."""

from darts_xr import __version__

project = "darts_xr"
copyright = "the authors of darts_xr"
release = __version__
extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"darts_xr {release}"
autosummary_generate = True
numpydoc_show_class_members = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Links to files beside docs/; Mermaid, which draws with a script of another host, so that its text is shown instead.
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]
