# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What becomes of vectors when the kernel takes a write, refuses it, or has no such interrupt any more."""

from __future__ import annotations

import errno
import json
import shutil
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._irq_apply import Clock, Outcome, Writer
from ansible_collections.numapin.inference.plugins.module_utils._irq_devices import Machine
from ansible_collections.numapin.inference.plugins.module_utils._irq_rules import parse_options, plan
from ansible_collections.numapin.inference.plugins.module_utils._irq_run import (
    Run,
    converge,
    moves,
    restore,
    state_directory,
    summary,
    table,
)
from ansible_collections.numapin.inference.plugins.module_utils._irq_state import Originals, one_at_a_time
from ansible_collections.numapin.inference.plugins.module_utils._irqs import IrqError
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import irq_trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.irq_trees import ETH0, Kernel, request

if t.TYPE_CHECKING:
    from pathlib import Path

RULE = {"devices": {"netdev": "eth0"}}  # vectors 30 to 32 to CPUs 0 to 2


def place(
    kernel: Kernel,
    *rules: dict[str, t.Any],
    check_mode: bool = False,
    pauses: list[float] | None = None,
    **options: t.Any,
) -> Run:
    """One run of the module on a tree."""
    machine = Machine(kernel)
    parsed = parse_options({"rules": list(rules) or [RULE], **options})
    originals = Originals.load(state_directory(kernel.root))
    writer = Writer(Clock((pauses if pauses is not None else []).append))
    return converge(machine, parsed, plan(parsed, machine), originals, check_mode=check_mode, writer=writer)


def put_back(kernel: Kernel, check_mode: bool = False) -> Run:
    """The run with state restored."""
    originals = Originals.load(state_directory(kernel.root))
    return restore(Machine(kernel), originals, check_mode=check_mode)


def results(run: Run) -> list[tuple[int | None, str, str | None]]:
    """Number, result and error of each vector."""
    return [(one.irq, one.result, one.errno) for one in run.vectors]


def only(run: Run, number: int) -> Outcome:
    """What became of one vector."""
    return next(one for one in run.vectors if one.irq == number)


def test_place_and_place_again(tmp_path: Path) -> None:
    kernel = Kernel(irq_trees.lay_out(tmp_path))
    first = place(kernel)
    assert results(first) == [(30, "changed", None), (31, "changed", None), (32, "changed", None)]
    assert [request(tmp_path, number) for number in (30, 31, 32)] == ["0", "1", "2"]
    assert only(first, 31) == Outcome(
        31, ETH0, 1, f"{ETH0}-1", "rule 1", "0-7", "1", "1", False, False, "changed", None, None
    )
    assert first.changed
    written = len(kernel.writes)
    again = place(kernel)
    assert [result for _number, result, _errno in results(again)] == ["ok"] * 3
    assert not again.changed
    assert len(kernel.writes) == written


def test_check_mode_finds_the_same_and_writes_nothing(tmp_path: Path) -> None:
    kernel = Kernel(irq_trees.lay_out(tmp_path))
    options: dict[str, t.Any] = {"default_smp_affinity": "0"}
    rule = {**RULE, "xps": True, "rps": True}
    checked = place(kernel, rule, check_mode=True, **options)
    assert kernel.writes == []
    assert not (tmp_path / "var").exists()
    done = place(kernel, rule, **options)
    assert [(one.irq, one.before, one.wanted, one.result) for one in checked.vectors] == [
        (one.irq, one.before, one.wanted, one.result) for one in done.vectors
    ]
    assert checked.masks == done.masks
    assert [one.predicted for one in checked.vectors] == [True] * 3
    assert table(checked, after=True) == table(done, after=True)


@pytest.mark.parametrize(
    ("fault", "result"),
    [
        (errno.EIO, "unchangeable"),  # a managed vector before Linux 6.12
        (errno.EPERM, "refused"),  # the file can be written: somebody else forbids it
        (errno.EACCES, "refused"),
        (errno.EROFS, "refused"),
        (errno.EINVAL, "refused"),
        (errno.ENOSPC, "no_vector_space"),
        (errno.EBUSY, "refused"),
        (errno.EAGAIN, "refused"),
        (errno.ENOMEM, "refused"),
        (errno.ENOENT, "gone"),
    ],
)
def test_refusals(tmp_path: Path, fault: int, result: str) -> None:
    kernel = Kernel(irq_trees.lay_out(tmp_path), {31: [fault]})
    run = place(kernel)
    assert results(run) == [(30, "changed", None), (31, result, errno.errorcode[fault]), (32, "changed", None)]
    assert request(tmp_path, 31) == "0-7"
    fails = result in ("refused", "no_vector_space")
    assert len(run.faults(strict=False)) == fails
    if fails:
        said = f"interrupt 31 ({ETH0}-1, eth0, mlx5_0 ({ETH0})): {result} ({errno.errorcode[fault]}), it is 0-7 and"
        assert run.faults(strict=False)[0].startswith(f"{said} shall be 1")
    assert len(run.faults(strict=True)) == (fails or result == "unchangeable")


def test_advice(tmp_path: Path) -> None:
    for fault, said in (
        (errno.EACCES, "run this as root (become)"),
        (
            errno.EROFS,
            "this is a container or sandbox in which the kernel's files cannot be written: run it on the host",
        ),
        (errno.EINVAL, "no CPU of it is online any more"),
        (errno.ENOSPC, "give the rule more CPUs, or the device fewer queues"),
    ):
        kernel = Kernel(irq_trees.lay_out(tmp_path / str(fault)), {30: [fault]})
        assert said in place(kernel).faults(strict=False)[0]


def test_managed_vectors_of_newer_kernels_show_before_the_write(tmp_path: Path) -> None:
    kernel = Kernel(irq_trees.lay_out(tmp_path))
    (tmp_path / "proc/irq/31/smp_affinity_list").chmod(0o444)
    for check_mode in (True, False):
        assert (only(place(kernel, check_mode=check_mode), 31))[-3:] == ("unchangeable", "EPERM", None)
    assert [path for path, _text in kernel.writes if "/31/" in path] == []


@pytest.mark.parametrize("fault", [errno.EAGAIN, errno.EBUSY, errno.ENOMEM])
def test_what_passes_is_tried_again(tmp_path: Path, fault: int) -> None:
    kernel = Kernel(irq_trees.lay_out(tmp_path), {31: [fault, fault, 0]})
    pauses: list[float] = []
    assert only(place(kernel, pauses=pauses), 31).result == "changed"
    assert pauses == [0.01, 0.02]


def test_patience_has_an_end(tmp_path: Path) -> None:
    kernel = Kernel(irq_trees.lay_out(tmp_path), {30: [errno.EBUSY]})
    pauses: list[float] = []
    place(kernel, pauses=pauses)
    assert pauses == [0.01, 0.02, 0.04, 0.08]
    writer = Writer(Clock(pauses.append))
    pauses.clear()

    def busy(_text: str) -> None:
        raise OSError(errno.EBUSY, "busy")

    assert {writer.write(busy, "0") for _each in range(4096)} == {errno.EBUSY}
    assert sum(pauses) <= 5.0


def test_a_full_cpu_makes_way_for_another(tmp_path: Path) -> None:
    full = {31: lambda text: errno.ENOSPC if text in ("1", "0") else 0}
    kernel = Kernel(irq_trees.lay_out(tmp_path), full)
    run = place(kernel)
    assert only(run, 31)[6:] == ("2", "2", False, False, "changed", None, None)
    again = place(kernel)
    assert (only(again, 31).result, only(again, 31).errno, again.changed) == ("ok", "ENOSPC", False)
    assert request(tmp_path, 31) == "2"


def test_a_full_node(tmp_path: Path) -> None:
    kernel = Kernel(irq_trees.lay_out(tmp_path), {31: [errno.ENOSPC]})
    place(kernel, {**RULE, "policy": "all"})
    assert [text for path, text in kernel.writes if "/31/" in path] == ["0-3"]
    kernel.writes.clear()
    assert only(place(kernel), 31).result == "no_vector_space"
    assert [text for path, text in kernel.writes if "/31/" in path] == ["1", "0", "2", "3"]


class Vanishing(Kernel):
    """A kernel that takes an interrupt away when it is written."""

    def write_text(self, path: str, text: str) -> None:
        if "/31/" in path:
            shutil.rmtree(f"{self.root}/proc/irq/31")
        super().write_text(path, text)


def test_a_vector_that_vanishes_before_the_write(tmp_path: Path) -> None:
    kernel = Vanishing(irq_trees.lay_out(tmp_path))
    run = place(kernel)
    assert results(run) == [(30, "changed", None), (31, "gone", "ENOENT"), (32, "changed", None)]
    assert run.faults(strict=True) == []


def test_a_vector_that_nothing_requested(tmp_path: Path) -> None:
    kernel = Kernel(irq_trees.lay_out(tmp_path))
    shutil.rmtree(tmp_path / "proc/irq/31")
    assert only(place(kernel), 31)[-4:] == (False, "gone", None, "nothing has requested this vector, or it went away")


class Deaf(Kernel):
    """A kernel that takes a write and does something else."""

    def write_text(self, path: str, text: str) -> None:
        super().write_text(path, "7" if "/31/" in path else text)


def test_a_write_that_changes_nothing_is_found(tmp_path: Path) -> None:
    run = place(Deaf(irq_trees.lay_out(tmp_path)))
    assert only(run, 31)[-3:] == ("refused", None, "1 was written without an error and reads 7")


def test_moved_with_the_next_interrupt(tmp_path: Path) -> None:
    irq_trees.lay_out(tmp_path)
    irq_trees.add_vector(tmp_path, 31, "eth0-1", "1", effective="7")
    one = only(place(Kernel(tmp_path)), 31)
    assert (one.result, one.effective, one.pending) == ("ok", "7", True)


def test_a_kernel_that_shows_no_effective_cpu(tmp_path: Path) -> None:
    irq_trees.lay_out(tmp_path)
    (tmp_path / "proc/irq/31/effective_affinity_list").unlink()
    kernel = Kernel(tmp_path, {31: lambda _text: errno.EIO})
    one = only(place(kernel), 31)
    assert (one.result, one.effective, one.pending) == ("unchangeable", None, False)


def test_masks(tmp_path: Path) -> None:
    kernel = Kernel(irq_trees.lay_out(tmp_path))
    rule = {**RULE, "xps": True, "rps": True}
    run = place(kernel, rule, exclude_cpus="0", default_smp_affinity="0,4")
    # Senders use the whole node, also where no interrupt shall be; what arrives is worked on where interrupts are.
    assert [(one.kind, one.queue, one.before, one.wanted, one.result) for one in run.masks] == [
        ("default_smp_affinity", None, "0-7", "0,4", "changed"),
        ("xps", 0, "", "0,2", "changed"),
        ("xps", 1, "", "1,3", "changed"),
        ("rps", 0, "", "1-3", "changed"),
        ("rps", 1, "", "1-3", "changed"),
    ]
    eth0 = tmp_path / "sys/class/net/eth0/queues"
    assert [(eth0 / f"tx-{number}/xps_cpus").read_text(encoding="utf-8") for number in (0, 1)] == ["5", "a"]
    assert (tmp_path / "proc/irq/default_smp_affinity").read_text(encoding="utf-8") == "11"
    assert {one.result for one in place(kernel, rule, exclude_cpus="0", default_smp_affinity="0,4").masks} == {"ok"}
    assert [one.result for one in put_back(kernel).masks] == ["changed"] * 5
    assert (tmp_path / "proc/irq/default_smp_affinity").read_text(encoding="utf-8") == "ff"
    assert (eth0 / "tx-0/xps_cpus").read_text(encoding="utf-8") == "0"


def test_rps_leaves_isolated_cpus_out_as_the_kernel_does(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    cpu = root / "sys/devices/system/cpu"
    (cpu / "isolated").write_text("1\n", encoding="utf-8")
    (cpu / "nohz_full").write_text("  (null)\n", encoding="utf-8")
    rule = {**RULE, "rps": True, "xps": True}
    run = place(Kernel(root), rule)
    assert [(one.kind, one.wanted) for one in run.masks] == [
        ("xps", "0,2"),
        ("xps", "1,3"),
        ("rps", "0,2-3"),
        ("rps", "0,2-3"),
    ]
    (cpu / "nohz_full").write_text("2-3\n", encoding="utf-8")
    assert {one.wanted for one in place(Kernel(root), rule).masks if one.kind == "rps"} == {"0"}


def test_masks_of_768_cpus(tmp_path: Path) -> None:
    # As such a kernel prints them: groups of 32 bits with commas between them.
    root = irq_trees.lay_out(tmp_path)
    for path in ("sys/devices/system/cpu/online", "sys/devices/system/cpu/present"):
        (root / path).write_text("0-767\n", encoding="utf-8")
    (root / "proc/irq/default_smp_affinity").write_text(",".join(["ffffffff"] * 24) + "\n", encoding="utf-8")
    kernel = Kernel(root)
    run = place(kernel, {**RULE, "cpus": "0,64-65,767", "policy": "all"}, default_smp_affinity="0,64-65,767")
    assert (run.masks[0].before, run.masks[0].wanted, run.masks[0].result) == ("0-767", "0,64-65,767", "changed")
    written = (root / "proc/irq/default_smp_affinity").read_text(encoding="utf-8")
    assert written == "80000000," + "00000000," * 20 + "00000003,00000000,00000001"
    assert [request(root, number) for number in (30, 31, 32)] == ["0,64-65,767"] * 3


def test_a_host_without_lists_of_cpus(tmp_path: Path) -> None:
    irq_trees.lay_out(tmp_path)
    (tmp_path / "proc/irq/31/smp_affinity_list").unlink()
    (tmp_path / "proc/irq/31/smp_affinity").write_text("00000001,00000000\n", encoding="utf-8")
    assert only(place(Kernel(tmp_path), check_mode=True), 31).before == "32"


def test_restored_by_device_and_place_after_a_reboot(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    (root / "proc/irq/31/smp_affinity_list").write_text("5,7\n", encoding="utf-8")
    place(Kernel(root))
    # The next boot: other numbers, the kernel's default for each, one vector less, and a serial line as before.
    for number in (30, 31, 32):
        shutil.rmtree(root / f"proc/irq/{number}")
        shutil.rmtree(root / f"sys/kernel/irq/{number}")
        (root / f"sys/bus/pci/devices/{ETH0}/msi_irqs/{number}").unlink()
    for place_, number in enumerate((130, 131)):
        (root / f"sys/bus/pci/devices/{ETH0}/msi_irqs/{number}").write_text("msix\n", encoding="utf-8")
        irq_trees.add_vector(root, number, f"{ETH0}-{place_}", "0-3")
    kernel = Kernel(root)
    assert results(put_back(kernel, check_mode=True)) == [
        (130, "changed", None), (131, "changed", None), (None, "gone", None)
    ]  # fmt: skip
    assert kernel.writes == []
    run = put_back(kernel)
    assert [(one.irq, one.queue, one.wanted, one.result) for one in run.vectors] == [
        (130, 0, "0-7", "changed"), (131, 1, "5,7", "changed"), (None, 2, "0-7", "gone")
    ]  # fmt: skip
    assert (request(root, 130), request(root, 131)) == ("0-7", "5,7")


def test_restored_on_fewer_cpus(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    (root / "proc/irq/31/smp_affinity_list").write_text("6-7\n", encoding="utf-8")
    (root / "sys/class/net/eth0/queues/tx-0/xps_cpus").write_text("f0\n", encoding="utf-8")
    place(Kernel(root), {**RULE, "xps": True}, default_smp_affinity="0")
    # nr_cpus=4: the kernel takes no other CPU.
    for name in ("online", "present", "possible"):
        (root / f"sys/devices/system/cpu/{name}").write_text("0-3\n", encoding="utf-8")
    (root / "sys/devices/system/node/node1/cpulist").write_text("\n", encoding="utf-8")
    run = put_back(Kernel(root))
    assert [request(root, number) for number in (30, 31, 32)] == ["0-3"] * 3
    assert [one.message for one in run.vectors] == [
        None,
        "none of the CPUs 6-7 that it had is online: it goes to the default, 0-3",
        None,
    ]
    assert [(one.kind, one.wanted) for one in run.masks] == [
        ("default_smp_affinity", "0-3"),
        ("xps", ""),
        ("xps", ""),
    ]
    assert run.faults(strict=True) == []


def test_the_first_original_stays(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    place(Kernel(root))
    place(Kernel(root), {**RULE, "cpus": "7"})
    serial = {"devices": {"action": "ttyS0"}, "cpus": "3"}
    place(Kernel(root), serial)
    assert Originals.load(state_directory(str(root))).vectors == {
        ETH0: {"0": "0-7", "1": "0-7", "2": "0-7"},
        "[ttyS0]": {"0": "0-7"},
    }
    put_back(Kernel(root))
    assert [request(root, number) for number in (4, 30, 31, 32)] == ["0-7"] * 4


def test_what_is_as_wanted_at_first_is_kept_as_well(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    (root / "proc/irq/31/smp_affinity_list").write_text("1\n", encoding="utf-8")
    (root / "sys/class/net/eth0/queues/tx-0/xps_cpus").write_text("05\n", encoding="utf-8")
    rule = {**RULE, "xps": True}
    place(Kernel(root), rule)
    # The driver is loaded anew.
    (root / "proc/irq/31/smp_affinity_list").write_text("0-7\n", encoding="utf-8")
    (root / "sys/class/net/eth0/queues/tx-0/xps_cpus").write_text("00\n", encoding="utf-8")
    place(Kernel(root), rule)
    put_back(Kernel(root))
    assert request(root, 31) == "1"
    assert int((root / "sys/class/net/eth0/queues/tx-0/xps_cpus").read_text(encoding="utf-8"), 16) == 5


def test_our_default_is_no_original(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    # Like our default, and the administrator's: it was so before ours was in force.
    (root / "proc/irq/30/smp_affinity_list").write_text("0\n", encoding="utf-8")
    place(Kernel(root), default_smp_affinity="0,4")
    # More queues: the kernel gives them the default in force, or a part of it.
    for number, given in ((33, "0,4"), (34, "4"), (35, "7")):
        (root / f"sys/bus/pci/devices/{ETH0}/msi_irqs/{number}").write_text("msix\n", encoding="utf-8")
        irq_trees.add_vector(root, number, f"{ETH0}-{number}", given)
    place(Kernel(root), default_smp_affinity="0,4")
    kept = Originals.load(state_directory(str(root))).vectors[ETH0]
    assert kept == {"0": "0", "1": "0-7", "2": "0-7", "3": "0-7", "4": "0-7", "5": "7"}


def test_originals_are_there_before_the_first_write(tmp_path: Path) -> None:
    seen: list[dict[str, dict[str, str]]] = []

    def refuse(_text: str) -> int:
        seen.append(Originals.load(state_directory(str(tmp_path))).vectors)
        return errno.EIO

    place(Kernel(irq_trees.lay_out(tmp_path), {30: refuse}))
    assert seen == [{ETH0: {"0": "0-7", "1": "0-7", "2": "0-7"}}]


def test_damaged_originals_are_refused(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    place(Kernel(root))
    (root / "var/lib/numapin/irq-affinity.json").write_text('{"version": 9}', encoding="utf-8")
    with pytest.raises(IrqError, match=r"is damaged \(its version is 9, known is 1\): restore it from a backup"):
        place(Kernel(root))


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"vectors": []},
        {"vectors": {ETH0: ["0"]}},
        {"vectors": {ETH0: {"first": "0"}}},
        {"vectors": {ETH0: {"0": 7}}},
        {"masks": {"/sys/class/net/eth0/mtu": "1"}},
        {"masks": {"/proc/irq/default_smp_affinity": None}},
        {"irqbalance": []},
        {"irqbalance": {"service": True}},
        {"irqbalance": {"administrators": ["/opt/own"]}},
    ],
)
def test_originals_of_another_shape_are_refused(tmp_path: Path, content: t.Any) -> None:
    if isinstance(content, dict):
        content = {"version": 1, "vectors": {}, "masks": {}, "irqbalance": {}, **content}
    (tmp_path / "irq-affinity.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(IrqError, match=r"is damaged \(.*\): restore it from a backup"):
        Originals.load(str(tmp_path))


def test_who_holds_the_lock_too_long_is_named(tmp_path: Path) -> None:
    said = pytest.raises(IrqError, match=r"service numapin-irq-affinity.* for 0.2 seconds")
    with one_at_a_time(str(tmp_path)), said, one_at_a_time(str(tmp_path), 0.2):
        pass
    with one_at_a_time(str(tmp_path), 0.2):
        pass


def test_what_is_said(tmp_path: Path) -> None:
    kernel = Kernel(irq_trees.lay_out(tmp_path), {31: [errno.EIO]})
    run = place(kernel, default_smp_affinity="0")
    assert summary(run) == "3 vectors: 2 moved, 1 that the kernel does not let be moved, 1 masks written"
    assert moves(run) == [
        f"eth0, mlx5_0 ({ETH0}): queue 0 0-7 -> 0, queue 2 0-7 -> 2",
        "default: default_smp_affinity 0-7 -> 0",
    ]
    assert table(run, after=False).splitlines() == [
        "device                       queue  irq  name                  CPUs",
        f"eth0, mlx5_0 ({ETH0})  0      30   {ETH0}-0        0-7",
        f"eth0, mlx5_0 ({ETH0})  1      31   {ETH0}-1        0-7",
        f"eth0, mlx5_0 ({ETH0})  2      32   {ETH0}-2        0-7",
        "any device                   -      -    default_smp_affinity  0-7",
    ]
    assert [line.split()[-1] for line in table(run, after=True).splitlines()] == ["CPUs", "0", "0-7", "2", "0"]
    assert table(place(kernel, default_smp_affinity="0"), after=True) == ""
