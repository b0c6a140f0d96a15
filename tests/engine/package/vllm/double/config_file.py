# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vLLM's ``--config FILE.yaml``, as roles/vllm writes it: a flat mapping of scalars, booleans and lists of scalars.

A strict small parser, because PyYAML may be missing and takes long to import. What it does not know (nested mappings,
block scalars, anchors) is left to PyYAML where that is there, and refused where it is not: never guessed.
"""

from __future__ import annotations

import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing as t

    Value = t.Union[bool, str, list[str]]

_KEY = re.compile(r"""(?P<key>[A-Za-z_][\w.-]*|'[^']+'|"[^"\\]+"):(?: +(?P<rest>.*)|)$""")
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_NULL = ("", "~", "null")
# Numbers that YAML 1.1 reads otherwise than they are written.
_ODD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|0[bxo]\w+|[0-9][0-9_]*_[0-9_]*|[0-9]+(:[0-5]?[0-9])+)(\.[0-9_]*)?$")


class ConfigError(Exception):
    """The file is no such mapping; the message names file and line."""


class _BeyondUs(Exception):
    """YAML that this parser does not know."""


def load(path: str) -> list[tuple[str, Value]]:
    """Keys and values in the file's order; scalars as text, as vLLM hands them to its argument parser."""
    if path.rsplit(".", 1)[-1] not in ("yaml", "yml"):
        raise ConfigError(f"Config file must be of a yaml/yml type. {path.rsplit('.', 1)[-1]} supplied")
    with open(path, encoding="utf-8") as handle:
        text = handle.read()
    try:
        return parse(text)
    except _BeyondUs as reason:
        return _with_pyyaml(text, path, str(reason))


def parse(text: str) -> list[tuple[str, Value]]:
    """The mapping in ``text``; _BeyondUs with the line for anything else."""
    lines = _Lines(text)
    found: list[tuple[str, Value]] = []
    while lines.more():
        number, line = lines.take()
        match = None if line[:1] in (" ", "\t", "-") else _KEY.match(line)
        if match is None:
            raise _BeyondUs(f"line {number}: {line.strip()!r} is no `key: value`")
        key = match["key"].strip("'\"")
        if any(key == other for other, _value in found):
            raise _BeyondUs(f"line {number}: {key!r} is there twice")
        found.append((key, _value(_without_comment(match["rest"] or ""), lines, number)))
    return found


class _Lines:
    """Lines that say something, with their numbers."""

    def __init__(self, text: str) -> None:
        self._lines = [
            (number, line.rstrip())
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip() and not line.lstrip().startswith("#") and line.strip() not in ("---", "...")
        ]
        self._next = 0

    def more(self) -> bool:
        return self._next < len(self._lines)

    def take(self) -> tuple[int, str]:
        self._next += 1
        return self._lines[self._next - 1]

    def continues(self) -> bool:
        """Whether the next line belongs to the scalar before it: indented, and no item of a list."""
        if not self.more():
            return False
        line = self._lines[self._next][1]
        return line.startswith(" ") and not line.lstrip().startswith("- ")

    def is_item(self) -> bool:
        return self.more() and bool(re.match(r" *-( |$)", self._lines[self._next][1]))


def _value(rest: str, lines: _Lines, number: int) -> Value:
    if not rest and lines.is_item():
        items = []
        while lines.is_item():
            number, line = lines.take()
            items.append(_as_text(_scalar(_without_comment(line.lstrip()[1:].strip()), lines, number)))
        return items
    if rest.startswith("["):
        return _flow_list(rest, number)
    return _scalar(rest, lines, number)


def _scalar(text: str, lines: _Lines, number: int) -> bool | str:
    if text[:1] in ("'", '"'):
        return _quoted(text, lines, number)
    while lines.continues():  # a long text, folded
        text = f"{text} {_without_comment(lines.take()[1].strip())}".lstrip()
    if text[:1] in tuple("&*!|>{}[]%@`,?") or text.startswith("- ") or ": " in text or text.endswith(":"):
        raise _BeyondUs(f"line {number}: {text!r} is more than a plain scalar")
    if _ODD_NUMBER.match(text):
        raise _BeyondUs(f"line {number}: the number {text!r} means another one in YAML")
    lower = text.lower()
    if lower in _TRUE or lower in _FALSE:
        return lower in _TRUE
    return "None" if lower in _NULL else text


def _quoted(text: str, lines: _Lines, number: int) -> str:
    quote = text[0]
    pattern = r"'((?:[^']|'')*)'$" if quote == "'" else r'"((?:[^"\\]|\\.)*)"$'
    while not re.match(pattern, text):
        if not lines.continues():
            raise _BeyondUs(f"line {number}: the quotation is not closed, or something follows it")
        text = f"{text} {lines.take()[1].strip()}"
    if quote == "'":
        return text[1:-1].replace("''", "'")
    try:
        return str(json.loads(text))
    except ValueError:
        raise _BeyondUs(f"line {number}: escapes of YAML that JSON does not have") from None


def _flow_list(text: str, number: int) -> list[str]:
    inner = re.match(r"\[([^][{}'\"#&*!|>]*)\]$", text)
    if inner is None:
        raise _BeyondUs(f"line {number}: {text!r} is no list of plain scalars")
    items = [item.strip() for item in inner[1].split(",")]
    return [_as_text(_scalar(item, _Lines(""), number)) for item in items if item]


def _as_text(value: bool | str) -> str:
    """As Python prints it, which is what vLLM hands on for the items of a list."""
    return str(value)


def _without_comment(text: str) -> str:
    """A plain scalar ends at `` #``; within quotes it does not."""
    if text[:1] in ("'", '"'):
        match = re.match(r"""('(?:[^']|'')*'|"(?:[^"\\]|\\.)*")\s+#.*$""", text)
        return match[1] if match else text.strip()
    return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].strip()


def _with_pyyaml(text: str, path: str, reason: str) -> list[tuple[str, Value]]:
    try:
        import yaml
    except ImportError:
        raise ConfigError(f"{path}: {reason}, and PyYAML, which would know, is not here") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no mapping")
    return [(str(key), _as_vllm_would(value)) for key, value in content.items()]


def _as_vllm_would(value: t.Any) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        return [str(item) for item in value]
    return json.dumps(value) if isinstance(value, dict) else str(value)
