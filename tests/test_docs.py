"""The documentation site builds without a warning, and what it lists is what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import darts_xr
import darts_xr.assess
import darts_xr.training
import pipelines
from darts_xr.products.histories import HISTORY_COLUMNS
from darts_xr.products.level_one import LEVEL1_COLUMNS
from darts_xr.products.level_two import LEVEL2_COLUMNS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, from a copy: pages of functions are written beside the sources."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("_build", "generated"))
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", "html"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_pages_ask_no_other_host_for_scripts_or_styles(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 80
    for page in pages:
        tags = re.findall(
            r"<(?:script|img|iframe)[^>]*src=\"([^\"]+)|<link[^>]*href=\"([^\"]+)", page.read_text()
        )
        assert not [address for pair in tags for address in pair if "//" in address], page.name


def test_every_page_is_reached_from_the_first(site: Path) -> None:
    first = (site / "index.html").read_text()
    for page in DOCS.glob("*.md"):
        assert f'href="{page.stem}.html"' in first or page.stem == "index"


def test_the_reference_lists_every_public_name() -> None:
    text = (DOCS / "api.md").read_text()
    for module in (darts_xr, pipelines, darts_xr.assess, darts_xr.training):
        part = text.split(f".. currentmodule:: {module.__name__}\n")[1].split("```")[0]
        listed = re.findall(r"^   (\w+)$", part, re.MULTILINE)
        assert sorted(listed) == sorted(set(module.__all__) - {"__version__"})


def test_the_dictionary_has_every_column_of_the_products() -> None:
    listed = set(re.findall(r"`(\w+)`", (DOCS / "columns.md").read_text()))
    missing = {*LEVEL1_COLUMNS, *LEVEL2_COLUMNS, *HISTORY_COLUMNS} - listed
    assert not missing


def test_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    quoted = re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) >= 20
    source = " ".join(
        path.read_text() for part in ("darts_xr", "pipelines") for path in sorted((ROOT / part).rglob("*.py"))
    )
    joined = re.sub(r"\"\s+f?\"", "", source)  # a message over several lines of code
    assert [text for text in quoted if text not in joined] == []
