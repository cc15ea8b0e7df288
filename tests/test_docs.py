"""What the Markdown points at is there: relative links, their anchors, files named in code spans, make targets."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(page for room in ("docs", "bench", "examples", "tests") for page in (ROOT / room).rglob("*.md")),
    ]
)
ROOMS = (ROOT, ROOT / "geventgate")  # a file is named from here, or from the page's own folder

FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^\s)>]+)>?[^)]*\)")
NAMED = re.compile(r"`([\w.-]+(?:/[\w.-]+)*\.(?:py|md|toml|html|c|png))`")
TARGET = re.compile(r"`make ([a-z]+)[^`]*`")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """GitHub's: lower case, punctuation dropped, spaces to hyphens."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(FENCE.sub("", text))}


def broken(text: str, page: Path) -> list[str]:
    """Everything *text*, written in *page*, refers to in vain."""
    prose = FENCE.sub("", text)
    faults = []
    for link in LINK.findall(prose):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(text if file == page else file.read_text())):
            faults.append(link)
    faults += [
        name for name in NAMED.findall(prose) if not any((room / name).exists() for room in (page.parent, *ROOMS))
    ]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return faults + [f"make {target}" for target in TARGET.findall(prose) if target not in targets]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_at_is_there(page: Path) -> None:
    assert broken(page.read_text(), page) == []


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("[x](LICENSE) [x](docs/) [x](https://example.org/none.md) [x](mailto:a@b)", []),
        ("[x](none.md) and ![x](docs/none.png)", ["none.md", "docs/none.png"]),
        ("# A `b`, c!\n[x](#a-b-c) [x](#none)", ["#none"]),
        ("[x](LICENSE#none)", ["LICENSE#none"]),
        ("`setup.py` `config.py` `protocol/http1.py` `protocol/none.py`", ["protocol/none.py"]),
        ("`make test` `make none ARGS=1`", ["make none"]),
        ("```\n[x](none.md) `none.py`\n```\n`none.py`", ["none.py"]),
    ],
)
def test_broken(text: str, faults: list[str]) -> None:
    assert broken(text, ROOT / "SECURITY.md") == faults
