# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _hugetlb_boot
from ansible_collections.numapin.inference.plugins.module_utils._hugetlb import (
    HugetlbError,
    Wanted,
    boot_parameters,
    parse_size,
    plan_pools,
    predict,
    put_back,
    read_machine,
    resolve,
    set_pools,
)
from ansible_collections.numapin.inference.plugins.module_utils._tuning import pool_drift
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.hugepage_kernel import Kernel

if t.TYPE_CHECKING:
    from pathlib import Path

SIZE = 2048
ON_BOTH = [{"size": "2M", "nodes": [{"node": 0, "pages": 64}, {"node": 1, "bytes": "64M"}]}]


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path, {0: 10**6, 1: 10**6, 2: 10**6})


@pytest.mark.parametrize(
    ("text", "size"), [("2M", 2 << 20), ("2048kB", 2 << 20), ("1GiB", 1 << 30), ("512", 512), ("1 T", 1 << 40)]
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text, "size") == size


def test_pages_and_bytes_of_nodes(kernel: Kernel) -> None:
    assert resolve(read_machine(kernel), ON_BOTH) == [Wanted(SIZE, 0, 64), Wanted(SIZE, 1, 32)]


def test_a_total_leaves_memory_only_nodes_alone_and_what_is_left_over_goes_to_the_lowest_node(kernel: Kernel) -> None:
    wanted = resolve(read_machine(kernel), [{"size": "2M", "pages": 65}])
    assert wanted == [Wanted(SIZE, 0, 33), Wanted(SIZE, 1, 32)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": "3M", "pages": 1}, "size '3M': this kernel has no huge pages of that size; it offers 2M, 1G"),
        ({"size": "two", "pages": 1}, "size 'two' is not a size: write a whole number with k, M, G or T"),
        (
            {"size": "2M", "nodes": [{"node": 7, "pages": 1}]},
            "node 7 does not exist: the nodes of this host are 0,",
        ),
        (
            {"size": "2M", "bytes": "3M"},
            "bytes '3M' is no multiple of the page size 2M: the nearest are 2097152 (1",
        ),
        ({"size": "2M", "pages": -1}, "the total: -1 pages of 2M cannot be"),
    ],
)
def test_bad_input(kernel: Kernel, given: dict[str, t.Any], said: str) -> None:
    with pytest.raises(HugetlbError) as caught:
        resolve(read_machine(kernel), [given])
    assert said in str(caught.value)


def test_a_pool_given_twice_is_refused(kernel: Kernel) -> None:
    with pytest.raises(HugetlbError, match=r"2M on node 0 is given twice"):
        resolve(read_machine(kernel), [*ON_BOTH, {"size": "2048k", "pages": 2}])


def test_each_node_gets_its_pages_and_a_second_run_writes_nothing(kernel: Kernel) -> None:
    machine = read_machine(kernel)
    outcomes = set_pools(kernel, machine, plan_pools(machine, resolve(machine, ON_BOTH)))
    assert [(outcome.node, outcome.before, outcome.got, outcome.short) for outcome in outcomes] == [
        (0, 0, 64, False),
        (1, 0, 32, False),
    ]
    assert (kernel.pages(0), kernel.pages(1), kernel.pages(2)) == (64, 32, 0)
    kernel.writes.clear()
    again = read_machine(kernel)
    assert set_pools(kernel, again, plan_pools(again, resolve(again, ON_BOTH))) == predict(
        plan_pools(again, resolve(again, ON_BOTH))
    )
    assert kernel.writes == []


def test_a_short_allocation_is_told_and_put_back(kernel: Kernel) -> None:
    kernel.grants[1] = 437
    kernel.put(1, total=8, free=8)
    machine = read_machine(kernel)
    steps = plan_pools(machine, [Wanted(SIZE, 0, 64), Wanted(SIZE, 1, 1_000_000)])
    outcome = set_pools(kernel, machine, steps)[1]
    assert outcome.sentence() == (
        "node 1: asked for 1000000 pages of 2M, got 437 (the kernel found no more memory in one piece there after"
        " compaction)"
    )
    assert put_back(kernel, machine, steps) == []
    assert (kernel.pages(0), kernel.pages(1)) == (0, 8)


def test_the_ladder_ends_at_the_first_rung_that_helps(kernel: Kernel) -> None:
    kernel.grants[0] = 60
    kernel.scattered = {"node0/compact": 0, "drop_caches": 10}
    machine = read_machine(kernel)
    steps = plan_pools(machine, [Wanted(SIZE, 0, 64)])
    assert set_pools(kernel, machine, steps)[0].recovery == ("compaction",)
    assert not [write for write in kernel.writes if "drop_caches" in write]
    outcome = set_pools(kernel, read_machine(kernel), steps, drop_caches=True)[0]
    assert (outcome.got, outcome.recovery) == (64, ("compaction", "dropping caches"))


def test_the_floor_is_kept_and_memory_that_another_pool_gives_back_counts(kernel: Kernel) -> None:
    # Node 0 has 60 GiB free: 59 GiB are beyond the floor, and 1024 pages of 2 MiB that go give 2 more.
    kernel.put(0, total=1024, free=1024)
    machine = read_machine(kernel)
    steps = plan_pools(machine, [Wanted(1 << 20, 0, 64), Wanted(SIZE, 0, 0)], floor_mib=1024)
    assert [(step.pool.size_kib, step.asked, step.possible) for step in steps] == [(SIZE, 0, 0), (1 << 20, 64, 61)]
    outcome = predict(steps)[1]
    assert outcome.sentence("could get") == (
        "node 0: asked for 64 pages of 1G, could get 61 (its memory has room for no more than 61 with 1024 MiB kept"
        " available there)"
    )


def test_large_pages_are_had_before_small_ones_and_what_grew_is_given_back_before_what_shrank_grows(
    kernel: Kernel,
) -> None:
    kernel.put(0, total=512, free=512)
    machine = read_machine(kernel)
    steps = plan_pools(machine, [Wanted(SIZE, 0, 0), Wanted(SIZE, 1, 4), Wanted(1 << 20, 0, 1)])
    assert [(step.pool.name, step.asked) for step in steps] == [
        ("2M on node 0", 0),
        ("1G on node 0", 1),
        ("2M on node 1", 4),
    ]
    set_pools(kernel, machine, steps)
    kernel.writes.clear()
    assert put_back(kernel, machine, steps) == []
    assert [write.split("hugepages-")[1].split() for write in kernel.writes] == [
        ["2048kB/nr_hugepages", "0"],
        ["1048576kB/nr_hugepages", "0"],
        ["2048kB/nr_hugepages", "512"],
    ]


def test_a_pool_that_goes_back_is_not_held_by_the_floor(kernel: Kernel) -> None:
    machine = read_machine(kernel)
    floor_mib = machine.available_kib[0] // 1024
    steps = plan_pools(machine, [Wanted(SIZE, 1, 1)], [Wanted(SIZE, 0, 8)], floor_mib=floor_mib)
    assert next((outcome.node, outcome.got) for outcome in predict(steps)) == (0, 8)
    assert set_pools(kernel, machine, steps)[0].got == kernel.pages(0) == 8


def test_shrinking_below_use_is_refused_and_forced_pages_become_surplus(kernel: Kernel) -> None:
    kernel.put(0, total=64, free=14)
    machine = read_machine(kernel)
    with pytest.raises(HugetlbError, match=r"node 0: asked for 10 pages of 2M, but 50 of its 64 are in use"):
        plan_pools(machine, [Wanted(SIZE, 0, 10)])
    steps = plan_pools(machine, [Wanted(SIZE, 0, 10)], force=True)
    foreseen = predict(steps)
    assert set_pools(kernel, machine, steps) == foreseen
    assert (foreseen[0].got, foreseen[0].in_use, foreseen[0].surplus) == (10, 50, 40)


def test_pages_promised_to_mappings_are_not_given_away(kernel: Kernel, tmp_path: Path) -> None:
    kernel.put(0, total=64, free=64)
    resv = tmp_path / "sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages"
    resv.parent.mkdir(parents=True)
    resv.write_text("60\n", encoding="utf-8")
    with pytest.raises(HugetlbError, match=r"60 of the 64 free pages of 2M are promised to mappings, and 10 fewer"):
        plan_pools(read_machine(kernel), [Wanted(SIZE, 0, 54)])


def test_surplus_counts_neither_as_persistent_nor_as_missing(kernel: Kernel) -> None:
    kernel.put(0, total=12, free=0, surplus=4)
    steps = plan_pools(read_machine(kernel), [Wanted(SIZE, 0, 8), Wanted(SIZE, 1, 0)])
    assert all(step.asked == step.pool.persistent for step in steps)


def test_pages_that_only_boot_can_make_are_no_shortfall_of_memory(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, {0: 9, 1: 9, 2: 9}, gigantic=False)
    machine = read_machine(kernel)
    wanted = [Wanted(1 << 20, 0, 8), Wanted(1 << 20, 1, 4)]
    outcome = set_pools(kernel, machine, plan_pools(machine, wanted))[0]
    assert (outcome.needs_boot, outcome.reason) == (True, "the kernel makes pages of this size only while it boots")
    assert boot_parameters(machine, [*wanted, Wanted(SIZE, 1, 2)]) == (
        "hugepagesz=1G hugepages=0:8,1:4 hugepagesz=2M hugepages=1:2"
    )


def test_the_boot_program_sets_what_is_written_down(kernel: Kernel, tmp_path: Path) -> None:
    config = _hugetlb_boot.BootConfig((Wanted(SIZE, 0, 64), Wanted(SIZE, 1, 32), Wanted(SIZE, 9, 1)), 0, False, 107)
    path = tmp_path / _hugetlb_boot.CONFIG_PATH[1:]
    path.parent.mkdir(parents=True)
    path.write_text(_hugetlb_boot.config_text(config), encoding="utf-8")
    assert _hugetlb_boot.set_at_boot(kernel) == (["2M on node 9: this host has no such pool any more"], [])
    assert (kernel.pages(0), kernel.pages(1)) == (64, 32)
    assert (tmp_path / "proc/sys/vm/hugetlb_shm_group").read_text(encoding="utf-8") == "107\n"
    path.write_text('{"version": 1, "pools": [{"size_kib": "2048", "node": 0, "pages": 1}]}', encoding="utf-8")
    with pytest.raises(HugetlbError, match=r"hugepages\.json is damaged"):
        _hugetlb_boot.set_at_boot(kernel)


def test_fewer_pages_at_boot_are_no_failure_where_they_were_to_do(kernel: Kernel, tmp_path: Path) -> None:
    kernel.grants[0] = 10
    path = tmp_path / _hugetlb_boot.CONFIG_PATH[1:]
    path.parent.mkdir(parents=True)
    config = _hugetlb_boot.BootConfig((Wanted(SIZE, 0, 64),), 0, False, None, "warn")
    for on_shortfall, problems, notes in (("warn", 0, 1), ("rollback", 1, 0)):
        text = _hugetlb_boot.config_text(config._replace(on_shortfall=on_shortfall))
        path.write_text(text, encoding="utf-8")
        done = _hugetlb_boot.set_at_boot(kernel)
        assert (len(done.problems), len(done.notes)) == (problems, notes)
        (drift,) = pool_drift(kernel, read_machine(kernel))
        assert drift == ("2M on node 0: 64 pages at boot, 10 pages now", on_shortfall == "warn")
