"""Code blocks of README.md and docs/*.md do what they say: Python runs, command lines are those of the command.

Each page has a folder of its own with a small synthetic world under the names that the page uses, and its Python blocks
run there one after the other, in one namespace. Command lines are parsed by the command itself; quick ones also run.
What cannot be done here stands below with the reason.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import darts_xr as dx
from darts_xr.catalog import write_catalog, write_stac_geoparquet
from darts_xr.sample import SampleWorld, write_world
from pipelines import Settings, detect
from pipelines.cli import main
from tests.environments import ROOT

pytestmark = pytest.mark.xdist_group("code_blocks")  # one world for all

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^ *```(.*)\n((?:.*\n)*?) *```$", flags=re.MULTILINE)
_INDENTED = re.compile(r"^(?: {4,}|\t)(darts-xr .*(?:\n {4,}\S.*)*)", flags=re.MULTILINE)

#: Python that is compiled alone: page, how it begins, why.
PYTHON_NOT_RUN = {
    ("clusters.md", 'client = dx.start_cluster("tcp://127.0.0.1:8786")'): "needs the scheduler of the lines above it",
    ("clusters.md", "from darts_xr.cluster import gpu_resources"): "waits for workers of that scheduler",
    ("clusters.md", 'client = dx.start_cluster(\n    "slurm"'): "needs Slurm",
    ("clusters.md", "from distributed.security import Security"): "needs certificates and a scheduler that has them",
    ("sample-world.md", "from darts_xr.sample import write_world"): "six large scenes; tests/sample draw small ones",
}  # fmt: skip
#: Lines of a shell that are no darts-xr: how they begin, why they do not run.
SHELL_NOT_RUN = {
    "make ": "sets up an environment; CI runs make test",
    "python3 -m venv": "sets up an environment",
    ".venv/bin/python -m pip": "installs",
    ".venv/bin/ruff": "what CI runs",
    'python -c "from darts_xr.cluster': "tests/cluster/test_local.py compares these lines",
    "export ": "settings",
    ". ./workers.env": "settings",
    "dask ": "a scheduler or worker that stays, some on other machines or GPUs",
    "ssh ": "another machine",
    "ogr2ogr ": "a program of GDAL's, which rasterio's wheels do not bring",
    'eval "$(_DARTS_XR_COMPLETE': "for the shell of a person",
    "_DARTS_XR_COMPLETE": "for the shell of a person",
}
#: Blocks without a language that are no command lines: how they begin.
TEXTS = ("RUN/run.json", "2026-11-26T09:03:05.901Z")
#: Verbs that run here, with what the page's folder holds. Others are parsed: they take minutes, networks of one's own,
#: published inventories, verdicts of people, an object store or Slurm.
QUICK = {"catalog", "auxiliary", "aggregate", "validate", "report", "verify", "rethreshold", "review"}
_NOT_HERE = (
    "s3://",
    "Lewkowicz",
    "Willow_River",
    "DARTS_NitzeEtAl",
)  # stores, inventories, images of many years


@dataclass(frozen=True)
class Block:
    """A block of code: its page, language and text."""

    page: str
    language: str
    text: str


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for language, code in (found.groups() for found in _FENCE.finditer(text)):
            if language.startswith("{"):
                continue  # a directive of the site
            lines = code.splitlines()
            margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
            yield Block(page.name, language, "\n".join(line[margin:] for line in lines) + "\n")
        for found in _INDENTED.finditer(_FENCE.sub("", text)):
            yield Block(page.name, "sh", re.sub(r"\n +(?=darts-xr )", "\n", found[1]) + "\n")


BLOCKS = list(_blocks())


def _is_shell(block: Block) -> bool:
    return block.language in ("sh", "bash", "console") or (
        not block.language and not block.text.startswith(TEXTS)
    )


def _command_lines(block: Block) -> list[str]:
    """Lines of a shell, each whole, without comments."""
    lines = re.sub(r" *\\\n\s*|\n\s+(?=--)", " ", block.text).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _arguments(line: str) -> list[str] | None:
    """Arguments of ``darts-xr``, without the dots that stand for more; None where it is another program."""
    if not re.match(r"(\.venv/bin/)?darts-xr\s", line):
        return None
    return [word for word in shlex.split(line, comments=True)[1:] if word != "…"]


COMMANDS = [
    (block.page, arguments)
    for block in BLOCKS
    if _is_shell(block)
    for line in _command_lines(block)
    if (arguments := _arguments(line)) is not None
]
QUICK_PAGES = sorted({page for page, arguments in COMMANDS if arguments[0] in QUICK})
PYTHON_PAGES = sorted({block.page for block in BLOCKS if block.language == "python"})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a small world and a run of it, under the names of the pages."""
    folder = tmp_path_factory.mktemp("pages")
    world = write_world(folder / "demo" / "world", seed=21, scenes=4, size=320)
    items = dx.load_items(world.catalog)
    settings = Settings(out=folder / "demo" / "run", auxiliary=world.auxiliary)
    detect(items[2:], settings)
    shutil.copytree(folder / "demo" / "run", folder / "run")
    shutil.copytree(folder / "demo" / "run", folder / "RUN")
    for item in items[2:]:
        shutil.copytree(world.root / "scenes" / item.id, folder / "deliveries" / item.id)
    write_catalog(items[2:], folder / "catalog.json", title="Scenes", description="Synthetic")
    write_stac_geoparquet(items[3:], folder / "catalog.parquet")
    auxiliary = world.root / "auxiliary"
    write_catalog(
        dx.load_items(world.auxiliary), folder / "auxiliary", title="Layers", description="Synthetic"
    )
    shutil.copy(next(auxiliary.glob("dem_*.tif")), folder / "dem.tif")
    shutil.copy(next(auxiliary.glob("trends_*.tif")), folder / "tcvis.tif")
    shutil.copytree(
        auxiliary, folder / "tcvis", ignore=shutil.ignore_patterns("dem*", "land*", "*.json", "items")
    )
    shutil.copy(world.truth, folder / "inventory.gpkg")
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for one page alone, and the current folder."""
    folder = tmp_path / "page"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python_blocks_run_one_after_the_other(page: str, place: Path, monkeypatch: pytest.MonkeyPatch):
    world = SampleWorld(place / "demo" / "world")
    # What a reader of the page has at this point.
    names: dict[str, Any] = {"dx": dx, "item": dx.load_items(world.catalog)[2]}
    clients: list[Any] = []
    start = dx.start_cluster

    def started(*given: Any, **options: Any) -> Any:
        """What a page starts is closed after it, also where a later block gives the name to another."""
        clients.append(start(*given, **options))
        return clients[-1]

    monkeypatch.setattr(dx, "start_cluster", started)
    try:
        for block in (block for block in BLOCKS if (block.page, block.language) == (page, "python")):
            code = compile(block.text, page, "exec")
            if any(page == name and block.text.startswith(text) for name, text in PYTHON_NOT_RUN):
                continue
            exec(code, names)
    finally:
        for client in reversed(clients):
            client.close()


def test_every_exception_is_still_needed():
    for page, start in PYTHON_NOT_RUN:
        assert any(b.page == page and b.text.startswith(start) for b in BLOCKS), (page, start)
    lines = [line for block in BLOCKS if _is_shell(block) for line in _command_lines(block)]
    for start in SHELL_NOT_RUN:
        assert any(line.startswith(start) for line in lines), start
    for start in TEXTS:
        assert any(block.text.startswith(start) for block in BLOCKS), start


def test_every_line_of_a_shell_is_a_command_of_ours_or_has_a_reason():
    for block in filter(_is_shell, BLOCKS):
        for line in _command_lines(block):
            known = _arguments(line) is not None or line.startswith(tuple(SHELL_NOT_RUN))
            assert known, f"{block.page}: {line}"


@pytest.mark.parametrize(
    ("page", "arguments"), COMMANDS, ids=lambda value: value if isinstance(value, str) else " ".join(value)[:60]
)  # fmt: skip
def test_a_command_line_is_one_that_the_command_takes(page: str, arguments: list[str], place_of_names: Path):
    command: Any = main
    rest, path = list(arguments), []
    while isinstance(command, click.Group):
        name = rest.pop(0)
        path.append(name)
        command = command.get_command(click.Context(command), name)
        assert command is not None, f"{page}: there is no verb {' '.join(path)}"
    try:
        command.make_context(" ".join(path), rest)
    except click.BadParameter as error:
        if not re.search(r"does not exist|No such file", str(error)):  # the reader's own files are not here
            raise


@pytest.fixture
def place_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", QUICK_PAGES)
def test_quick_commands_run(page: str, place: Path):
    for _, arguments in (found for found in COMMANDS if found[0] == page and found[1][0] in QUICK):
        if any(word.startswith(_NOT_HERE) for word in arguments):
            continue
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, f"{arguments}: {done.output}"
    assert os.listdir(place)


def test_python_in_the_pages_is_python():
    for block in BLOCKS:
        if block.language == "python":
            ast.parse(block.text)
