"""The wheel, installed outside the repository among what it declares and nothing else."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.environments import CONDA_NAMES, ROOT, Environment, build_wheel, install

pytestmark = pytest.mark.xdist_group("install")  # one process makes the environments for all
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_EXTRAS = _PROJECT["optional-dependencies"]
# Every name that users may import, and what became of it.
_LOAD_ALL = """
import importlib, json, pkgutil, darts_xr, pipelines
packages = [darts_xr, pipelines]
packages += [importlib.import_module(f"darts_xr.{m.name}") for m in pkgutil.iter_modules(darts_xr.__path__) if m.ispkg]
names = [(package, name) for package in packages for name in getattr(package, "__all__", ())]
failed = {}
for package, name in names:
    try:
        getattr(package, name)
    except Exception as error:
        failed[f"{package.__name__}.{name}"] = f"{type(error).__name__}: {error}"
print(json.dumps({"count": len(names), "failed": failed, "from": darts_xr.__file__}))
"""
# Commands of darts-xr in turn, in one process.
_IN_TURN = """
import sys
from click.testing import CliRunner
from pipelines.cli import main
for line in sys.argv[1:]:
    answer = CliRunner().invoke(main, line.split())
    assert answer.exit_code == 0, (line, answer.output, answer.exception)
    print(answer.output)
"""


def _conda_requirements() -> list[str]:
    """Packages of environment.yml under the names of the package index."""
    names = {conda: name for name, conda in CONDA_NAMES.items()}
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    found = [re.fullmatch(r"([\w.-]+?)(\W*[><=].*)?", line).group(1) for line in listed]  # type: ignore[union-attr]
    return [names.get(name, name) for name in found if name != "python"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What ``pip install darts-xr`` gives."""
    return install(wheel, tmp_path_factory.mktemp("plain") / "at", _PROJECT["dependencies"])


@pytest.fixture(scope="module")
def conda(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What ``conda env create`` gives, where notebooks run too."""
    return install(wheel, tmp_path_factory.mktemp("conda") / "at", _conda_requirements(), extra="viz")


@pytest.fixture(scope="module")
def demo(plain: Environment) -> Path:
    """A toy demo, made by the plain install."""
    told = plain.run("darts-xr", "demo", "--out", "demo", "--scenes", "3", "--size", "256", "--json")
    assert json.loads(told[told.index("{") :])["scores"]["level1"]["n_reference"] >= 0
    return plain.cwd / "demo"


def test_a_plain_install_holds_no_extra(plain: Environment) -> None:
    told = plain.run(
        "python", "-c", "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    )
    there = {canonicalize_name(name) for name in told.split()}
    base = {canonicalize_name(Requirement(line).name) for line in _PROJECT["dependencies"]}
    extra = {canonicalize_name(Requirement(line).name) for lines in _EXTRAS.values() for line in lines} - base
    assert base <= there
    assert {"kornia", "matplotlib", "pytest", "bokeh"} <= extra - there


def test_the_command_answers_in_a_plain_install(plain: Environment) -> None:
    told = plain.run("darts-xr", "--help")
    verbs = re.findall(r"^  (\w+)  ", told[told.index("Commands:") :], flags=re.MULTILINE)
    assert {"catalog", "detect", "aggregate", "coverage", "train", "validate", "report", "bench", "demo"} <= {
        *verbs
    }
    answers = plain.run("python", "-c", _IN_TURN, *(f"{verb} --help" for verb in verbs))
    assert answers.count("Usage:") == len(verbs)


def test_the_demo_runs_in_a_plain_install(demo: Path) -> None:
    assert len(list(demo.glob("run/scenes/*/quicklook.png"))) == 3
    assert list(demo.glob("run/products/*level2.gpkg"))


def test_what_is_done_with_a_run_works_in_a_plain_install(plain: Environment, demo: Path) -> None:
    commands = (
        "review demo/run --images demo/world/catalog.json --n 5 --out review --json",
        "rethreshold demo/run --landcover none --infrastructure none --threshold 0.6 --out again --json",
        "sites demo/run --out sites --json",
        "report demo/run --json",
        "verify demo/run --json",
    )
    plain.run("python", "-c", _IN_TURN, *commands)
    assert (plain.cwd / "review" / "review.html").exists()
    assert (plain.cwd / "sites" / "histories.csv").exists()
    # The figure needs the extra viz; a warning says so.
    assert not (plain.cwd / "sites" / "histories.png").exists()


def test_the_extra_for_training_holds_what_training_imports(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    requirements = [*_PROJECT["dependencies"], *_EXTRAS["train"]]
    environment = install(wheel, tmp_path_factory.mktemp("train") / "at", requirements, extra="train")
    told = json.loads(environment.run("python", "-c", _LOAD_ALL).splitlines()[-1])
    assert told["count"] > 60
    assert not {name: error for name, error in told["failed"].items() if "training" in name}


@pytest.mark.parametrize("kind", ["plain", "conda"])
def test_every_public_name_loads_or_names_its_extra(kind: str, request: pytest.FixtureRequest) -> None:
    environment: Environment = request.getfixturevalue(kind)
    told = json.loads(environment.run("python", "-c", _LOAD_ALL).splitlines()[-1])
    assert told["count"] > 60
    assert Path(told["from"]).is_relative_to(environment.folder)
    unexplained = {
        name: error for name, error in told["failed"].items() if "pip install 'darts-xr[" not in error
    }
    assert not unexplained


def test_what_readme_tells_a_notebook_user_to_run_works(conda: Environment, demo: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    section = readme[readme.index("## In a notebook") :]
    assert "darts-xr[viz]" in section or ".[viz]" in section
    source = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL).group(1)  # type: ignore[union-attr]
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "id": "c"}
    cells = [
        {**cell, "id": f"cell{number}", "source": lines}
        for number, lines in enumerate([source, "client", "client.close()"])
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    page = {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells}
    (conda.cwd / "demo").symlink_to(demo)
    (conda.cwd / "page.ipynb").write_text(json.dumps(page))
    conda.run("python", "-m", "nbconvert", "--execute", "--to", "notebook", "--inplace", "page.ipynb")
    outputs = [cell["outputs"] for cell in json.loads((conda.cwd / "page.ipynb").read_text())["cells"]]
    assert any("image/png" in output.get("data", {}) for output in outputs[0])  # the plot
    assert "workers" in json.dumps(outputs[1])
    conda.run("python", "-m", "jupyterlab", "--version")


def _third_party_imports() -> set[tuple[str, bool]]:
    """Distributions that the code imports, and whether at the top of a module."""
    owners = packages_distributions()
    found = set()
    for path in (*(ROOT / "darts_xr").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for module in modules:
                top, _, rest = module.partition(".")
                if top in sys.stdlib_module_names or top in ("darts_xr", "pipelines"):
                    continue
                name = f"odc-{rest.split('.')[0]}" if top == "odc" else owners.get(top, [top])[0]
                name = "pystac" if top == "pystac" else name
                found.add((canonicalize_name(name), node in tree.body))
    return found


def test_what_is_imported_is_declared() -> None:
    base = {canonicalize_name(Requirement(line).name) for line in _PROJECT["dependencies"]}
    users = {canonicalize_name(Requirement(line).name) for extra, lines in _EXTRAS.items() if extra != "dev"
             for line in lines}  # fmt: skip
    imported = {name for name, _ in _third_party_imports()}
    assert imported - base - users - {"dask-cuda", "pynvml", "nvidia-ml-py"} == set()
    # The engine that xarray finds for ``to_netcdf``, and what it reads with.
    never = base - imported - {"segmentation-models-pytorch", "h5netcdf", "h5py"}
    assert never == set(), "declared and not imported"


def test_the_wheel_carries_its_data_and_no_tests(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    assert "darts_xr/py.typed" in names
    assert any(name.startswith("darts_xr/inference/demo/") for name in names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "docs"))]
