# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Text tables for people: columns as wide as their widest cell, numbers on the right."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

UNKNOWN = "-"


def format_table(headers: t.Sequence[str], rows: t.Iterable[t.Sequence[object]]) -> str:
    """Lay rows out under their headers, two spaces between columns, without a newline at the end.

    Columns that hold nothing but numbers (and unknown values) are aligned right, all others left. ``None`` is shown as
    ``-``. Lines carry no trailing spaces. A row that is not as long as the headers raises ``ValueError``.
    """
    columns = len(headers)
    values = [list(row) for row in rows]
    for row in values:
        if len(row) != columns:
            raise ValueError(f"a row has {len(row)} cells, the table has {columns} columns: {row!r}")
    right = [_is_number_column([row[i] for row in values]) for i in range(columns)]
    cells = [[str(header) for header in headers]] + [[_cell(value) for value in row] for row in values]
    widths = [max(len(line[i]) for line in cells) for i in range(columns)]
    lines = []
    for line in cells:
        padded = [
            cell.rjust(width) if is_right else cell.ljust(width) for cell, width, is_right in zip(line, widths, right)
        ]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


class TableError(NumapinError):
    """What was given to be shown is not what the table shows."""


def topology_table(numa: object) -> str:
    """Show the facts of one host as ``numactl -H`` does: nodes, the GPUs on them, distances; then the warnings.

    ``numa`` has the shape of ``ansible_facts['numa']``; anything else raises ``TableError``.
    """
    if not isinstance(numa, dict) or not isinstance(numa.get("nodes"), list):
        raise TableError(
            f"topology_table got {_shown(numa)}; give it ansible_facts['numa'], as the module"
            " numapin.inference.numa_facts returns it"
        )
    try:
        return "\n\n".join(_topology_parts(numa))
    except (KeyError, TypeError, AttributeError) as error:
        raise TableError(
            f"topology_table got facts it cannot read ({type(error).__name__}: {error}); gather them with the module"
            " numapin.inference.numa_facts of this version of the collection"
        ) from error


def _topology_parts(numa: dict[str, t.Any]) -> list[str]:
    nodes = numa["nodes"]
    gpus = numa["gpus"]
    parts = [_node_table(nodes, gpus)]
    distances = {node["id"]: {entry["node"]: entry["distance"] for entry in node["distances"]} for node in nodes}
    columns = sorted({other for row in distances.values() for other in row})
    if columns:
        rows = [[number, *(row.get(other) for other in columns)] for number, row in distances.items()]
        parts.append("node distances\n" + format_table(["node", *map(str, columns)], rows))
    if gpus:
        parts.append(_gpu_table(gpus))
    if numa["warnings"]:
        parts.append("warnings\n" + "\n".join(f"- {warning}" for warning in numa["warnings"]))
    return parts


def _node_table(nodes: list[dict[str, t.Any]], gpus: list[dict[str, t.Any]]) -> str:
    headers = ["node", "kind", "packages", "CPUs", "CPU list", "memory MiB", "free MiB", "GPUs"]
    rows = [
        [
            node["id"],
            node["kind"].replace("_", " "),
            ",".join(str(package) for package in node["package_ids"]),
            node["cpu_count"],
            node["cpus"],
            node["memory_total_mib"],
            node["memory_free_mib"],
            sum(gpu["node"] == node["id"] for gpu in gpus),
        ]
        for node in nodes
    ]
    return format_table(headers, rows)


def _gpu_table(gpus: list[dict[str, t.Any]]) -> str:
    headers = ["GPU", "node", "said by", "memory MiB", "name", "UUID"]
    rows = [
        [
            gpu["pci_address"],
            gpu["node"],
            gpu["node_source"] if gpu["node"] is not None else None,
            gpu["memory_total_mib"],
            gpu["name"] or f"{gpu['vendor']} (name unknown)",
            gpu["uuid"],
        ]
        for gpu in gpus
    ]
    return format_table(headers, rows)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _cell(value: object) -> str:
    if value is None:
        return UNKNOWN
    return " ".join(str(value).split()) or UNKNOWN


def _is_number_column(values: list[object]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(_is_number(value) for value in known)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
