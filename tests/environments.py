"""Virtual environments that hold what pip would install for some requirements, and nothing else.

Their files are links to those of the environment that runs the tests: one costs seconds, no disk and no network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
_SOURCES = ("darts_xr", "pipelines", "pyproject.toml", "README.md", "LICENSE")
# What a package is called on conda-forge where that differs.
CONDA_NAMES = {
    "dask": "dask-core",
    "h3": "h3-py",
    "matplotlib": "matplotlib-base",
    "torch": "pytorch",
    "universal-pathlib": "universal_pathlib",
}


@dataclass(frozen=True)
class Environment:
    """A virtual environment; what runs in it starts in ``cwd`` and sees nothing of this repository."""

    folder: Path
    cwd: Path

    @property
    def site_packages(self) -> Path:
        (found,) = self.folder.glob("lib/python3*/site-packages")
        return found

    def run(self, *command: str) -> str:
        """Run a program of the environment; what it wrote to both streams, which an error shows too."""
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")
        done = subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=self.cwd,
            env={name: value for name, value in os.environ.items() if name not in hidden},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout


def build_wheel(folder: Path) -> Path:
    """Build the wheel, from a copy: setuptools leaves folders among the sources."""
    copy = folder / "source"
    copy.mkdir()
    for name in _SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    _pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(copy))
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path, requirements: Iterable[str], *, extra: str = "") -> Environment:
    """Make an environment of the requirements and install the wheel there; pip refuses where one is missing."""
    folder.mkdir()
    made = Environment(folder / "venv", folder)
    venv.create(made.folder, symlinks=True)
    for found in _with_dependencies(requirements):
        _link(found, made.site_packages)
    target = f"{wheel}[{extra}]" if extra else str(wheel)
    _pip("--python", str(made.folder), "install", "--no-index", target)
    return made


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _with_dependencies(requirements: Iterable[str]) -> list[Distribution]:
    """Distributions of this environment that the requirements ask for, directly or not."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for extra in ({"", *wanted.extras}) - {known for owner, known in seen if owner == name}:
            seen.add((name, extra))
            found[name] = distribution(name)
            needs = map(Requirement, found[name].requires or ())
            waiting += [
                need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})
            ]
    return list(found.values())


def _link(found: Distribution, site_packages: Path) -> None:
    """Link a distribution's files, but for its programs: they start with the path of another Python."""
    there, programs = os.path.abspath(found.locate_file("")), str(site_packages.parents[2] / "bin")
    for file in found.files or ():
        place = os.path.normpath(os.path.join(site_packages, file))
        if os.path.dirname(place) == programs:
            continue
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if not os.path.lexists(place):  # distributions of one namespace share files
            os.symlink(os.path.normpath(os.path.join(there, file)), place)
