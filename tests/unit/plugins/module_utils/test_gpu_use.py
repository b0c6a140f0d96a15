# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which GPUs an instance's processes hold, as NVML, nvidia-smi, KFD and device files say it."""

from __future__ import annotations

import os
import signal
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._gpu_asking import ask_users
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._gpu_use import GpuUse, read_gpu_use
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._nvml import read_nvml_processes
from ansible_collections.numapin.inference.plugins.module_utils._placement import read_placement
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.nvml_double import (
    NOT_SUPPORTED,
    DoubleGpu,
    DoubleMig,
    NvmlDouble,
)
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.process_trees import (
    SLICE,
    Machine,
    entry,
    refuse_to_run,
)

if t.TYPE_CHECKING:
    from pathlib import Path

UUIDS = tuple(f"GPU-0000000{number}-1111-2222-3333-444444444444" for number in range(4))
MIGS = ("MIG-aaaaaaaa-1111-2222-3333-444444444444", "MIG-bbbbbbbb-1111-2222-3333-444444444444")
ADDRESSES = ("0000:17:00.0", "0000:2a:00.0", "0000:3d:00.0", "0000:60:00.0")


@pytest.fixture(name="machine")
def fixture_machine(tmp_path: Path) -> Machine:
    """One instance: an API server (100) and two workers (200, 201)."""
    machine = Machine(tmp_path)
    machine.group(f"{SLICE}/vllm@tiny-n0.service", 100, 200, 201)
    machine.process(100, "1")
    for pid in (200, 201):
        machine.process(pid, "1", comm="VLLM::Worker")
    return machine


def gpus(*pids: tuple[int, ...]) -> NvmlDouble:
    """GPUs with these compute processes."""
    return NvmlDouble(
        [
            DoubleGpu(f"0000{address}", UUIDS[number], mig=(), pids=pids[number])
            for number, address in enumerate(ADDRESSES[: len(pids)])
        ]
    )


def read(
    machine: Machine, planned: list[str], nvml: t.Any = None, smi: t.Any = None, **more: t.Any
) -> dict[str, t.Any]:
    sources = GpuSources((lambda: nvml) if nvml else None, smi)
    host = Host(str(machine.root))
    answer = read_placement(host, [entry(gpus=planned)], 99, refuse_to_run, gpu_sources=sources, **more)
    one = answer["instances"][0]
    assert one["ok"] is (not one["problems"])
    return {**one, "gpu_warnings": answer["gpu_warnings"]}


def driver(machine: Machine) -> None:
    """NVIDIA's driver as /proc shows it; minors are not in the order of addresses."""
    for number, address in enumerate(ADDRESSES):
        machine.write(
            f"/proc/driver/nvidia/gpus/{address}/information",
            f"Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 40\nGPU UUID: \t {UUIDS[number]}\n"
            f"Bus Location: \t {address}\nDevice Minor: \t {3 - number}\nGPU Excluded:\t No\n",
        )


def opens(machine: Machine, pid: int, *files: str) -> None:
    directory = machine.root / f"proc/{pid}/fd"
    directory.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        (directory / str(number)).symlink_to(file)


def test_what_is_planned_is_held(machine: Machine) -> None:
    one = read(machine, [UUIDS[1], UUIDS[0]], gpus((200,), (201, 4711), (9,)))
    assert one["problems"] == []
    assert one["gpus"] == {
        "planned": [UUIDS[1], UUIDS[0]],
        "held": [{"gpu": UUIDS[0], "pids": [200]}, {"gpu": UUIDS[1], "pids": [201]}],
        "missing": [],
        "unplanned": [],
        "unknown": [],
        "unknown_because": None,
        "source": "nvml",
        "problems": [],
    }


def test_the_wrong_gpu_and_the_missing_one_are_named(machine: Machine) -> None:
    one = read(machine, [UUIDS[0], UUIDS[1]], gpus((200,), (), (201, 100)))
    assert one["problems"] == [
        (
            f"GPU {UUIDS[2]} is held by process 100 (python3), process 201 (VLLM::Worker) and is not planned"
            " (so says NVML)"
        ),
        f"GPU {UUIDS[1]} is planned and none of its processes holds it (so says NVML)",
    ]
    assert (one["gpus"]["missing"], one["gpus"]["unplanned"]) == ([UUIDS[1]], [UUIDS[2]])


def test_a_cpu_instance_that_holds_a_gpu(machine: Machine) -> None:
    driver(machine)
    assert read(machine, [], gpus((), (100,)))["gpus"]["unplanned"] == [UUIDS[1]]


def test_a_gpu_is_not_missing_while_the_instance_starts(machine: Machine) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    machine.write("/proc/uptime", "1000.50 3000.00\n")
    for pid in (100, 200, 201):
        fields = ["0"] * 52
        fields[0:3] = [str(pid), "(a) b)", "S"]
        fields[21], fields[38] = str(900 * ticks + pid), "1"
        machine.write(f"/proc/{pid}/task/{pid}/stat", " ".join(fields) + "\n")
    late = read(machine, [UUIDS[0]], gpus(()), starting_seconds=90)
    assert late["problems"] == [f"GPU {UUIDS[0]} is planned and none of its processes holds it (so says NVML)"]
    soon = read(machine, [UUIDS[0]], gpus(()), starting_seconds=120)
    assert (soon["problems"], soon["notes"]) == ([], late["problems"])
    # One that is not planned is wrong from the start.
    assert len(read(machine, [UUIDS[0]], gpus((), (200,)), starting_seconds=120)["problems"]) == 1


def test_mig_devices(machine: Machine) -> None:
    double = gpus((200,), ())
    slices = (DoubleMig(0, MIGS[0], "1g", 1 << 30, (200,)), DoubleMig(4, MIGS[1], "1g", 1 << 30, (201,)))
    double = NvmlDouble([replace(double.gpus[0], mig=slices, mig_enabled=True), double.gpus[1]])
    assert read(machine, list(MIGS), double)["problems"] == []
    one = read(machine, [MIGS[0]], double)
    assert one["gpus"]["unplanned"] == [MIGS[1]]
    assert "so says NVML" in one["problems"][0]


def test_a_gpu_without_an_answer_is_left_to_the_device_files(machine: Machine) -> None:
    driver(machine)
    double = gpus((200,), ())
    double.failing = {("nvmlDeviceGetComputeRunningProcesses", 1): NOT_SUPPORTED}
    opens(machine, 200, "/dev/nvidiactl", "/dev/nvidia3", "/dev/nvidia2", "/dev/nvidia-uvm")
    one = read(machine, [UUIDS[0], UUIDS[1]], double)
    assert one["problems"] == []
    assert one["gpus"]["held"][1] == {"gpu": UUIDS[1], "pids": [200]}
    assert "Not Supported" in one["gpu_warnings"][0]


def test_open_files_of_other_gpus_prove_nothing_and_a_file_that_is_not_open_does(machine: Machine) -> None:
    driver(machine)
    # GPUs 0, 1 and 2 by minor.
    opens(machine, 200, "/dev/nvidia3", "/dev/nvidia2", "/dev/nvidia1", "/dev/nvidia1")
    one = read(machine, [UUIDS[0], UUIDS[3]])
    assert one["gpus"]["source"] == "handles"
    assert one["gpus"]["unplanned"] == []
    assert one["problems"] == [
        f"GPU {UUIDS[3]} is planned and none of its processes holds it (so says open device files)"
    ]


def test_what_nobody_knows_is_unknown_and_no_problem(machine: Machine) -> None:
    one = read(machine, [UUIDS[0]])
    assert one["problems"] == []
    assert one["gpus"]["unknown"] == [UUIDS[0]]
    assert one["gpus"]["unknown_because"] == "nobody on this host knows these GPUs"
    assert one["notes"] == [f"whether it holds {UUIDS[0]} is unknown: nobody on this host knows these GPUs"]


def test_files_that_cannot_be_read_are_unknown(machine: Machine) -> None:
    driver(machine)
    for pid in (100, 200, 201):
        machine.write(f"/proc/{pid}/stat", "")
    one = read(machine, [UUIDS[0]])
    assert one["gpus"]["unknown_because"].startswith("/proc/100/fd cannot be read: that needs root")


def test_pids_of_another_namespace_are_not_believed(machine: Machine) -> None:
    driver(machine)
    opens(machine, 200, "/dev/nvidia3")
    one = read(machine, [UUIDS[0]], gpus((70200,), (70201,)))
    assert one["problems"] == []
    assert one["gpus"]["source"] == "handles"
    assert one["gpu_warnings"] == ["NVML lists no process of this pid namespace: run the proof on the host"]


def test_nvidia_smi_where_there_is_no_nvml(machine: Machine) -> None:
    def smi(arguments: t.Sequence[str]) -> str:
        if arguments[0].startswith("--query-gpu"):
            return (
                f"0, 00000000:17:00.0, {UUIDS[0]}, 81559, Disabled, NVIDIA H100\n"
                f"1, 00000000:2A:00.0, {UUIDS[1]}, 81559, Disabled, NVIDIA H100\n"
                f"2, 00000000:3D:00.0, {UUIDS[2]}, 81559, Enabled, NVIDIA H100\n"
            )
        assert arguments[0] == "--query-compute-apps=pid,gpu_bus_id"
        return "200, 00000000:17:00.0\n201, 00000000:2A:00.0\n201, 00000000:3D:00.0\n[N/A], 00000000:17:00.0\n"

    one = read(machine, [UUIDS[0]], smi=smi)
    assert one["gpus"]["source"] == "nvidia_smi"
    assert one["problems"] == [
        f"GPU {UUIDS[1]} is held by process 201 (VLLM::Worker) and is not planned (so says nvidia-smi)"
    ]
    # Of which MIG device it is the list does not say.
    assert read(machine, [MIGS[0]], smi=smi)["gpus"]["unknown"] == [MIGS[0]]


def kfd(machine: Machine, pid: int, **vram: int) -> None:
    for gpu_id, size in vram.items():
        machine.write(f"/sys/class/kfd/kfd/proc/{pid}/vram_{gpu_id[1:]}", f"{size}\n")


def test_amd_by_what_the_kernel_says_of_memory(machine: Machine) -> None:
    nodes = "/sys/class/kfd/kfd/topology/nodes"
    machine.write(f"{nodes}/0/gpu_id", "0\n")
    machine.write(f"{nodes}/0/properties", "cpu_cores_count 64\nlocation_id 0\n")
    for node, (gpu_id, location) in enumerate({51140: 0x1100, 9243: 0x2F08}.items(), start=1):
        machine.write(f"{nodes}/{node}/gpu_id", f"{gpu_id}\n")
        machine.write(
            f"{nodes}/{node}/properties", f"location_id {location}\ndomain 0\ndrm_render_minor {127 + node}\n"
        )
    kfd(machine, 200, _51140=1 << 30, _9243=0)
    assert read(machine, ["0000:11:00.0"])["problems"] == []
    assert read(machine, ["0000:2f:01.0"])["problems"] == [
        "GPU 0000:11:00.0 is held by process 200 (VLLM::Worker) and is not planned (so says the kernel (KFD))",
        "GPU 0000:2f:01.0 is planned and none of its processes holds it (so says the kernel (KFD))",
    ]


def test_nobody_is_asked_where_nothing_is_planned_and_no_driver_is_there(machine: Machine) -> None:
    def never() -> t.Any:
        raise AssertionError("NVML was asked")

    assert read_gpu_use(Host(str(machine.root)), GpuSources(never), wanted=False) is None


def test_a_library_that_crashes_takes_nobody_along(machine: Machine) -> None:
    class Crashing(NvmlDouble):
        def nvmlDeviceGetComputeRunningProcesses(self, handle: t.Any) -> None:
            os.kill(os.getpid(), signal.SIGABRT)

    sources = GpuSources(lambda: Crashing(gpus((1,)).gpus), None, None, 30)
    use = GpuUse(Host(str(machine.root)), sources)
    assert use.warnings == ("NVML is not asked: the process that read it ended without an answer (signal 6)",)


def test_a_child_says_what_the_library_said() -> None:
    slices = (DoubleMig(0, MIGS[0], "1g", 1 << 30, (200,)),)
    double = NvmlDouble([replace(gpus((7,)).gpus[0], mig=slices, mig_enabled=True), *gpus((), (7, 5)).gpus[1:]])
    directly = read_nvml_processes(double)[0]
    source, users, warnings = ask_users(GpuSources(lambda: double, None, None, 30))
    assert (source, warnings) == ("nvml", ())
    assert {address: (one.uuid, [*one.pids]) for address, one in users.items()} == {
        "0000:17:00.0": (UUIDS[0], []),
        "0000:2a:00.0": (UUIDS[1], [5, 7]),
    }
    assert [*users["0000:17:00.0"].by_mig_device[MIGS[0]]] == [200]
    assert directly["0000:2a:00.0"].pids == (5, 7)
