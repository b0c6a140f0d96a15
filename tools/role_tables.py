# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write the table of every variable of each role into its README, from meta/argument_specs.yml.

Usage: ``python tools/role_tables.py [--check]``. What is between the two marks of a README is ours. ``--check`` writes
nothing, and fails where a table is not what would be written.
"""

from __future__ import annotations

import json
import sys
import typing as t
from pathlib import Path

import yaml
from antsibull_docs_parser import dom
from antsibull_docs_parser.md import MDFormatter, to_md
from antsibull_docs_parser.parser import Context, parse
from typing_extensions import override

ROLES = Path(__file__).resolve().parent.parent / "roles"
BEGIN = "<!-- every variable: from meta/argument_specs.yml, by `make tables` -->"
END = "<!-- end of every variable -->"
# A default that is longer, or is worked out, is better read where its comment stands.
LONGEST_DEFAULT = 40
IN_DEFAULTS = "see [defaults](defaults/main.yml)"

Options = dict[str, dict[str, t.Any]]


class _Plain(MDFormatter):
    """Ansible's markup as Markdown that a person would write: backticks, nothing escaped but the table's own sign."""

    def format_text(self, part: dom.TextPart) -> str:
        return part.text.replace("|", "\\|")

    def format_code(self, part: dom.CodePart) -> str:
        return code(part.text)

    def format_bold(self, part: dom.BoldPart) -> str:
        return f"**{part.text}**"

    def format_italic(self, part: dom.ItalicPart) -> str:
        return f"*{part.text}*"

    def format_url(self, part: dom.URLPart) -> str:
        return f"<{part.url}>"

    def format_link(self, part: dom.LinkPart) -> str:
        return f"[{part.text}]({part.url})"

    @override
    def format_option_name(self, part: dom.OptionNamePart, url: str | None) -> str:
        return code(part.name if part.value is None else f"{part.name}={part.value}")

    @override
    def format_return_value(self, part: dom.ReturnValuePart, url: str | None) -> str:
        return code(part.name if part.value is None else f"{part.name}={part.value}")

    def format_option_value(self, part: dom.OptionValuePart) -> str:
        return code(part.value)

    def format_env_variable(self, part: dom.EnvVariablePart) -> str:
        return code(part.name)

    @override
    def format_plugin(self, part: dom.PluginPart, url: str | None) -> str:
        return code(part.plugin.fqcn)

    @override
    def format_module(self, part: dom.ModulePart, url: str | None) -> str:
        return code(part.fqcn)

    def format_error(self, part: dom.ErrorPart) -> str:
        raise ValueError(part.message)


def code(text: str) -> str:
    """Return ``text`` as code in a cell of a table, also where it holds backticks itself."""
    fence = "``" if "`" in text else "`"
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|")


def sentences(description: str | list[str]) -> str:
    """Return a description, one paragraph after the other, as one cell."""
    paragraphs = [description] if isinstance(description, str) else description
    parsed = parse(paragraphs, Context(), errors="exception")
    return " ".join(to_md(parsed, formatter=_Plain(), par_sep=" ").split())


def default_of(option: dict[str, t.Any]) -> str:
    """Return what stands in the column of defaults."""
    if option.get("required"):
        return "required"
    if "default" not in option:
        return "none"
    value = option["default"]
    if isinstance(value, str) and "{{" in value:
        return IN_DEFAULTS
    # A text that YAML would read as something else, such as a mode, needs its quotes in the inventory too.
    plain = isinstance(value, str) and yaml.safe_load(value or "''") == value and value
    text = value if plain else json.dumps(value, ensure_ascii=False)
    return code(text) if "{{" not in text and len(text) <= LONGEST_DEFAULT else IN_DEFAULTS


def type_of(option: dict[str, t.Any]) -> str:
    """Return the type, with that of a list's elements."""
    return f"list of {option['elements']}" if option.get("elements") else str(option["type"])


def meaning_of(option: dict[str, t.Any]) -> str:
    """Return the description, with the values it may have."""
    text = sentences(option["description"])
    if option.get("choices"):
        choices = ", ".join(code(str(choice) or '""') for choice in option["choices"])
        text = f"{text} One of {choices}."
    return text


def suboptions(name: str, option: dict[str, t.Any]) -> t.Iterator[tuple[str, dict[str, t.Any]]]:
    """Yield an option and all below it, by its path."""
    yield name, option
    for below, inner in (option.get("options") or {}).items():
        yield from suboptions(f"{name}[].{below}" if option["type"] == "list" else f"{name}.{below}", inner)


def every_option(role: Path) -> Options:
    """Return the options of all entry points, in the order in which they are written, those of ``main`` first."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    options: Options = {}
    for entry_point in sorted(specs, key=lambda name: name != "main"):
        for name, option in (specs[entry_point].get("options") or {}).items():
            options.setdefault(name, option)
    return options


def table(options: Options) -> str:
    """Return the table of ``options``, in the order of the alphabet: it is looked things up in."""
    lines = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| {code(path)} | {type_of(inner)} | {default_of(inner)} | {meaning_of(inner)} |"
        for name in sorted(options)
        for path, inner in suboptions(name, options[name])
    ]
    return "\n".join(lines)


def with_table(readme: str, role: Path) -> str:
    """Return the text of a README with its table anew, in a section of its own where it had none."""
    if BEGIN not in readme or END not in readme:
        readme = f"{readme.rstrip()}\n\n## Every variable\n\n{BEGIN}\n{END}\n"
    before, _begin, rest = readme.partition(BEGIN)
    _old, _end, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(every_option(role))}\n\n{END}{after}"


def main() -> None:
    """Write the tables, or say which are not up to date."""
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit("usage: python tools/role_tables.py [--check]")
    stale = []
    for role in sorted(path for path in ROLES.iterdir() if path.is_dir()):
        readme = role / "README.md"
        text = readme.read_text(encoding="utf-8")
        wanted = with_table(text, role)
        if text == wanted:
            continue
        stale.append(role.name)
        if not sys.argv[1:]:
            readme.write_text(wanted, encoding="utf-8")
    if sys.argv[1:] and stale:
        sys.exit(f"tables that are not what meta/argument_specs.yml says: {', '.join(stale)}. Run `make tables`")
    print(f"tables of every variable: {', '.join(stale) + ' written' if stale else 'all up to date'}")


if __name__ == "__main__":
    main()
