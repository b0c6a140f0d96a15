# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An observed machine as tests read it: our facts, the sections its tools printed, and a comparison that counts."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import pathlib
import re
import typing as t

from machines import shapes
from machines.observe import OBSERVED, THIS_MACHINE

Facts = dict[str, t.Any]
PCI_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
# Values compared so far, by machine.
COMPARED: collections.Counter[str] = collections.Counter()


class Tools:
    """What the script what-tools-say printed: sections, each the output of one tool."""

    def __init__(self, text: str) -> None:
        self._sections = dict(part.partition("\n")[::2] for part in text.split("==== ")[1:])

    def text(self, section: str) -> str:
        """A section; empty when the tool is missing or had nothing to say."""
        return self._sections[section].strip("\n")

    def table(self, section: str) -> dict[str, str]:
        """A section of lines "NAME<tab>VALUE"."""
        pairs = (line.partition("\t") for line in self.text(section).splitlines())
        return {name: value.strip() for name, _tab, value in pairs}

    @functools.cached_property
    def files(self) -> dict[str, str]:
        """Files by path, below /sys/devices/system when it is relative; one that cannot be read is not among them."""
        found: dict[str, list[str]] = {}
        for line in self.text("files").splitlines():
            path, _nul, value = line.partition("\0")
            found.setdefault(path, []).append(value.strip())
        return {path: " ".join(values) for path, values in found.items()}

    @functools.cached_property
    def vectors(self) -> dict[str, list[int]]:
        """Message-signalled interrupts by PCI address."""
        found: dict[str, list[int]] = {}
        for line in self.text("vectors").splitlines():
            directory, _tab, number = line.partition("\t")
            found.setdefault(directory.split("/")[5], []).append(int(number))
        return {address: sorted(numbers) for address, numbers in found.items()}

    @functools.cached_property
    def lscpu(self) -> dict[str, str]:
        """lscpu's summary by its labels."""
        return {row["field"].rstrip(":"): row["data"] or "" for row in flattened(self.json("lscpu")["lscpu"])}

    def json(self, section: str) -> dict[str, t.Any]:
        """A section that a tool printed as JSON; lscpu 2.38 leaves out the quotes of the "-" that it means as null."""
        value: dict[str, t.Any] = json.loads(re.sub(r"(?<=: )-(?=,?$)", "null", self.text(section), flags=re.MULTILINE))
        return value

    @functools.cached_property
    def pci(self) -> dict[str, dict[str, str]]:
        """lspci's devices by address, each by its labels."""
        blocks = self.text("lspci").split("\n\n")
        found = [dict(line.split(":\t", 1) for line in block.splitlines() if ":\t" in line) for block in blocks]
        return {device["Slot"]: device for device in found if "Slot" in device}

    @functools.cached_property
    def distances(self) -> list[list[int]]:
        """numactl's table: a row for each node."""
        rows = re.findall(r"^ +\d+: +([\d ]+)$", self.text("numactl"), re.MULTILINE)
        return [[int(word) for word in row.split()] for row in rows]

    def numactl(self, node: int, what: str) -> str:
        """What numactl says of a node: its ``cpus``, ``size`` or ``free``."""
        found = re.search(rf"^node {node} {what}:(.*)$", self.text("numactl"), re.MULTILINE)
        return found.group(1).strip() if found else "nothing"

    @functools.cached_property
    def numastat(self) -> dict[int, dict[str, int]]:
        """numastat's counters by node."""
        head, *rows = [line.split() for line in self.text("numastat").splitlines()]
        nodes = [int(word.removeprefix("node")) for word in head]
        return {node: {row[0]: int(row[1 + column]) for row in rows} for column, node in enumerate(nodes)}


def flattened(rows: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    """lscpu's rows, with those below others."""
    return [inner for row in rows for inner in (row, *flattened(row.get("children", [])))]


@dataclasses.dataclass(frozen=True)
class Observation:
    """One machine; ``shape`` is none for the machine that the tests run on, whatever it is."""

    name: str
    shape: shapes.Shape | None
    facts: Facts
    captured: Facts
    before: Tools
    after: Tools
    capture: pathlib.Path


def load(name: str) -> Observation:
    """Read what ``observe`` wrote."""
    directory = OBSERVED / name
    return Observation(
        name,
        None if name == THIS_MACHINE else shapes.read(name),
        json.loads((directory / "facts.json").read_text(encoding="utf-8")),
        json.loads((directory / "captured.json").read_text(encoding="utf-8")),
        Tools((directory / "before.txt").read_text(encoding="utf-8")),
        Tools((directory / "after.txt").read_text(encoding="utf-8")),
        OBSERVED / f"{name}.tar.gz",
    )


class Comparison:
    """Compares value by value, so that one run tells every difference; fails at its end when there was any."""

    def __init__(self, machine: Observation) -> None:
        self._machine = machine.name
        self._differences: list[str] = []

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            assert not self._differences, f"{self._machine}:\n" + "\n".join(self._differences)

    def equal(self, what: str, ours: object, theirs: object) -> None:
        """Ours is the same as theirs; values inside lists and tables count one by one."""
        COMPARED[self._machine] += count(theirs)
        if ours != theirs:
            self._differences.append(f"  {what}: ours is {ours!r}, theirs {theirs!r}")

    def between(self, what: str, low: float, ours: float | None, high: float) -> None:
        """Ours lies between what was read before and after it."""
        COMPARED[self._machine] += 1
        if ours is None or not low <= ours <= high:
            self._differences.append(f"  {what}: ours is {ours!r}, theirs went from {low:g} to {high:g}")


def count(value: object) -> int:
    """How many values there are in it; an empty list is one that was found empty."""
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(count, value)) or 1 if isinstance(value, (list, tuple, set, frozenset)) else 1
