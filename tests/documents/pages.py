# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is written for people, taken apart: pages, their blocks, links, headings and words in code."""

from __future__ import annotations

import functools
import re
import typing as t
from pathlib import Path

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

TOP = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "roles/*/README.md", "tests/captures/README.md")
    for path in TOP.glob(pattern)
    # Made from the fragments, which are judged where they are.
    if path.name != "CHANGELOG.md"
)


class Block(t.NamedTuple):
    """A fenced block: where it is, its language, what it holds."""

    where: str
    language: str
    text: str


class Said(t.NamedTuple):
    """A link or a word in code: where it is and what it says."""

    where: str
    page: Path
    text: str


def named(path: Path, line: int | None = None) -> str:
    """Return a page, or a line of it, as an editor takes it."""
    return f"{path.relative_to(TOP)}{'' if line is None else f':{line}'}"


@functools.cache
def tokens(page: Path) -> list[Token]:
    """Return the page as Markdown's tokens."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(*languages: str) -> list[Block]:
    """Return the fenced blocks of all pages in these languages."""
    return [
        Block(named(page, token.map[0] + 1 if token.map else None), token.info, token.content)
        for page in PAGES
        for token in tokens(page)
        if token.type == "fence" and token.info in languages
    ]


def inline(page: Path) -> t.Iterator[tuple[int, Token]]:
    """Yield every token inside of paragraphs, headings and cells, with its line."""
    for token in tokens(page):
        line = token.map[0] + 1 if token.map else 0
        for child in token.children or []:
            yield line, child


def links() -> list[Said]:
    """Return where links and pictures of all pages lead."""
    found = []
    for page in PAGES:
        for line, token in inline(page):
            target = token.attrs.get("href") if token.type == "link_open" else token.attrs.get("src")
            if target:
                found.append(Said(named(page, line), page, str(target)))
    return found


def words_in_code() -> list[Said]:
    """Return what stands between backticks, on all pages."""
    return [
        Said(named(page, line), page, token.content)
        for page in PAGES
        for line, token in inline(page)
        if token.type == "code_inline"
    ]


def commands() -> list[Said]:
    """Return what can be typed: words in code, and the lines of blocks for a terminal."""
    lines = [
        Said(block.where, TOP / block.where.partition(":")[0], line)
        for block in blocks("console", "sh")
        for line in block.text.splitlines()
    ]
    return [*words_in_code(), *lines]


def cells_below(page: Path, heading: str) -> list[Said]:
    """Return the words in code of the first column, of those tables whose first column has this heading."""
    found = []
    column, head, wanted = -1, False, False
    for token in tokens(page):
        if token.type in ("thead_open", "thead_close"):
            head = token.type == "thead_open"
        elif token.type == "tr_open":
            column = -1
        elif token.type in ("th_open", "td_open"):
            column += 1
        elif token.type == "inline" and column == 0 and head:
            wanted = token.content == heading
        elif token.type == "inline" and column == 0 and wanted:
            where = named(page, token.map[0] + 1 if token.map else None)
            found += [Said(where, page, child.content) for child in token.children or [] if child.type == "code_inline"]
        elif token.type == "table_close":
            column, wanted = -1, False
    return found


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    seen: dict[str, int] = {}
    found = set()
    for token, after in zip(tokens(page), tokens(page)[1:]):
        if token.type != "heading_open":
            continue
        title = "".join(child.content for child in after.children or [])
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        again = seen.get(slug, 0)
        seen[slug] = again + 1
        found.add(f"{slug}-{again}" if again else slug)
    return frozenset(found)


@functools.cache
def role_variables() -> dict[str, frozenset[str]]:
    """Return the variables of each role, of all its entry points."""
    found = {}
    for path in sorted(TOP.glob("roles/*/meta/argument_specs.yml")):
        specs = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
        found[path.parents[1].name] = frozenset(name for spec in specs.values() for name in spec.get("options") or {})
    return found
