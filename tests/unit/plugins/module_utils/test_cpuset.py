# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CPU sets are read and written as the kernel does, and what is wrong is named."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    HIGHEST_ID,
    CpusetError,
    format_cpulist,
    format_cpumask,
    ids_from_words,
    parse_cpulist,
    parse_cpumask,
)

IDS = st.frozensets(st.integers(0, 1100), max_size=80)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", set()),
        ("\n", set()),
        ("0\n", {0}),
        ("0-3,8,10-11\n", {0, 1, 2, 3, 8, 10, 11}),
        ("63-65", {63, 64, 65}),
        ("5,1,1-2", {1, 2, 5}),
        ("0-9:2/5", {0, 1, 5, 6}),
        ("0-7:1/2,64", {0, 2, 4, 6, 64}),
        # The last group is cut off at the end of the range.
        ("0-5:2/4", {0, 1, 4, 5}),
        ("0-4:2/4", {0, 1, 4}),
    ],
)
def test_parse_cpulist(text: str, ids: set[int]) -> None:
    assert parse_cpulist(text) == ids


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("0-3,x", "'x'"),
        ("0-3,-1", "'-1'"),
        ("0--3", "'0--3'"),
        ("0-", "'0-'"),
        ("1,,2", "''"),
        ("1,", "''"),
        ("0-3, 5", "' 5'"),
        ("0 1", "'0 1'"),
        ("3-1", "'3-1'"),
        ("0x3", "'0x3'"),
        ("²", "'²'"),
        ("0-7:2", "'0-7:2'"),
        ("3:1/2", "'3:1/2'"),
        ("0-7:0/2", "'0-7:0/2'"),
        ("0-7:3/2", "'0-7:3/2'"),
        ("0-7:1/0", "'0-7:1/0'"),
        (f"0,{HIGHEST_ID + 1}", f"'{HIGHEST_ID + 1}'"),
        ("9" * 5000, "'999"),
    ],
)
def test_parse_cpulist_names_the_bad_token(text: str, token: str) -> None:
    with pytest.raises(CpusetError) as caught:
        parse_cpulist(text)
    assert token in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_huge_list_is_refused_at_once() -> None:
    with pytest.raises(CpusetError, match="more ids than there can be"):
        parse_cpulist(f"0-{HIGHEST_ID}," * 100_000 + "0")


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([], ""),
        ([0], "0"),
        ([3, 1, 2, 2], "1-3"),
        ([0, 1], "0-1"),
        ([0, 2, 4, 5], "0,2,4-5"),
        (range(1000), "0-999"),
    ],
)
def test_format_cpulist(ids: list[int], text: str) -> None:
    assert format_cpulist(ids) == text


def test_format_cpulist_refuses_negative_ids() -> None:
    with pytest.raises(CpusetError, match="-1 is not a CPU or node id"):
        format_cpulist([2, -1])


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("0", set()),
        ("3\n", {0, 1}),
        ("00000001,00000000", {32}),
        ("1,00000000,80000001", {0, 31, 64}),
        # The kernel reads a short group as one of 32 bits.
        ("1,1", {0, 32}),
        ("0xF", {0, 1, 2, 3}),
        ("100000000", {32}),
    ],
)
def test_parse_cpumask(text: str, ids: set[int]) -> None:
    assert parse_cpumask(text) == ids


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("", "''"),
        ("fg", "'fg'"),
        ("ff,", "''"),
        ("ff,fffffffff", "'fffffffff'"),
        ("0x1,00000000", "'0x1'"),
        ("-1", "'-1'"),
        ("f f", "'f f'"),
        ("f" * (HIGHEST_ID // 4 + 2), "'fff"),
        ("0," * 100_000 + "0", "longer than the highest id"),
    ],
)
def test_parse_cpumask_names_the_bad_token(text: str, token: str) -> None:
    with pytest.raises(CpusetError) as caught:
        parse_cpumask(text)
    assert token in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("ids", "bits", "text"),
    [
        ([], None, "0"),
        ([0, 1], None, "3"),
        ([0, 32], None, "1,00000001"),
        ([1], 2, "2"),
        # As the kernel prints them with nr_cpu_ids of 12, 64 and 96.
        ([0], 12, "001"),
        ([63], 64, "80000000,00000000"),
        ([0, 64], 96, "00000001,00000000,00000001"),
    ],
)
def test_format_cpumask(ids: list[int], bits: int | None, text: str) -> None:
    assert format_cpumask(ids, bits) == text


def test_format_cpumask_refuses_what_does_not_fit() -> None:
    with pytest.raises(CpusetError, match=r"CPU 64 does not fit into a mask of 64 bits \(CPUs 0-63\)"):
        format_cpumask([0, 64], 64)
    with pytest.raises(CpusetError, match="-3 is not"):
        format_cpumask([-3])


def test_ids_from_words() -> None:
    assert ids_from_words([1 << 63, 1, 0]) == {63, 64}
    assert ids_from_words([]) == set()
    # A 32-bit binding shows the highest bit as a sign.
    assert ids_from_words([-(1 << 31), 2], 32) == {31, 33}


# The machine of a test run may be busy with others.
@settings(deadline=None)
@given(IDS)
def test_lists_and_masks_read_back(ids: frozenset[int]) -> None:
    assert parse_cpulist(format_cpulist(ids)) == ids
    assert parse_cpumask(format_cpumask(ids)) == ids
    assert parse_cpumask(format_cpumask(ids, 1101)) == ids


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_cpulist, parse_cpumask):
        try:
            ids = parse(text)
        except CpusetError:
            continue
        assert all(0 <= number <= HIGHEST_ID for number in ids)
