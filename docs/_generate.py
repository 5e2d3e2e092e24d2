"""What pages take from the code at build time: lists of public names, and the rows of the data dictionary."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from _dictionary import LISTS, TABLES
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from pygments.lexers.special import TextLexer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

import darts_xr

#: Pages whose text stands outside of this folder, where GitHub shows it.
ELSEWHERE = {
    "start": "README.md",
    "results": "benchmarks/RESULTS.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
}


class PublicNames(SphinxDirective):
    """Reference of all that a package exports: a table, then (without ``:table:``) each name with its docstring."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"table": directives.flag}

    def run(self) -> list[nodes.Node]:
        """Describe functions and classes; data have their comment in the source."""
        package = import_module(self.arguments[0])
        names = [name for name in package.__all__ if not name.startswith("_")]
        lines = [f".. currentmodule:: {package.__name__}", "", ".. autosummary::", ""]
        lines += [f"   {name}" for name in names]
        for name in () if "table" in self.options else names:
            value = getattr(package, name)
            kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
            if kind == "class" and issubclass(value, BaseException):
                kind = "exception"
            lines += ["", f".. auto{kind}:: {package.__name__}.{name}"]
            lines += ["   :members:"] if kind == "class" else ["   :no-value:"] if kind == "data" else []
        found = nodes.Element()
        self.state.nested_parse(StringList(lines, self.arguments[0]), self.content_offset, found)
        return found.children


class Columns(SphinxDirective):
    """Rows of the data dictionary of one table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Lay out name, type and meaning of each column."""
        name = self.arguments[0]
        if name in LISTS:
            head, rows = ("", "meaning"), [(f"`{key}`", said) for key, said in LISTS[name].items()]
        else:
            head = ("column", "type", "meaning")
            rows = [(f"`{column}`", kind, said) for column, kind, said in TABLES[name].rows()]
        lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
        return self.parse_text_to_nodes("\n".join(lines))


def link_home(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> Any:
    """Point references to a name at its package's page, where ``darts_xr`` or a module of it is named instead."""
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py":
        return None
    name = target.rpartition(".")[2]
    objects = env.domains.python_domain.objects
    home = darts_xr._HOMES.get(name)
    if home is not None and f"darts_xr.{home}.{name}" in objects:
        node["reftarget"] = f"darts_xr.{home}.{name}"
        node["refspecific"] = False
        return env.domains.python_domain.resolve_xref(
            env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, content
        )
    return None


def read_elsewhere(app: Sphinx, page: str, source: list[str]) -> None:
    """Take a page's text from its place in the repository, with links to pages of this site."""
    if page not in ELSEWHERE:
        return
    text = (Path(app.srcdir).parent / ELSEWHERE[page]).read_text(encoding="utf-8")
    for name, file in ELSEWHERE.items():
        text = text.replace(f"]({file}", f"]({name}.md")
    source[0] = text.replace("](../docs/", "](").replace("](docs/", "](")


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx."""
    app.add_directive("public-names", PublicNames)
    app.add_directive("columns", Columns)
    app.connect("source-read", read_elsewhere)
    app.connect("missing-reference", link_home)
    app.add_lexer("mermaid", TextLexer)  # the drawing of the imports is shown as its text
    return {"parallel_read_safe": True, "parallel_write_safe": True}
