# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service: the module's code as one file without Ansible, what wakes it, and what it says."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _irq_service, _irq_state, _program
from ansible_collections.numapin.inference.plugins.module_utils._irqs import IrqError
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import irq_trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.irq_trees import ETH0, request

if t.TYPE_CHECKING:
    from pathlib import Path

RULES = [
    {"name": "near", "devices": {"netdev": "eth0"}, "policy": "spread", "xps": False},
    {"name": "later", "devices": {"netdev": "eth9"}},
]


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """What the module writes for the service, and a machine beside it; the second rule's device is not there yet."""
    irq_trees.lay_out(tmp_path / "root")
    path = tmp_path / "irq-affinity.json"
    content = {"rules": RULES, "exclude_cpus": "0", "default_smp_affinity": None, "check_seconds": 3}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_the_program_runs_without_ansible(configuration: Path, tmp_path: Path) -> None:
    program = tmp_path / "irq-affinity.pyz"
    program.write_bytes(_program.program("_irq_service"))
    command = [sys.executable, "-I", "-S", str(program), "--once", f"--configuration={configuration}"]
    command.append(f"--root={tmp_path / 'root'}")

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    first = run()
    assert (first.returncode, first.stderr) == (0, "")
    assert f"once: eth0, mlx5_0 ({ETH0}): queue 0 0-7 -> 1, queue 1 0-7 -> 2, queue 2 0-7 -> 3" in first.stdout
    assert "rule 2 (later): there is no netdev eth9" in first.stdout
    assert [request(tmp_path / "root", number) for number in (30, 31, 32)] == ["1", "2", "3"]
    assert "->" not in run().stdout
    configuration.write_text("{", encoding="utf-8")
    damaged = run()
    assert damaged.returncode == 1
    assert "is damaged" in damaged.stderr
    assert "run the module irq_affinity again" in damaged.stderr
    assert "Traceback" not in damaged.stderr


def test_the_program_holds_only_what_it_needs() -> None:
    sources = _program.sources("_irq_service")
    assert {"_irq_apply", "_irq_rules", "_irqs", "_host"} <= set(sources)
    # Nothing of Ansible, of NVML, of systemd's units.
    assert not {"_nvml", "_gpu_asking", "_systemd", "_files", "_irq_affinity"} & set(sources)
    assert all("ansible.module_utils" not in source for source in sources.values())


def test_keeps_and_tells_once(configuration: Path, tmp_path: Path) -> None:
    said: list[str] = []
    keeper = _irq_service.Keeper(str(configuration), str(tmp_path / "root"), said.append)
    keeper.keep("at the start")
    assert keeper.check_seconds == 3
    assert keeper.status.startswith("3 of 3 vectors as wanted; last moved 3 at ")
    assert keeper.status.endswith("(at the start)")
    count = len(said)
    keeper.keep("at the regular look")
    # The missing device is not told again, and nothing was moved.
    assert len(said) == count
    irq_trees.add_vector(tmp_path / "root", 31, f"{ETH0}-1", "0-7")
    keeper.keep("a link changed")
    assert said[count:] == [f"a link changed: eth0, mlx5_0 ({ETH0}): queue 1 0-7 -> 2"]
    assert keeper.status.endswith("(a link changed)")


def test_a_device_that_comes_later(configuration: Path, tmp_path: Path) -> None:
    from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import device_trees

    root = tmp_path / "root"
    keeper = _irq_service.Keeper(str(configuration), str(root), lambda _line: None)
    assert len(keeper.keep("at the start").vectors) == 3
    place = "pci0000:c0/0000:c0:03.1/0000:c3:00.0"
    device_trees.add_pci(root, place, numa_node=1, irqs=[90])
    device_trees.add_class_device(root, "net", place, "eth9", {})
    irq_trees.add_vector(root, 90, "eth9-0", "0-7")
    assert len(keeper.keep("a device changed").vectors) == 4
    assert request(root, 90) == "4"


def test_a_cpu_that_goes_offline(configuration: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    keeper = _irq_service.Keeper(str(configuration), str(root), lambda _line: None)
    keeper.keep("at the start")
    (root / "sys/devices/system/cpu/online").write_text("0-1,3-7\n", encoding="utf-8")
    (root / "sys/devices/system/node/node0/cpulist").write_text("0-1,3\n", encoding="utf-8")
    keeper.keep("a device changed")
    assert [request(root, number) for number in (30, 31, 32)] == ["1", "3", "1"]


def test_the_configuration_is_read_when_no_run_writes_it(
    configuration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    lock = _irq_state.one_at_a_time

    @contextlib.contextmanager
    def waits_for_a_run(directory: str) -> t.Iterator[None]:
        # The run that has the lock writes another configuration before it lets go.
        content = {"rules": RULES[:1], "exclude_cpus": "0-1", "default_smp_affinity": None, "check_seconds": 3}
        configuration.write_text(json.dumps(content), encoding="utf-8")
        with lock(directory):
            yield

    monkeypatch.setattr(_irq_service, "one_at_a_time", waits_for_a_run)
    _irq_service.Keeper(str(configuration), str(root), lambda _line: None).keep("at the start")
    assert [request(root, number) for number in (30, 31, 32)] == ["2", "3", "2"]


def test_no_configuration(tmp_path: Path) -> None:
    keeper = _irq_service.Keeper(str(tmp_path / "nothing"), str(tmp_path), lambda _line: None)
    with pytest.raises(IrqError, match="nothing: No such file or directory: run the module irq_affinity again"):
        keeper.keep("at the start")


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        _irq_service.notify("STATUS=3 of 3\nREADY=1")
        assert systemd.recv(100) == b"STATUS=3 of 3\nREADY=1"


def test_what_wakes_it() -> None:
    link, sends_link = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    device, sends_device = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with link, sends_link, device, sends_device:
        listener = _irq_service.Listener({link: _irq_service.LINK, device: _irq_service.DEVICE})
        assert listener.wait(0.05) is None
        sends_device.send(b"add@/devices/sda\0ACTION=add\0SUBSYSTEM=block\0")
        assert listener.wait(0.05) is None
        for _each in range(3):
            sends_device.send(b"bind@/devices/pci0000:00\0ACTION=bind\0SUBSYSTEM=pci\0")
        assert listener.wait(5) == "a device changed"
        # The three are one reason to look.
        assert listener.wait(0.05) is None
        sends_link.send(b"RTM_NEWLINK, whatever is in it")
        assert listener.wait(5) == "a link changed"


def test_it_hears_this_machine() -> None:
    listener = _irq_service.Listener()
    try:
        assert listener.missing == [] or all(line.startswith("events are not heard") for line in listener.missing)
        assert listener.wait(0.01) in (None, "a link changed", "a device changed")
    finally:
        listener.close()
