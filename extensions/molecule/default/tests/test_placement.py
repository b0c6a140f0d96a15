# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where every vLLM thread may run, read from /proc by this test itself, held against the plan on the host.

Nothing here uses the collection's own reader: what the verify role believes must be true for a reader that does not
know it.
"""

from __future__ import annotations

import collections.abc as c
import typing as t

# For every process: "P pid unit user command", then "T tid cpulist nodelist" for each of its threads. The unit comes
# from the control groups of all hierarchies, so that this works with cgroups of either version.
SCAN = r"""
for process in /proc/[0-9]*; do
    pid=${process#/proc/}
    unit=$(sed -n 's#.*/\(vllm@[^/]*\.service\)$#\1#p' "$process/cgroup" 2>/dev/null | head -n 1)
    command=$(tr '\0\n' '  ' < "$process/cmdline" 2>/dev/null | cut -c 1-200)
    echo "P $pid ${unit:--} $(stat -c %U "$process" 2>/dev/null || echo -) $command"
    for status in "$process"/task/*/status; do
        awk '/^Pid:/ {tid = $2} /^Cpus_allowed_list:/ {cpus = $2} /^Mems_allowed_list:/ {mems = $2}
             END {if (tid) print "T", tid, cpus, mems}' "$status" 2>/dev/null
    done
done
"""


class Process(t.NamedTuple):
    """A process as the scan saw it; unit is "-" outside vllm@ units; threads are {tid: (cpus, nodes)}."""

    pid: int
    unit: str
    user: str
    command: str
    threads: dict[int, tuple[frozenset[int], frozenset[int]]]


def parse_list(text: str) -> frozenset[int]:
    """The kernel's list notation."""
    ranges = [part.split("-") for part in text.split(",") if part]
    return frozenset(number for ends in ranges for number in range(int(ends[0]), int(ends[-1]) + 1))


def scan(host: t.Any) -> list[Process]:
    """Every process of a host, with its threads."""
    output = host.check_output(SCAN)
    found: list[Process] = []
    for line in output.splitlines():
        kind, *rest = line.split(" ", 4)
        if kind == "P":
            pid, unit, user, command = [*rest, ""][:4]
            found.append(Process(int(pid), unit, user, command.strip(), {}))
        else:
            tid, cpus, nodes = rest
            found[-1].threads[int(tid)] = (parse_list(cpus), parse_list(nodes))
    assert len(found) > 5, f"the scan saw hardly anything: {output!r}"
    return found


def looks_like_vllm(process: Process) -> bool:
    """By what it is, not by where it is."""
    return process.user == "vllm" or process.command.startswith("VLLM::") or "vllm.entrypoints" in process.command


def processes_of(processes: c.Iterable[Process], unit: str) -> list[Process]:
    """Those in the control group of a unit."""
    return [process for process in processes if process.unit == unit]


def test_plan_gives_the_two_hosts_different_cpus(site: t.Any) -> None:
    """The hosts are containers on one machine: with the same CPUs, pinning would prove nothing."""
    cpus = [parse_list(entry["cpus"]) for _host, entry in site.instances()]
    assert len(cpus) == 2
    assert all(cpus)
    machine = parse_list(site.hosts[site.inference[0]].check_output("cat /sys/devices/system/cpu/online"))
    if len(machine) > 1:
        assert not cpus[0] & cpus[1]


def test_every_thread_is_on_exactly_the_plans_cpus(site: t.Any) -> None:
    """Each thread on planned CPUs only, all threads together on every planned CPU, memory nodes as planned."""
    for name in site.inference:
        processes = scan(site.hosts[name])
        for entry in site.plans[name]["instances"]:
            planned = parse_list(entry["cpus"])
            members = processes_of(processes, entry["unit"])
            assert len(members) >= 3, (
                f"{name}: API server, engine core and worker expected in {entry['unit']}, found {members}"
            )
            used: set[int] = set()
            for process in members:
                assert process.threads, f"{name}: no thread of {process.pid} could be read"
                for tid, (cpus, nodes) in process.threads.items():
                    where = f"{name}: thread {tid} of {process.pid} ({process.command[:60]})"
                    assert cpus <= planned, f"{where} may run on {sorted(cpus)}, planned is {sorted(planned)}"
                    assert nodes >= set(entry["memory_nodes"]), f"{where} may use nodes {sorted(nodes)} only"
                    used |= cpus
            assert used == planned, f"{name}: {entry['unit']} uses {sorted(used)} of the planned {sorted(planned)}"


def test_no_vllm_process_is_outside_the_plans_units(site: t.Any) -> None:
    """A process that slipped out of its unit would be pinned by nobody."""
    for name in site.inference:
        units = {entry["unit"] for entry in site.plans[name]["instances"]}
        strays = [p for p in scan(site.hosts[name]) if looks_like_vllm(p) and p.unit not in units]
        assert not strays, f"{name}: vLLM outside the plan's units: {strays}"
    assert not [p for p in scan(site.hosts[site.balancer]) if looks_like_vllm(p)]


def test_memory_is_on_the_plans_nodes(site: t.Any) -> None:
    """Pages that the processes placed themselves, summed from numa_maps."""
    for name, entry in site.instances():
        totals: dict[int, int] = {}
        for process in processes_of(scan(site.hosts[name]), entry["unit"]):
            # One mapping per line; N0=12 are its pages on node 0, in units of kernelpagesize_kB.
            maps = site.hosts[name].check_output(f"cat /proc/{process.pid}/numa_maps")
            for line in maps.splitlines():
                words = dict(word.split("=", 1) for word in line.split()[2:] if "=" in word)
                if "anon" not in words:
                    continue
                for key, pages in words.items():
                    if key[0] == "N" and key[1:].isdigit():
                        node = int(key[1:])
                        totals[node] = totals.get(node, 0) + int(pages) * int(words.get("kernelpagesize_kB", "4"))
        there = sum(kib for node, kib in totals.items() if node in entry["memory_nodes"])
        assert there > 500 * 1024, f"{name}: {entry['name']} holds {totals} KiB per node, hardly a vLLM"
        assert there >= 0.99 * sum(totals.values()), f"{name}: {entry['name']} has its memory on {totals} KiB per node"


def test_a_host_that_systemd_cannot_fence_is_told(site: t.Any) -> None:
    """The plan play prints the warnings of the plan; without the cpuset controller one of them says what that means."""
    for name in site.inference:
        controllers = site.hosts[name].check_output("cat /sys/fs/cgroup/cgroup.controllers 2>/dev/null || true").split()
        told = [line for line in site.plans[name]["warnings"] if "systemd cannot fence the instances in" in line]
        assert len(told) == (0 if "cpuset" in controllers else 1), f"{name} has {controllers}, and its plan says {told}"


def test_numactl_binds_one_host_and_systemd_the_other(site: t.Any) -> None:
    """All that is looked at above holds for either; the memory policy is the kernel's word for it."""
    for name, entry in site.instances():
        host = site.hosts[name]
        shown = host.check_output(f"systemctl show --property=CPUAffinity,ExecStart {entry['unit']}")
        (node,) = entry["nodes"]
        by_numactl = (
            f"/usr/bin/numactl --cpunodebind={node} --membind={node} /usr/bin/taskset --cpu-list {entry['cpus']} "
        )
        assert (by_numactl in shown) is (name == "inference2"), shown
        assert ("CPUAffinity=" + entry["cpus"] in shown) is (name != "inference2"), shown
        worker = next(p for p in processes_of(scan(host), entry["unit"]) if p.command.startswith("VLLM::Worker"))
        policies = host.check_output(f"awk '/ heap /' /proc/{worker.pid}/numa_maps | cut -d' ' -f2").split()
        assert set(policies) == {f"bind:{node}"}, f"{name}: {policies}"
