"""The picture in docs/architecture.md, drawn from the imports: ``python -m tests.architecture`` draws it anew."""

from __future__ import annotations

import ast
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
# Where a name stands tells what it may import: itself and what stands before it.
FLOW = (
    "errors", "memory", "device_array", "devices", "addresses", "atomic", "digests", "markup", "percent",
    "rasters", "globe", "stac", "graph",
    "planet", "catalog", "cube", "inference", "objects", "products", "assess", "training", "cluster", "sample",
    "looking", "accessor",
)  # fmt: skip
_BEGIN, _END = "<!-- drawn by python -m tests.architecture -->\n", "<!-- end of the drawing -->\n"


def imports_of(path: Path) -> set[str]:
    """Modules, and names in modules, that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(path: Path) -> str:
    """Package or module at the top of the library that a file belongs to."""
    return path.relative_to(ROOT / "darts_xr").with_suffix("").parts[0]


def parts_imported(path: Path) -> set[str]:
    """Names of the flow that a file imports."""
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("darts_xr.")} & set(FLOW)


def _import_graph() -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(FLOW)
    for path in (ROOT / "darts_xr").rglob("*.py"):
        own = part_of(path)
        graph.add_edges_from((other, own) for other in parts_imported(path) if own in FLOW and other != own)
    return graph


def _about(name: str) -> str:
    """First sentence of a package's or module's docstring."""
    folder = ROOT / "darts_xr" / name
    source = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    return (ast.get_docstring(ast.parse(source.read_text())) or "").partition("\n\n")[0].replace("\n", " ")


def drawing() -> str:
    """Arrows from what is imported to what imports it, those that follow from others left out; and a table of all."""
    graph = _import_graph()
    packages = [name for name in FLOW if (ROOT / "darts_xr" / name).is_dir()]
    arrows = nx.transitive_reduction(graph.subgraph(packages))
    lines = ["```mermaid", "flowchart TD"]
    shown = {name: f"{name}_[{name}]" for name in packages}  # "graph" alone is a word of Mermaid's
    lines += [f"    {shown[a]} --> {shown[b]}" for a in packages for b in packages if arrows.has_edge(a, b)]
    lines += [f"    {shown[name]}" for name in packages if not arrows.degree(name)]
    lines += ["```", "", "| `darts_xr.` | what it is | imports |", "|---|---|---|"]
    for name in FLOW:
        used = ", ".join(other for other in FLOW if graph.has_edge(other, name))
        lines.append(f"| `{name}` | {_about(name)} | {used} |")
    return "\n".join(lines) + "\n"


def _drawn(page: str) -> str:
    head, _, rest = page.partition(_BEGIN)
    return f"{head}{_BEGIN}{drawing()}{_END}{rest.partition(_END)[2]}"


def is_current() -> bool:
    """Whether the page shows the imports as they are."""
    return PAGE.read_text() == _drawn(PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(_drawn(PAGE.read_text()))
