# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module as a program: what it returns, what it refuses, and what it touches."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.modules import irq_affinity
from ansible_collections.numapin.inference.tests.figures import made_up_tree
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import irq_trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.irq_trees import ETH0, request

RULES = [{"name": "near", "devices": {"netdev": "eth0"}}]
# What changes something: everything that is not one of these, on a path below the tree, is a read.
OPENED_TO_WRITE = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
CHANGING = (
    "open,openat,creat,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,rmdir,truncate,chmod,fchmodat,symlink"
)


def run_module(arguments: dict[str, t.Any], *before: str) -> tuple[int, dict[str, t.Any], str]:
    """Run the module as a program, as Ansible does on a host."""
    base = Path(irq_affinity.__file__).parents[5]
    command = [*before, sys.executable, "-B", "-m", irq_affinity.__name__]
    given = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
    result = subprocess.run(command, cwd=base, input=given, capture_output=True, text=True, timeout=120, check=False)
    return result.returncode, json.loads(result.stdout), result.stderr


def warnings_of(arguments: dict[str, t.Any]) -> list[str]:
    """The texts of the warnings; ansible-core wraps them for its own controller."""
    found = run_module(arguments)[1].get("warnings", [])
    return [one if isinstance(one, str) else one["event"]["msg"] for one in found]


def test_a_tree(tmp_path: Path) -> None:
    arguments = {"root": str(irq_trees.lay_out(tmp_path)), "rules": RULES, "_ansible_diff": True}
    code, answer, stderr = run_module(arguments)
    assert (code, stderr) == (0, "")
    assert answer["changed"] is True
    assert answer["vectors"][1] == {
        "irq": 31,
        "device": ETH0,
        "device_name": f"eth0, mlx5_0 ({ETH0})",
        "queue": 1,
        "name": f"{ETH0}-1",
        "rule": "rule 1 (near)",
        "before": "0-7",
        "wanted": "1",
        # A laid-out tree is no kernel: nothing follows the request.
        "effective": "0",
        "pending": True,
        "predicted": False,
        "result": "changed",
        "errno": None,
        "message": None,
    }
    assert (answer["counts"], answer["service"], answer["irqbalance"]) == ({"changed": 3}, "none", "none")
    assert answer["diff"][0]["before"].splitlines()[0].split() == ["device", "queue", "irq", "name", "CPUs"]
    assert run_module(arguments)[1]["changed"] is False
    assert run_module({"root": str(tmp_path), "state": "restored"})[1]["changed"] is True
    assert request(tmp_path, 31) == "0-7"
    # Nothing is left of it.
    assert not (tmp_path / "var/lib/numapin").exists()
    assert run_module({"root": str(tmp_path), "state": "restored"})[1]["changed"] is False


def test_what_no_rule_selects_any_more_is_put_back(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    serial = {"devices": {"action": "ttyS*"}, "cpus": "3"}
    both = [{**RULES[0], "xps": True, "rps": True}, {"devices": {"netdev": "eth1"}}, serial]
    run_module({"root": str(root), "rules": both, "default_smp_affinity": "0"})
    fewer = {"root": str(root), "rules": [{**RULES[0], "rps": True}]}
    # Its driver is away: what it had is not forgotten.
    kept = root / "proc/irq/41/smp_affinity_list"
    (root / "sys/bus/pci/devices/0000:c1:00.0/msi_irqs/41").unlink()
    checked = run_module({**fewer, "_ansible_check_mode": True})[1]
    assert request(root, 40) == "4"
    answer = run_module(fewer)[1]
    assert [(one["irq"], one["wanted"]) for one in answer["vectors"] if one["result"] == "changed"] == [
        (40, "0-7"),
        (4, "0-7"),
    ]
    assert sorted(one["kind"] for one in answer["masks"] if one["result"] == "changed") == [
        "default_smp_affinity",
        "xps",
        "xps",
    ]
    assert [one["irq"] for one in checked["vectors"]] == [one["irq"] for one in answer["vectors"]]
    assert [request(root, number) for number in (4, 30, 31, 32, 40)] == ["0-7", "0", "1", "2", "0-7"]
    assert kept.read_text(encoding="utf-8") == "5"
    state = json.loads((root / "var/lib/numapin/irq-affinity.json").read_text(encoding="utf-8"))
    assert state["vectors"] == {ETH0: {"0": "0-7", "1": "0-7", "2": "0-7"}, "0000:c1:00.0": {"1": "0-7"}}
    assert sorted(path.rpartition("/")[2] for path in state["masks"]) == ["rps_cpus", "rps_cpus"]
    assert run_module(fewer)[1]["changed"] is False


def test_bad_input_is_refused_before_the_first_write(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    for rules, said in (
        ([*RULES, {"devices": {"netdev": "eth1"}, "cpus": "0-3,N"}], "rule 2: 'N' in the CPU list '0-3,N' is wrong"),
        ([*RULES, {"devices": {"netdev": "eth7"}}], "rule 2: there is no netdev eth7; this host has eth0, eth1"),
    ):
        code, answer, stderr = run_module({"root": str(root), "rules": rules})
        assert (code, stderr) == (1, "")
        assert said in answer["msg"]
        assert request(root, 30) == "0-7"
        assert not (root / "var").exists()


def test_rules_are_required() -> None:
    code, answer, _stderr = run_module({})
    assert (code, answer["msg"]) == (1, "state is present but all of the following are missing: rules")


def test_strict(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    (root / "proc/irq/31/smp_affinity_list").chmod(0o444)
    arguments = {"root": str(root), "rules": RULES}
    code, answer, _stderr = run_module(arguments)
    assert (code, answer["counts"]) == (0, {"changed": 2, "unchangeable": 1})
    code, answer, _stderr = run_module({**arguments, "strict": True})
    assert code == 1
    assert answer["msg"] == (
        "3 vectors: 2 as wanted, 1 that the kernel does not let be moved\n"
        f"interrupt 31 ({ETH0}-1, eth0, mlx5_0 ({ETH0})): unchangeable (EPERM), it is 0-7 and shall be 1"
    )
    assert len(answer["vectors"]) == 3


def test_check_mode_says_what_an_older_kernel_hides(tmp_path: Path) -> None:
    # The tree is of Linux 6.1.
    root = irq_trees.lay_out(tmp_path)
    arguments = {"root": str(root), "rules": RULES, "_ansible_check_mode": True}
    warning = warnings_of(arguments)[0]
    assert warning.startswith(
        "3 vectors would be moved if the kernel lets them: Linux 6.1.0-40-amd64 shows only on writing"
    )
    (root / "proc/sys/kernel/osrelease").write_text("6.12.41-amd64\n", encoding="utf-8")
    assert warnings_of(arguments) == []


def test_competitors_are_named(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    for unit in ("irqbalance", "tuned"):
        directory = root / f"sys/fs/cgroup/system.slice/{unit}.service"
        directory.mkdir(parents=True)
        (directory / "cgroup.events").write_text("populated 1\nfrozen 0\n", encoding="utf-8")
    for path, text in (
        ("tuned/active_profile", "cpu-partitioning\n"),
        ("infiniband/openib.conf", "RUN_AFFINITY_TUNER=yes\n"),
    ):
        (root / "etc" / path).parent.mkdir(parents=True)
        (root / "etc" / path).write_text(text, encoding="utf-8")
    arguments = {"root": str(root), "rules": RULES}
    warnings = warnings_of({**arguments, "irqbalance": "ignore"})
    assert [warning.split(":")[0] for warning in warnings] == [
        "TuneD is active with the profile cpu-partitioning",
        "irqbalance is active and moves what is placed here every ten seconds",
        "/etc/infiniband/openib.conf has RUN_AFFINITY_TUNER=yes",
    ]
    assert len(warnings_of({**arguments, "irqbalance": "coexist"})) == 2


def test_a_large_machine(tmp_path: Path) -> None:
    """4,096 vectors on 768 CPUs of eight nodes: all on their node, no core with more than its share."""
    root = made_up_tree.lay_out(tmp_path, made_up_tree.Shape(gpus=0, processes=1))
    rules = [{"devices": {"node": node, "kinds": ["nic", "nvme"]}} for node in range(8)]
    code, answer, _stderr = run_module({"root": str(root), "rules": rules})
    assert (code, answer["counts"]) == (0, {"changed": 4096})
    load: dict[int, int] = {}
    for one in answer["vectors"]:
        cpu = int(one["wanted"])
        load[cpu % 384] = load.get(cpu % 384, 0) + 1
        assert one["rule"] == f"rule {cpu % 384 // 48 + 1}"
    # 512 vectors for the 48 cores of each node.
    assert set(load.values()) == {10, 11}
    assert len(load) == 384


# `make units` and CI install strace; plain pytest on a contributor's machine goes without.
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    """Traced: no file is opened to write, made, renamed or removed."""
    root = irq_trees.lay_out(tmp_path / "root")
    trace = tmp_path / "trace"
    strace = ("strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={CHANGING}")
    arguments = {"root": str(root), "rules": [{**RULES[0], "xps": True}], "default_smp_affinity": "0"}
    code, answer, _stderr = run_module({**arguments, "_ansible_check_mode": True}, *strace)
    assert (code, answer["changed"]) == (0, True)
    assert writes(trace) == []
    # The same eyes see the writes of a run that is no check.
    run_module(arguments, *strace)
    seen = "\n".join(writes(trace))
    assert f"{root}/proc/irq/30/smp_affinity_list" in seen
    assert f"{root}/proc/irq/default_smp_affinity" in seen


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_check_mode_writes_nothing_on_this_machine(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    strace = ("strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={CHANGING}")
    rule = {"devices": {"action": "*"}, "target": {"node": 0}, "policy": "all", "optional": True}
    arguments = {"rules": [rule], "persistent": False, "irqbalance": "ignore", "default_smp_affinity": "0"}
    code, answer, _stderr = run_module({**arguments, "_ansible_check_mode": True}, *strace)
    assert (code, answer.get("msg")) == (0, None)
    assert "/sys/devices/system/cpu/online" in trace.read_text(encoding="utf-8")
    assert writes(trace) == []


def writes(trace: Path) -> list[str]:
    """The traced calls that change something, or would have, had the path been there."""
    lines = trace.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if OPENED_TO_WRITE.search(line) or not re.search(r"\bopen(at)?\(", line)]
