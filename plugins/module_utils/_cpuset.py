# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""CPU and node sets as the kernel writes them: cpulists (``0-3,8``) and hex masks (``00000001,ffffffff``).

The grammar is the one of lib/bitmap-str.c in Linux (``bitmap_parselist``, ``bitmap_parse``, ``%*pbl``, ``%*pb``).
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

# Twice the largest NR_CPUS a kernel can be built with (8192): what lies above is damage, not a machine.
HIGHEST_ID = 16383

_REGION = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10})(?::([0-9]{1,10})/([0-9]{1,10}))?)?")
_GROUP = re.compile(r"[0-9a-fA-F]{1,8}")
# As the kernel prints one.
_MASK = re.compile(r"[0-9a-f]{1,8}(?:,[0-9a-f]{8})*")
_PLAIN_MASK = re.compile(rf"(?:0[xX])?([0-9a-fA-F]{{1,{(HIGHEST_ID + 1) // 4}}})")


class CpusetError(NumapinError):
    """A CPU or node set that is not written as the kernel writes it; the message names the part that is wrong."""


def parse_cpulist(text: str) -> frozenset[int]:
    """Return the ids in a cpulist such as ``0-3,8`` or ``0-31:2/4`` (the first 2 of every 4); no ids in an empty one.

    Blanks and a newline around the whole list are allowed, inside it they are not. Raises ``CpusetError``.
    """
    body = text.strip()
    if not body:
        return frozenset()
    ids: set[int] = set()
    listed = 0
    for token in body.split(","):
        match = _REGION.fullmatch(token)
        if match is None:
            raise CpusetError(
                f"{_shown(token)} in the CPU list {_shown(body)} is wrong: write numbers and ranges with commas"
                " between them and no blanks, such as 0-3,8 or 0-31:2/4 (the first 2 of every 4)"
            )
        start = int(match[1])
        end = start if match[2] is None else int(match[2])
        if end < start:
            raise CpusetError(f"{_shown(token)} in the CPU list {_shown(body)} runs backwards: write {end}-{start}")
        if end > HIGHEST_ID:
            raise CpusetError(f"{_shown(token)} in the CPU list {_shown(body)} is above the highest id, {HIGHEST_ID}")
        listed += end - start + 1
        if listed > HIGHEST_ID + 1:
            raise CpusetError(f"the CPU list {_shown(body)} names more ids than there can be ({HIGHEST_ID + 1})")
        if match[3] is None:
            ids.update(range(start, end + 1))
            continue
        used, group = int(match[3]), int(match[4])
        if not 1 <= used <= group:
            raise CpusetError(
                f"{_shown(token)} in the CPU list {_shown(body)} is wrong: after the colon stand the used size and the"
                f" group size, with 1 <= used <= group; given are {used} and {group}"
            )
        for first in range(start, end + 1, group):
            ids.update(range(first, min(first + used, end + 1)))
    return frozenset(ids)


def format_cpulist(ids: t.Iterable[int]) -> str:
    """Return the ids as the kernel prints a cpulist: ranges, ascending, without duplicates; ``""`` for no ids."""
    regions: list[str] = []
    start = end = -1
    for number in sorted(set(ids)):
        if number < 0:
            raise CpusetError(f"{number} is not a CPU or node id: ids are 0 or more")
        if start >= 0 and number == end + 1:
            end = number
            continue
        if start >= 0:
            regions.append(_region(start, end))
        start = end = number
    if start >= 0:
        regions.append(_region(start, end))
    return ",".join(regions)


def parse_cpumask(text: str) -> frozenset[int]:
    """Return the ids in a hex mask: groups of 32 bits with commas between them, the highest first, or one plain number.

    ``00000001,00000000`` is CPU 32, and so is ``100000000`` or ``0x100000000`` (as taskset prints it). Raises
    ``CpusetError``.
    """
    body = text.strip()
    if "," not in body:
        match = _PLAIN_MASK.fullmatch(body)
        if match is None:
            raise CpusetError(f"{_shown(body)} is not a CPU mask: write hexadecimal digits, such as ff or ff,ffffffff")
        return _ids_of(int(match[1], 16))
    groups = body.split(",")
    if len(groups) * 32 > HIGHEST_ID + 1:
        raise CpusetError(f"the CPU mask {_shown(body)} is longer than the highest id, {HIGHEST_ID}, allows")
    if _MASK.fullmatch(body):
        return _ids_of(int(body.replace(",", ""), 16))
    value = 0
    for group in groups:
        if _GROUP.fullmatch(group) is None:
            raise CpusetError(
                f"{_shown(group)} in the CPU mask {_shown(body)} is wrong: between commas stand 1 to 8 hexadecimal"
                " digits, such as ff,ffffffff"
            )
        value = value << 32 | int(group, 16)
    return _ids_of(value)


def format_cpumask(ids: t.Iterable[int], bits: int | None = None) -> str:
    """Return the ids as the kernel prints a mask of ``bits`` bits (default: as many as the highest id needs).

    ``format_cpumask({0, 32})`` is ``1,00000001``. Raises ``CpusetError`` for an id that ``bits`` bits cannot hold.
    """
    value = 0
    for number in ids:
        if not 0 <= number <= HIGHEST_ID:
            raise CpusetError(f"{number} is not a CPU or node id: ids are 0 to {HIGHEST_ID}")
        value |= 1 << number
    width = max(value.bit_length(), 1) if bits is None else bits
    if value.bit_length() > width:
        raise CpusetError(f"CPU {value.bit_length() - 1} does not fit into a mask of {width} bits (CPUs 0-{width - 1})")
    digits = f"{value:0{-(-width // 4)}x}"
    first = len(digits) % 8 or 8
    return ",".join([digits[:first], *(digits[i : i + 8] for i in range(first, len(digits), 8))])


def ids_from_words(words: t.Iterable[int], bits_per_word: int = 64) -> frozenset[int]:
    """Return the ids in an array of machine words, the lowest word first, as NVML hands out its affinity masks."""
    value = 0
    for index, word in enumerate(words):
        value |= (int(word) & ((1 << bits_per_word) - 1)) << (index * bits_per_word)
    return _ids_of(value)


def _ids_of(value: int) -> frozenset[int]:
    # By bytes: most masks of a large machine are long and nearly empty.
    ids: list[int] = []
    for index, byte in enumerate(value.to_bytes((value.bit_length() + 7) // 8, "little")):
        if byte:
            ids.extend(index * 8 + bit for bit in range(8) if byte >> bit & 1)
    return frozenset(ids)


def _region(start: int, end: int) -> str:
    return str(start) if start == end else f"{start}-{end}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
