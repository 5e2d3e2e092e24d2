"""The repository's promises about itself: dependencies in step, imports down the flow, a light import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
# What a package is called on conda-forge where that differs.
CONDA_NAMES = {
    "dask": "dask-core",
    "h3": "h3-py",
    "matplotlib": "matplotlib-base",
    "torch": "pytorch",
    "universal-pathlib": "universal_pathlib",
}
# Where a name stands tells what it may import: itself and what stands before it.
FLOW = (
    "errors", "addresses", "atomic", "digests", "markup", "percent",
    "rasters", "globe", "stac", "graph", "planet", "catalog",
    "cube", "inference", "objects", "products", "assess", "training", "cluster", "sample",
    "looking", "accessor",
)  # fmt: skip


def _split(requirement: str) -> tuple[str, str]:
    name, version = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", requirement.replace(" ", "")).groups()  # type: ignore[union-attr]
    return name.lower(), version


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_lists_the_dependencies_of_pyproject():
    wanted = {
        CONDA_NAMES.get(name, name): version for name, version in map(_split, _project()["dependencies"])
    }
    wanted["python"] = _project()["requires-python"]
    listed = dict(map(_split, yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]))
    assert listed == wanted


def test_constraints_pin_every_dependency_to_one_version_without_addresses():
    lines = (ROOT / "constraints.txt").read_text().split()
    pinned = dict(_split(line) for line in lines)
    assert all(version.startswith("==") for version in pinned.values())
    for requirement in (*_project()["dependencies"], *_project()["optional-dependencies"]["dev"]):
        name, _ = _split(requirement)
        assert {name, name.replace("-", "_")} & pinned.keys(), f"{name} is not pinned"
    assert pinned["torch"] == "==2.13.0"
    assert pinned["torchvision"] == "==0.28.0"


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    "path", sorted((ROOT / "darts_xr").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_run_down_the_flow(path: Path):
    parts = path.relative_to(ROOT / "darts_xr").with_suffix("").parts
    own = parts[0]
    if own == "__init__":
        return
    assert own in FLOW, f"{own} has no place in the flow"
    for name in _imports(path):
        assert not name.startswith("pipelines"), f"the library imports {name}"
        if name.startswith("darts_xr.") and (other := name.split(".")[1]) in FLOW:
            assert FLOW.index(other) <= FLOW.index(own), (
                f"{own} imports {name}, which comes later in the flow"
            )


@pytest.mark.parametrize(
    "package", ["looking", "assess", "products", "objects", "cube", "catalog", "planet", "graph"]
)
def test_packages_without_networks_import_no_torch_and_no_matplotlib(package: str):
    heavy = ("torch", "matplotlib", "dask_cuda")
    code = f"import sys, darts_xr.{package}; print([m for m in {heavy} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_import_stays_light_and_every_public_name_loads():
    code = (
        "import sys, darts_xr as dx\n"
        "heavy = [m for m in ('torch', 'matplotlib', 'rasterio', 'dask') if m in sys.modules]\n"
        "assert not heavy, heavy\n"
        "for name in dx.__all__: getattr(dx, name)\n"
        "assert set(dx.__all__) <= set(dir(dx))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_module_is_a_monster_and_none_prints():
    for path in (*(ROOT / "darts_xr").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 500, path
        assert not re.search(r"^\s*print\(", text, flags=re.MULTILINE), path
