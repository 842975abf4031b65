"""README.md and docs/: short enough to be read, and no link leads nowhere.

| what | test |
|---|---|
| README.md has at most 150 lines, a page of docs/ at most 210 | test_length |
| every link to a file of the project leads to one | test_links |
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_length(page):
    assert len(page.read_text("utf-8").splitlines()) <= (150 if page.name == "README.md" else 210)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target
