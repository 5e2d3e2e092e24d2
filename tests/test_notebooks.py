"""The notebooks as text: what they import, what they say, where they stand. The site's build executes them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from tests.environments import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.md"))
_CELL = re.compile(r"^```\{code-cell\} python\n((?:^:[^\n]*\n)*)(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def _cells(notebook: Path) -> list[str]:
    return [found[2] for found in _CELL.finditer(notebook.read_text(encoding="utf-8"))]


def _code(notebook: Path) -> ast.Module:
    return ast.parse("\n".join(_cells(notebook)))


def test_every_notebook_is_on_the_site():
    listed = re.findall(r"^notebooks/(.+)$", (ROOT / "docs" / "index.md").read_text(), flags=re.MULTILINE)
    assert listed == [notebook.stem for notebook in NOTEBOOKS]
    assert len(NOTEBOOKS) == 8


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_text_of_one_question_and_says_that_its_data_are_synthetic(notebook: Path):
    text = notebook.read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["file_format"] == "mystnb"
    prose = _CELL.sub("", body)
    titles = re.findall(r"^# (.+)$", prose, flags=re.MULTILINE)
    assert len(titles) == 1
    assert titles[0].endswith("?")
    assert "**synthetic**" in prose
    assert _cells(notebook)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_public_names_alone(notebook: Path):
    private = []
    for node in ast.walk(_code(notebook)):
        if isinstance(node, ast.Import):
            private += [alias.name for alias in node.names if "._" in f".{alias.name}"]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            private += [name for name in names if "._" in f".{name}"]
        elif isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr):
            private.append(node.attr)
    assert not private
