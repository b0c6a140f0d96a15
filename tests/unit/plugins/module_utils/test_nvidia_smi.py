# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What nvidia-smi of many drivers prints becomes answers, and what it does not say stays unknown.

The texts are written in the formats that drivers print, not copied from anybody's machine: tabs between the cells, a
blank around X, a second tab before the last column, rows of NICs that end in empty cells, an underlined header.
"""

from __future__ import annotations

import os
import stat
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._commands import CommandError
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import (
    GpuAnswer,
    GpuAnswers,
    LinkAnswer,
    MigDevice,
)
from ansible_collections.numapin.inference.plugins.module_utils._nvidia_smi import (
    NvidiaSmiError,
    nvidia_smi_of_this_machine,
    read_nvidia_smi,
)

LEGEND = """
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NV#  = Connection traversing a bonded set of # NVLinks

NIC Legend:

  NIC0: mlx5_0
"""


def uuid(index: int) -> str:
    return f"GPU-0000000{index}-1111-2222-3333-444444444444"


def listed(*buses: str, mig: str = "Disabled", name: str = "NVIDIA H100 80GB HBM3") -> str:
    """Return what ``--query-gpu`` prints."""
    return "".join(
        f"{index}, 00000000:{bus}:00.0, {uuid(index)}, 81559, {mig}, {name}\n" for index, bus in enumerate(buses)
    )


class Smi:
    """nvidia-smi as it prints on some machine; an error is raised."""

    def __init__(self, query: str | NumapinError, topo: str | NumapinError = "", gpus: str | NumapinError = "") -> None:
        self.said = {"--query-gpu": query, "topo": topo, "-L": gpus}
        self.asked: list[str] = []

    def __call__(self, arguments: t.Sequence[str]) -> str:
        self.asked.append(" ".join(arguments))
        said = self.said[arguments[0].partition("=")[0]]
        if isinstance(said, NumapinError):
            raise said
        return said


R610 = (
    "\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n"
    "GPU0\t X \tNV18\tNV18\tPIX\t0-55,112-167\t0\t\tN/A\n"
    "GPU1\tNV18\t X \tNV18\tNODE\t0-55,112-167\t0\t\tN/A\n"
    "GPU2\tNV18\tNV18\t X \tSYS\t56-111,168-223\t1\t\tN/A\n"
    "NIC0\tPIX\tNODE\tSYS\t X \t\t\t\t\n" + LEGEND
)
R535 = (
    "\tGPU0\tGPU1\tGPU2\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
    "GPU0\t X \tPHB\tSYS\t0-15\t0\t\tN/A\n"
    "GPU1\tPHB\t X \tSYS\t0-15\t0\t\tN/A\n"
    "GPU2\tSYS\tSYS\t X \t16-31\t1\t\tN/A\n" + LEGEND
)
R525 = (
    "\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\tNUMA Affinity\x1b[0m\n"
    "GPU0\t X \tNV12\tNV12\tPXB\t48-63,176-191\t3\n"
    "GPU1\tNV12\t X \tNV12\tSYS\t16-31,144-159\t1\n"
    "GPU2\tNV12\tNV12\t X \tSYS\t112-127,240-255\t7\n"
    "NIC0\tPXB\tSYS\tSYS\t X \t\t\n" + LEGEND
)
R450 = (
    "\tGPU0\tGPU1\tGPU2\tmlx5_0\tCPU Affinity\tNUMA Affinity\n"
    "GPU0\t X \tNV1\tNV2\tNODE\t0-31\t\tN/A\n"
    "GPU1\tNV1\t X \tPIX\tNODE\t0-31\t\tN/A\n"
    "GPU2\tNV2\tPIX\t X \tSYS\t0-31\t\tN/A\n"
    "mlx5_0\tNODE\tNODE\tSYS\t X \t\t\n" + LEGEND
)
R375 = (
    "\tGPU0\tGPU1\tGPU2\tmlx5_0\tCPU Affinity\n"
    "GPU0\t X \tPIX\tSOC\tPHB\t0-9,20-29\n"
    "GPU1\tPIX\t X \tSOC\tPHB\t0-9,20-29\n"
    "GPU2\tSOC\tSOC\t X \tSOC\t10-19,30-39\n"
    "mlx5_0\tPHB\tPHB\tSOC\t X\n\n"
    "Legend:\n\n  X   = Self\n"
    "  SOC  = Connection traversing PCIe as well as the SMP link between CPU sockets(e.g. QPI)\n"
)


@pytest.mark.parametrize(
    ("topo", "near_nodes", "near_cpus", "kinds"),
    [
        pytest.param(R610, ["0", "0", "1"], "0-55,112-167", [18, 18, 18], id="R610"),
        pytest.param(R535, ["0", "0", "1"], "0-15", ["PHB", "SYS", "SYS"], id="R535"),
        pytest.param(R525, ["3", "1", "7"], "48-63,176-191", [12, 12, 12], id="R525"),
        pytest.param(R450, [None, None, None], "0-31", [1, 2, "PIX"], id="R450"),
        pytest.param(R375, [None, None, None], "0-9,20-29", ["PIX", "SYS", "SYS"], id="R375"),
    ],
)
def test_drivers(topo: str, near_nodes: list[str | None], near_cpus: str, kinds: list[int | str]) -> None:
    smi = Smi(listed("17", "2A", "3D"), topo)
    answers = read_nvidia_smi(smi)
    assert answers.source == "nvidia_smi"
    assert list(answers.gpus) == ["0000:17:00.0", "0000:2a:00.0", "0000:3d:00.0"]
    assert [gpu.near_nodes for gpu in answers.gpus.values()] == near_nodes
    assert answers.gpus["0000:17:00.0"] == GpuAnswer(
        uuid=uuid(0),
        name="NVIDIA H100 80GB HBM3",
        memory_total_mib=81559,
        near_nodes=near_nodes[0],
        near_cpus=near_cpus,
        memory_node=None,
        mig_enabled=False,
        mig_devices=(),
    )
    assert list(answers.links) == [
        ("0000:17:00.0", "0000:2a:00.0"),
        ("0000:17:00.0", "0000:3d:00.0"),
        ("0000:2a:00.0", "0000:3d:00.0"),
    ]
    assert list(answers.links.values()) == [
        LinkAnswer(kind, None) if isinstance(kind, int) else LinkAnswer(0, kind) for kind in kinds
    ]
    assert answers.warnings == ()
    assert [asked.split("=")[0] for asked in smi.asked] == ["--query-gpu", "topo -m"]


def test_links_that_nobody_wants() -> None:
    answers = read_nvidia_smi(Smi(listed("17", "2A", "3D"), R610), want_links=False)
    assert answers.links == {}
    assert answers.gpus["0000:3d:00.0"].near_nodes == "1"


def test_the_order_is_that_of_indices_not_of_rows() -> None:
    query = (
        f"1, 00000000:17:00.0, {uuid(1)}, 40960, [N/A], NVIDIA A100\n"
        f"0, 00000000:2A:00.0, {uuid(0)}, 40960, [N/A], NVIDIA A100\n"
    )
    topo = (
        "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
        "GPU0\t X \tSYS\t0-15\t0\t\tN/A\nGPU1\tSYS\t X \t16-31\t1\t\tN/A\n"
    )
    answers = read_nvidia_smi(Smi(query, topo))
    assert {address: gpu.near_nodes for address, gpu in answers.gpus.items()} == {
        "0000:17:00.0": "1",
        "0000:2a:00.0": "0",
    }
    assert answers.links == {("0000:17:00.0", "0000:2a:00.0"): LinkAnswer(0, "SYS")}


def test_grace_has_nodes_of_gpus_own_memory() -> None:
    topo = (
        "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
        "GPU0\t X \tNV18\t0-71\t0,2-9\t\t2\nGPU1\tNV18\t X \t72-143\t1\t\t10\n"
    )
    answers = read_nvidia_smi(Smi(listed("01", "02", name="NVIDIA GB200"), topo))
    assert [(gpu.near_nodes, gpu.memory_node) for gpu in answers.gpus.values()] == [("0,2-9", 2), ("1", 10)]


def test_a_virtual_machine_that_says_the_same_of_all() -> None:
    topo = (
        "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
        "GPU0\t X \tPHB\t0-31\t0-1\t\tN/A\nGPU1\tPHB\t X \t0-31\t0-1\t\tN/A\n"
    )
    answers = read_nvidia_smi(Smi(listed("17", "2A"), topo))
    assert [gpu.near_nodes for gpu in answers.gpus.values()] == ["0-1", "0-1"]


def test_a_container_without_the_cpus_of_a_gpu() -> None:
    topo = "\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t\t1\t\tN/A\n"
    gpu = read_nvidia_smi(Smi(listed("17"), topo)).gpus["0000:17:00.0"]
    assert (gpu.near_cpus, gpu.near_nodes, gpu.memory_node) == (None, "1", None)


def test_mig() -> None:
    query = listed("17", mig="Enabled", name="NVIDIA H200") + (
        f"1, 00000000:2A:00.0, {uuid(1)}, 143771, Disabled, NVIDIA H200\n"
    )
    gpus = (
        f"GPU 0: NVIDIA H200 (UUID: {uuid(0)})\n"
        "  MIG 1c.3g.71gb  Device  0: (UUID: MIG-aaaaaaaa-1111-5222-8333-444444444444)\n"
        "  MIG 2g.35gb     Device  1: (UUID: MIG-bbbbbbbb-1111-5222-8333-444444444444)\n"
        f"GPU 1: NVIDIA H200 (UUID: {uuid(1)})\n"
    )
    answers = read_nvidia_smi(Smi(query, "", gpus))
    assert answers.gpus["0000:17:00.0"].mig_enabled is True
    assert answers.gpus["0000:17:00.0"].mig_devices == (
        MigDevice("MIG-aaaaaaaa-1111-5222-8333-444444444444", "NVIDIA H200 MIG 1c.3g.71gb", None),
        MigDevice("MIG-bbbbbbbb-1111-5222-8333-444444444444", "NVIDIA H200 MIG 2g.35gb", None),
    )
    assert (answers.gpus["0000:2a:00.0"].mig_enabled, answers.gpus["0000:2a:00.0"].mig_devices) == (False, ())


def test_mig_as_the_first_drivers_name_it() -> None:
    gpus = f"GPU 0: A100-SXM4-40GB (UUID: {uuid(0)})\n  MIG 1g.5gb Device 0: (UUID: MIG-{uuid(0)}/7/0)\n"
    answers = read_nvidia_smi(Smi(listed("17", mig="Enabled", name="A100-SXM4-40GB"), "", gpus))
    (device,) = answers.gpus["0000:17:00.0"].mig_devices
    assert (device.uuid, device.name) == (f"MIG-{uuid(0)}/7/0", "A100-SXM4-40GB MIG 1g.5gb")


@pytest.mark.parametrize(
    ("mode", "enabled"),
    [("Enabled", True), ("Disabled", False), ("[N/A]", False), ("[Unknown Error]", None), ("[GPU is lost]", None)],
)
def test_mig_modes(mode: str, enabled: bool | None) -> None:
    assert read_nvidia_smi(Smi(listed("17", mig=mode))).gpus["0000:17:00.0"].mig_enabled is enabled


def test_a_driver_that_knows_no_mig() -> None:
    class Old(Smi):
        def __call__(self, arguments: t.Sequence[str]) -> str:
            if "mig.mode.current" in arguments[0]:
                raise NvidiaSmiError('exit status 2: Field "mig.mode.current" is not a valid field to query.')
            return super().__call__(arguments)

    query = f"0, 00000000:17:00.0, {uuid(0)}, 16160, Tesla V100-SXM2-16GB\n"
    gpu = read_nvidia_smi(Old(query, R375)).gpus["0000:17:00.0"]
    assert (gpu.name, gpu.memory_total_mib, gpu.mig_enabled) == ("Tesla V100-SXM2-16GB", 16160, False)


def test_a_name_with_commas_and_answers_that_are_none() -> None:
    query = "0, 00000000:17:00.0, [Unknown Error], [N/A], [N/A], Graphics Device, rev 2\n"
    gpu = read_nvidia_smi(Smi(query)).gpus["0000:17:00.0"]
    assert (gpu.uuid, gpu.name, gpu.memory_total_mib) == (None, "Graphics Device, rev 2", None)


def test_lines_that_are_no_gpus() -> None:
    corrupt = "WARNING: infoROM is corrupted at gpu 0000:17:00.0\n"
    answers = read_nvidia_smi(Smi(listed("17") + corrupt + listed("17"), R375))
    assert list(answers.gpus) == ["0000:17:00.0"]
    assert answers.warnings == (
        "nvidia-smi says 'WARNING: infoROM is corrupted at gpu 0000:17:00.0' where a GPU is expected: that is left out",
        f"nvidia-smi says {listed('17').strip()!r} where a GPU is expected: that is left out",
    )


@pytest.mark.parametrize(
    "topo",
    [
        "",
        "junk",
        LEGEND,
        "\tGPU0\tGPU1\tCPU Affinity\n",
        "\tGPU7\tCPU Affinity\nGPU7\t X \t0-3\n",
        "        GPU0    GPU1    CPU Affinity\nGPU0     X      SYS     0-3\n",
    ],
)
def test_a_matrix_that_is_none(topo: str) -> None:
    answers = read_nvidia_smi(Smi(listed("17", "2A"), topo))
    assert (answers.source, answers.links) == ("nvidia_smi", {})
    assert {(gpu.near_cpus, gpu.near_nodes, gpu.name) for gpu in answers.gpus.values()} == {
        (None, None, "NVIDIA H100 80GB HBM3")
    }
    assert answers.warnings == (
        "nvidia-smi topo -m prints no matrix of GPUs that is known: links and affinities are unknown",
    )


def test_cells_that_are_not_known() -> None:
    topo = "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\nGPU0\t X \tC2C\t3-0\tzero\nGPU1\t"
    answers = read_nvidia_smi(Smi(listed("17", "2A"), topo))
    assert answers.links == {}
    assert (answers.gpus["0000:17:00.0"].near_cpus, answers.gpus["0000:17:00.0"].near_nodes) == (None, None)
    assert answers.warnings == ("nvidia-smi topo -m prints links that are not known: '', 'C2C'",)


def test_nvidia_smi_that_does_not_work() -> None:
    error = NvidiaSmiError(
        "exit status 9: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    )
    smi = Smi(error)
    assert read_nvidia_smi(smi) == GpuAnswers(None, warnings=(f"nvidia-smi does not tell the GPUs: {error}",))
    assert len(smi.asked) == 1


def test_single_questions_that_fail() -> None:
    hangs = CommandError("nvidia-smi topo -m did not end within 60 seconds and was killed")
    answers = read_nvidia_smi(Smi(listed("17", "2A", mig="Enabled"), hangs, NvidiaSmiError("exit status 255: nothing")))
    assert answers.source == "nvidia_smi"
    assert answers.gpus["0000:2a:00.0"].mig_enabled is True
    assert answers.warnings == (
        f"nvidia-smi does not tell links and affinities: {hangs}",
        "nvidia-smi does not tell the MIG devices: exit status 255: nothing",
    )


def test_no_gpu() -> None:
    smi = Smi("")
    assert read_nvidia_smi(smi) == GpuAnswers("nvidia_smi")
    assert len(smi.asked) == 1


# The program


@pytest.fixture(name="program")
def _program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path / "nvidia-smi"


def install(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def ask(*arguments: str) -> str:
    smi = nvidia_smi_of_this_machine()
    assert smi is not None
    return smi(arguments)


def test_the_program_is_asked(program: Path) -> None:
    install(program, 'echo "$1 $2 $LC_ALL"')
    assert ask("topo", "-m") == "topo -m C\n"


def test_a_corrupt_inforom_is_no_failure(program: Path) -> None:
    install(program, "echo all there; exit 14")
    assert ask("-L") == "all there\n"


def test_a_failure_says_why(program: Path) -> None:
    install(program, "echo; echo 'No devices were found'; exit 6")
    with pytest.raises(NvidiaSmiError, match=r"^exit status 6: No devices were found$"):
        ask("-L")


def test_a_machine_without_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if nvidia_smi_of_this_machine() is not None:
        pytest.skip("this machine has nvidia-smi in a system directory")
    install(tmp_path / "nvidia-smi", "echo there")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask() == "there\n"
