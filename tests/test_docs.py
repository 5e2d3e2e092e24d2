"""The documentation site builds without a warning, and what it lists is what there is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import darts_xr
from darts_xr.products.histories import HISTORY_COLUMNS
from darts_xr.products.level_one import LEVEL1_COLUMNS
from darts_xr.products.level_two import LEVEL2_COLUMNS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")  # pages from elsewhere


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, from a copy, so that nothing is written into the repository."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("_build", "__pycache__"))
    (folder / "benchmarks").mkdir()
    for name in BESIDE:
        shutil.copy(ROOT / name, folder / name)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", "html"]
    tree = {**os.environ, "PYTHONPATH": str(ROOT)}
    built = subprocess.run(command, cwd=folder, env=tree, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_pages_ask_no_other_host_for_scripts_or_styles(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text()
        tags = [*re.findall(r'<(?:script|img|iframe)[^>]*src="([^"]+)', text)]
        tags += re.findall(r'<link[^>]*rel="stylesheet"[^>]*href="([^"]+)', text)
        assert not [address for address in tags if "//" in address], page.name


def test_every_page_is_reached_from_the_first(site: Path) -> None:
    first = (site / "index.html").read_text()
    for page in DOCS.glob("*.md"):
        assert f'href="{page.stem}.html"' in first or page.stem == "index"


def test_the_reference_has_every_public_name(site: Path) -> None:
    text = " ".join(page.read_text() for page in (site / "api").glob("*.html"))
    for name in set(darts_xr.__all__) - {"__version__"}:
        assert re.search(rf'id="(?:\w+\.)+{name}"', text), name


def test_the_dictionary_has_every_column_of_the_products(site: Path) -> None:
    listed = set(re.findall(r">(\w+)</", (site / "data-dictionary.html").read_text()))
    missing = {*LEVEL1_COLUMNS, *LEVEL2_COLUMNS, *HISTORY_COLUMNS} - listed
    assert not missing


def test_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    quoted = re.findall(r"^`([^`]+)`\n: ", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) >= 20
    source = " ".join(
        path.read_text() for part in ("darts_xr", "pipelines") for path in sorted((ROOT / part).rglob("*.py"))
    )
    joined = re.sub(r"\"\s+f?\"", "", source)  # a message over several lines of code
    parts = [part.strip(" .:;") for text in quoted for part in text.split("…")]
    assert [part for part in parts if len(part) > 12 and part not in joined] == []
