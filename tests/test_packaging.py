"""The repository's promises about itself: dependencies in step, imports down the flow, a light import."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from darts_xr.sample import SampleWorld
from tests import architecture
from tests.architecture import FLOW
from tests.environments import CONDA_NAMES, ROOT


def _split(requirement: str) -> tuple[str, str]:
    name, version = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", requirement.replace(" ", "")).groups()  # type: ignore[union-attr]
    return name.lower(), version


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_lists_the_dependencies_of_pyproject_and_what_notebooks_need():
    lines = (*_project()["dependencies"], *_project()["optional-dependencies"]["viz"])
    wanted = {CONDA_NAMES.get(name, name): version for name, version in map(_split, lines)}
    wanted["python"] = _project()["requires-python"]
    listed = dict(map(_split, yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]))
    assert listed == wanted


def test_constraints_pin_every_dependency_to_one_version_without_addresses():
    lines = (ROOT / "constraints.txt").read_text().split()
    pinned = dict(_split(line) for line in lines)
    assert all(version.startswith("==") for version in pinned.values())
    extras = _project()["optional-dependencies"]
    for requirement in (
        *_project()["dependencies"],
        *extras["dev"],
        *extras["train"],
        *extras["viz"],
        *extras["docs"],
    ):
        name, _ = _split(requirement)
        assert {name, name.replace("-", "_")} & pinned.keys(), f"{name} is not pinned"
    assert pinned["torch"] == "==2.13.0"
    assert pinned["torchvision"] == "==0.28.0"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "darts_xr").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_run_down_the_flow(path: Path):
    own = architecture.part_of(path)
    if own == "__init__":
        return
    assert own in FLOW, f"{own} has no place in the flow"
    assert not [name for name in architecture.imports_of(path) if name.startswith("pipelines")]
    late = [name for name in architecture.parts_imported(path) if FLOW.index(name) > FLOW.index(own)]
    assert not late, f"{own} imports {late}, which come later in the flow"


def test_the_architecture_page_shows_the_imports_as_they_are():
    assert architecture.is_current(), "run: python -m tests.architecture"


def test_packages_without_networks_import_no_torch_and_no_matplotlib():
    packages = ("graph", "planet", "catalog", "cube", "objects", "products", "assess", "looking")
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        "for package in sys.argv[1:]:\n"
        "    import_module(f'darts_xr.{package}')\n"
        "    print(package, [m for m in ('torch', 'matplotlib', 'dask_cuda') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, *packages], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines() == [f"{package} []" for package in packages]


def test_import_stays_light_and_every_public_name_loads():
    code = (
        "import sys, darts_xr as dx\n"
        "heavy = [m for m in ('torch', 'matplotlib', 'rasterio', 'dask') if m in sys.modules]\n"
        "assert not heavy, heavy\n"
        "for name in dx.__all__: getattr(dx, name)\n"
        "assert set(dx.__all__) <= set(dir(dx))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_catalogue_on_disk_is_read_without_what_addresses_need(world: SampleWorld):
    code = (
        "import sys, darts_xr as dx\n"
        "assert len(dx.load_items(sys.argv[1])) == 2\n"
        "slow = [m for m in ('pystac_client', 'jsonschema') if m in sys.modules]\n"  # seconds, beside JupyterLab
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code, world.catalog], check=True)


def test_no_module_is_a_monster_and_none_prints():
    for path in (*(ROOT / "darts_xr").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 500, path
        assert not re.search(r"^\s*print\(", text, flags=re.MULTILINE), path
