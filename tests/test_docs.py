"""The documentation site: it builds without a warning, is of one piece, and says what the code says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import pytest

import darts_xr
from tests.environments import ROOT

# Built once; that executes the notebooks, which takes its time on a busy machine.
pytestmark = [pytest.mark.xdist_group("docs"), pytest.mark.timeout(1800)]

DOCS = ROOT / "docs"
_PACKAGES = (
    "planet", "catalog", "cube", "inference", "objects", "products", "assess", "looking", "training", "cluster",
    "sample",
)  # fmt: skip
_MISSING_PART = "…"  # stands for names and numbers in a quoted message


def build(out: Path, execute: bool) -> Path:
    """Build the site; warnings are errors. The notebooks are executed or their code alone is shown."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),  # for the notebooks' kernels
        "DARTS_XR_DOCS": "all" if execute else "text",
    }
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", out / "doctrees", "docs", out / "html"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "html"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("docs"), execute=True)


def _attributes(page: Path, pattern: str) -> list[str]:
    return re.findall(pattern, page.read_text(encoding="utf-8"))


def test_the_site_asks_no_other_host_for_anything(site: Path):
    asked = r"<(?:script|img|iframe|source|embed)\b[^>]*?\bsrc=\"([^\"]+)\"|<link\b[^>]*?\bhref=\"([^\"]+)\""
    for page in site.rglob("*.html"):
        found = ["".join(pair) for pair in re.findall(asked, page.read_text(encoding="utf-8"))]
        assert found
        assert not [address for address in found if re.match(r"(https?:)?//", address)], page
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(url\(\s*['\"]?|@import\s+['\"])(https?:)?//", text), style


def test_the_notebooks_were_executed_and_show_their_figures(site: Path):
    notebooks = sorted((DOCS / "notebooks").glob("*.md"))
    assert notebooks
    for notebook in notebooks:
        page = (site / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        figures = re.findall(r"<img [^>]*src=\"(\.\./_images/[^\"]+\.png)\"", page)
        assert len(figures) >= 2, notebook.stem
        assert all((site / "notebooks" / figure).resolve().exists() for figure in figures)


def test_every_link_within_the_site_leads_somewhere(site: Path):
    ids = {
        page.resolve(): set(_attributes(page, r"\bid=\"([^\"]+)\""))
        for page in site.rglob("*.html")
    }  # fmt: skip
    followed = 0
    for page in ids:
        for address in _attributes(page, r"<a\b[^>]*?\bhref=\"([^\"]+)\""):
            if re.match(r"[a-z]+:", address):
                continue
            place, _, anchor = unquote(address).partition("#")
            target = (page.parent / place).resolve() if place else page
            assert target.exists(), f"{page}: {address}"
            if anchor and target in ids:
                assert anchor in ids[target], f"{page}: {address}"
                followed += 1
    assert followed > 100


def test_every_public_name_has_its_place_in_the_reference(site: Path):
    described = {
        name
        for page in (site / "api").glob("*.html")
        for name in _attributes(page, r"\bid=\"((?:darts_xr|pipelines)\.[\w.]+)\"")
    }
    for package in (*(f"darts_xr.{name}" for name in _PACKAGES), "pipelines"):
        exported = {f"{package}.{name}" for name in import_module(package).__all__}
        assert exported <= described, package
    assert {f"darts_xr.{home}.{name}" for name, home in darts_xr._HOMES.items()} <= described
    assert {"darts_xr.accessor.DatasetLooks.rgb", "darts_xr.errors.SceneError"} <= described


def _messages() -> list[str]:
    """Texts in the code that are no docstrings, with a mark for each part that is filled in."""
    found = []
    for path in (*(ROOT / "darts_xr").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else _MISSING_PART for p in node.values]
                found.append("".join(map(str, parts)))
            elif (
                isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            ):
                found.append(node.value)
    return [re.sub(r"%(\.\d)?[sdf]", _MISSING_PART, text).replace("%%", "%") for text in found]


def test_every_message_of_the_troubleshooting_page_is_still_one_of_the_code():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^`(.+)`\n: ", page, flags=re.MULTILINE)
    assert len(quoted) > 50
    messages = _messages()
    for message in quoted:
        parts = [re.escape(part.strip()) for part in message.split(_MISSING_PART)]
        form = re.compile(".*?".join(parts), flags=re.DOTALL)
        assert any(form.search(text) for text in messages), message
