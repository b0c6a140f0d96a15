# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NVML becomes answers: every call may fail, be missing, or answer nonsense, and nothing is guessed."""

from __future__ import annotations

import inspect
import os
import re
import signal
import sys
import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _nvml
from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import (
    GpuAnswer,
    GpuAnswers,
    LinkAnswer,
    MigDevice,
)
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._nvml import (
    NvmlTimeoutError,
    load_nvml,
    read_nvml,
    read_nvml_within,
)
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import nvml_double, trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.nvml_double import (
    INACTIVE,
    TO_NPU,
    TO_SWITCH,
    DoubleGpu,
    DoubleMig,
    NvmlDouble,
    Without,
    eight_gpus_double,
    uuid_of,
    with_links,
)

ADDRESSES = [f"0000:{bus.lower()}:00.0" for bus in nvml_double.BUSES]
MIG_UUIDS = ("MIG-aaaaaaaa-1111-5222-8333-444444444444", "MIG-bbbbbbbb-1111-5222-8333-444444444444")


@pytest.fixture(name="host", scope="module")
def _host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(str(trees.lay_out(tmp_path_factory.mktemp("eight_gpus"), trees.eight_gpus())))


def everything_double() -> NvmlDouble:
    """Four GPUs that make the reader use every call: MIG, own memory, direct NVLinks and NVLinks to switches."""
    slices = (DoubleMig(0, MIG_UUIDS[0], "GPU MIG 1g.10gb", 9728 << 20), DoubleMig(5, MIG_UUIDS[1], "X", 19968 << 20))
    gpus = list(eight_gpus_double().gpus[:4])
    gpus[0] = replace(gpus[0], memory_node=2, mig=slices, mig_enabled=True, links=(1, 1, INACTIVE))
    gpus[1] = replace(gpus[1], memory_node=3, links=(0, 0))
    gpus[2] = replace(gpus[2], links=(TO_SWITCH,) * 3)
    gpus[3] = replace(gpus[3], links=(TO_SWITCH,) * 3)
    return NvmlDouble(gpus)


def between(answers: GpuAnswers, first: int, second: int) -> LinkAnswer:
    return answers.links[ADDRESSES[first], ADDRESSES[second]]


def test_everything(host: Host) -> None:
    answers = read_nvml(everything_double(), host)
    assert answers.source == "nvml"
    assert answers.gpus[ADDRESSES[0]] == GpuAnswer(
        uuid=uuid_of(0),
        name="NVIDIA H100 80GB HBM3",
        memory_total_mib=81559,
        near_nodes="0",
        near_cpus="0-3",
        memory_node=2,
        mig_enabled=True,
        mig_devices=(MigDevice(MIG_UUIDS[0], "GPU MIG 1g.10gb", 9728), MigDevice(MIG_UUIDS[1], "X", 19968)),
    )
    assert answers.gpus[ADDRESSES[1]].mig_enabled is False
    assert answers.gpus[ADDRESSES[1]].mig_devices == ()
    assert between(answers, 0, 1) == LinkAnswer(2, "NODE")
    assert between(answers, 0, 2) == LinkAnswer(0, "NODE")
    assert between(answers, 2, 3) == LinkAnswer(3, "NODE")
    assert answers.warnings == ()


# The double against the real binding


def calls_of_the_double() -> set[str]:
    return {name for name in vars(NvmlDouble) if re.match("nvml[A-Z]", name)}


def test_the_double_has_the_calls_that_are_made(host: Host) -> None:
    source = Path(_nvml.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r'"(nvml[A-Z]\w+)"', source)) == calls_of_the_double()
    # And the tests below, which make each of them fail, make each of them.
    double = everything_double()
    read_nvml(double, host)
    _nvml.read_nvml_processes(double)
    assert set(double.calls) == calls_of_the_double()


@pytest.mark.parametrize("call", sorted(calls_of_the_double()))
def test_the_real_binding_has_the_call(call: str) -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed for this Python")
    # Less the one for self.
    given = len(inspect.signature(getattr(NvmlDouble, call)).parameters) - 1
    parameters = inspect.signature(getattr(pynvml, call)).parameters.values()
    needed = [one for one in parameters if one.default is inspect.Parameter.empty]
    assert len(needed) <= given <= len(parameters)


def test_the_real_binding_has_the_numbers() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed for this Python")
    ours = {
        "NVML_ERROR_NOT_SUPPORTED": _nvml.NOT_SUPPORTED,
        "NVML_ERROR_INVALID_ARGUMENT": _nvml.INVALID_ARGUMENT,
        "NVML_ERROR_NOT_FOUND": _nvml.NOT_FOUND,
        "NVML_AFFINITY_SCOPE_NODE": _nvml.AFFINITY_SCOPE_NODE,
        "NVML_DEVICE_MIG_ENABLE": _nvml.MIG_ENABLED,
        "NVML_FEATURE_ENABLED": _nvml.LINK_ACTIVE,
        "NVML_NVLINK_DEVICE_TYPE_GPU": _nvml.REMOTE_GPU,
        "NVML_NVLINK_DEVICE_TYPE_SWITCH": _nvml.REMOTE_SWITCH,
        "NVML_NVLINK_DEVICE_TYPE_IBMNPU": _nvml.REMOTE_NPU,
        "NVML_P2P_CAPS_INDEX_NVLINK": _nvml.P2P_NVLINK,
        "NVML_P2P_STATUS_OK": _nvml.P2P_OK,
        "NVML_P2P_STATUS_UNKNOWN": _nvml.P2P_UNKNOWN,
        "NVML_NVLINK_DEVICE_TYPE_UNKNOWN": _nvml.REMOTE_UNKNOWN,
        "NVML_P2P_STATUS_NOT_SUPPORTED": 5,
    }
    assert {name: getattr(pynvml, name) for name in ours} == ours
    names = ("INTERNAL", "SINGLE", "MULTIPLE", "HOSTBRIDGE", "NODE", "SYSTEM")
    assert [getattr(pynvml, f"NVML_TOPOLOGY_{name}") for name in names] == list(_nvml.TOPOLOGY_PATHS)
    assert pynvml.NVML_NVLINK_MAX_LINKS <= _nvml._LINK_LIMIT


def test_the_real_binding_has_the_errors_and_fields() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed for this Python")
    for code, text in nvml_double.TEXTS.items():
        error = pynvml.NVMLError(code)
        assert (error.value, str(error)) == (code, text)
    assert "busId" in {name for name, *_type in pynvml.nvmlPciInfo_t._fields_}
    assert "total" in {name for name, *_type in pynvml.c_nvmlMemory_t._fields_}


def test_the_real_binding_without_a_driver(host: Host) -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed for this Python")
    answers = read_nvml(pynvml, host)
    if answers.source is None:
        # This machine has no driver: the library that belongs to it is not there, or does not find it.
        assert re.match("NVML: nvmlInit: (NVML Shared Library Not Found|Driver Not Loaded)", answers.warnings[0])
    else:
        assert all(gpu.uuid for gpu in answers.gpus.values())


# Each call fails

CODES = [
    nvml_double.NOT_SUPPORTED,
    nvml_double.GPU_IS_LOST,
    nvml_double.DRIVER_NOT_LOADED,
    nvml_double.FUNCTION_NOT_FOUND,
    nvml_double.INVALID_ARGUMENT,
    nvml_double.UNKNOWN_ERROR,
]
# A GPU that does not support this has it not: an answer, and nothing to warn of.
SILENT = {
    ("nvmlDeviceGetMigMode", nvml_double.NOT_SUPPORTED),
    ("nvmlDeviceGetNumaNodeId", nvml_double.NOT_SUPPORTED),
    ("nvmlDeviceGetNvLinkState", nvml_double.NOT_SUPPORTED),
    ("nvmlDeviceGetNvLinkState", nvml_double.INVALID_ARGUMENT),
}
# What becomes unknown when a call fails. Links: the number of NVLinks between GPUs 0 and 1, and 2 and 3.
LOST: dict[str, dict[str, t.Any]] = {
    "nvmlDeviceGetUUID": {"uuid": None, "mig": [(None, "GPU MIG 1g.10gb", 9728), (None, "X", 19968)]},
    "nvmlDeviceGetName": {"name": None, "mig": [(MIG_UUIDS[0], None, 9728), (MIG_UUIDS[1], None, 19968)]},
    "nvmlDeviceGetMemoryInfo": {
        "memory_total_mib": None,
        "mig": [(MIG_UUIDS[0], "GPU MIG 1g.10gb", None), (MIG_UUIDS[1], "X", None)],
    },
    "nvmlDeviceGetMemoryAffinity": {"near_nodes": None},
    "nvmlDeviceGetCpuAffinity": {"near_cpus": None},
    "nvmlDeviceGetNumaNodeId": {"memory_node": None},
    "nvmlDeviceGetMigMode": {"mig_enabled": None, "mig": []},
    "nvmlDeviceGetMaxMigDeviceCount": {"mig": []},
    "nvmlDeviceGetMigDeviceHandleByIndex": {"mig": []},
    "nvmlDeviceGetTopologyCommonAncestor": {"paths": None},
    "nvmlDeviceGetNvLinkState": {"direct": None, "switched": None},
    # Then the other end's address and NVML's word on peer access tell.
    "nvmlDeviceGetNvLinkRemoteDeviceType": {},
    "nvmlDeviceGetNvLinkRemotePciInfo": {"direct": None},
    # Both have links to switches.
    "nvmlDeviceGetP2PStatus": {},
    "nvmlShutdown": {},
}
# What the silent errors mean instead.
MEANING: dict[tuple[str, int], dict[str, t.Any]] = {
    ("nvmlDeviceGetMigMode", nvml_double.NOT_SUPPORTED): {"mig_enabled": False, "mig": []},
    ("nvmlDeviceGetNvLinkState", nvml_double.NOT_SUPPORTED): {"direct": 0, "switched": 0},
    ("nvmlDeviceGetNvLinkState", nvml_double.INVALID_ARGUMENT): {"direct": 0, "switched": 0},
}


def summary(answers: GpuAnswers) -> dict[str, t.Any]:
    gpu = answers.gpus[ADDRESSES[0]]
    return {
        **{name: value for name, value in gpu._asdict().items() if name != "mig_devices"},
        "mig": [(device.uuid, device.name, device.memory_total_mib) for device in gpu.mig_devices],
        "direct": between(answers, 0, 1).nvlinks,
        "switched": between(answers, 2, 3).nvlinks,
        "paths": between(answers, 1, 2).path,
    }


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("call", sorted(LOST))
def test_a_call_that_fails(host: Host, call: str, code: int) -> None:
    expected = {**summary(read_nvml(everything_double(), host)), **MEANING.get((call, code), LOST[call])}
    answers = read_nvml(replace(everything_double(), failing={call: code}), host)
    assert answers.source == "nvml"
    assert summary(answers) == expected
    if (call, code) in SILENT:
        assert answers.warnings == ()
    else:
        assert [text for text in answers.warnings if text.startswith(f"NVML: {call}: {nvml_double.TEXTS[code]}")]
        assert len(answers.warnings) == 1


@pytest.mark.parametrize("call", sorted(LOST))
def test_a_binding_that_lacks_a_call(host: Host, call: str) -> None:
    expected = {**summary(read_nvml(everything_double(), host)), **LOST[call]}
    answers = read_nvml(Without(everything_double(), call), host)
    assert summary(answers) == expected
    (warning,) = answers.warnings
    assert warning.startswith(f"NVML: {call}: module 'pynvml' has no attribute '{call}'")


@pytest.mark.parametrize("answer", [None, "text", -5, 7.5, b"\xff\xfe", object(), [], [[]], True, {}, "", 1 << 80])
@pytest.mark.parametrize("call", sorted(set(LOST) - {"nvmlShutdown"}))
def test_a_call_that_answers_nonsense(host: Host, call: str, answer: t.Any) -> None:
    healthy = summary(read_nvml(everything_double(), host))
    answers = read_nvml(replace(everything_double(), answers={call: answer}), host)
    said = summary(answers)
    # What the call does not touch stays right, and what it touches is right or unknown.
    for name, value in healthy.items():
        if name not in LOST[call] or not said[name]:
            assert said[name] == value or (name in LOST[call] and said[name] in (None, "", []))
    for name in ("uuid", "name", "near_nodes", "near_cpus"):
        assert said[name] is None or isinstance(said[name], str)
    for name in ("memory_total_mib", "memory_node", "direct", "switched"):
        assert said[name] is None or (isinstance(said[name], int) and said[name] >= 0)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount"])
def test_nvml_that_does_not_work(host: Host, call: str, code: int) -> None:
    double = replace(everything_double(), failing={call: code})
    answers = read_nvml(double, host)
    assert answers == GpuAnswers(None, warnings=(f"NVML: {call}: {nvml_double.TEXTS[code]}",))
    assert double.calls == (["nvmlInit"] if call == "nvmlInit" else ["nvmlInit", call, "nvmlShutdown"])


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetPciInfo"])
def test_a_gpu_that_cannot_be_told(host: Host, call: str, code: int) -> None:
    answers = read_nvml(replace(eight_gpus_double(), failing={(call, 2): code}), host)
    assert list(answers.gpus) == ADDRESSES[:2] + ADDRESSES[3:]
    assert answers.warnings == (f"NVML: {call}: {nvml_double.TEXTS[code]} (GPU number 2)",)
    assert len(answers.links) == 21


@pytest.mark.parametrize("count", [-1, None, "8", 1 << 40, 9])
def test_a_count_that_makes_no_sense(host: Host, count: t.Any) -> None:
    answers = read_nvml(replace(eight_gpus_double(), answers={"nvmlDeviceGetCount": count}), host)
    if isinstance(count, int) and count > 0:
        assert list(answers.gpus) == ADDRESSES
        assert answers.warnings[0].startswith("NVML: nvmlDeviceGetHandleByIndex: Invalid Argument (GPU number 8")
        assert len(answers.warnings[0]) < 300
    else:
        assert answers.source is None


def test_the_same_error_of_many_gpus_is_one_warning(host: Host) -> None:
    failing: dict[str | tuple[str, int], int] = {"nvmlDeviceGetTopologyCommonAncestor": nvml_double.UNKNOWN_ERROR}
    answers = read_nvml(replace(eight_gpus_double(), failing=failing), host)
    (warning,) = answers.warnings
    assert warning.startswith("NVML: nvmlDeviceGetTopologyCommonAncestor: Unknown Error (GPU 0000:17:00.0 with 0000:2a")
    assert warning.endswith(" and 20 more)")


def test_a_binding_whose_errors_have_no_text(host: Host) -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no library, no text")

    class Binding:
        def nvmlInit(self) -> None:
            raise Broken

    assert read_nvml(Binding(), host).warnings == ("NVML: nvmlInit: Broken",)


def test_bytes_of_older_bindings(host: Host) -> None:
    double = NvmlDouble([DoubleGpu(b"0000:17:00.0", uuid_of(0).encode(), b"Tesla T4", near_nodes=frozenset({1}))])
    answers = read_nvml(double, host)
    assert answers.gpus["0000:17:00.0"].uuid == uuid_of(0)
    assert answers.gpus["0000:17:00.0"].name == "Tesla T4"


def test_masks_have_room_for_the_highest_id(tmp_path: Path) -> None:
    host = Host(str(trees.lay_out(tmp_path, trees.sparse_with_memory_only())))
    double = NvmlDouble([DoubleGpu("00000000:17:00.0", near_cpus=frozenset({65}), near_nodes=frozenset({252}))])
    answers = read_nvml(double, host)
    assert (answers.gpus["0000:17:00.0"].near_cpus, answers.gpus["0000:17:00.0"].near_nodes) == ("65", "252")
    # Four nodes and four CPUs, but the highest ids are 252 and 65.
    assert double.mask_words == {"node": 4, "cpu": 2}


def test_masks_where_the_highest_id_is_unknown(tmp_path: Path) -> None:
    double = eight_gpus_double()
    read_nvml(double, Host(str(tmp_path)))
    assert double.mask_words == {"node": 128, "cpu": 128}


# Links


def test_hgx_every_pair_has_the_links_to_the_switches(host: Host) -> None:
    double = with_links(eight_gpus_double(), (TO_SWITCH,) * 18)
    answers = read_nvml(double, host)
    assert {link.nvlinks for link in answers.links.values()} == {18}
    assert len(answers.links) == 28
    assert between(answers, 0, 1).path == "NODE"
    assert between(answers, 0, 4).path == "SYS"
    assert answers.warnings == ()


def test_hgx_with_inactive_links(host: Host) -> None:
    one_down = (INACTIVE,) + (TO_SWITCH,) * 17
    answers = read_nvml(with_links(eight_gpus_double(), one_down, *[(TO_SWITCH,) * 18] * 7), host)
    assert {between(answers, 0, other).nvlinks for other in range(1, 8)} == {17}
    assert between(answers, 1, 2).nvlinks == 18


def test_switches_that_do_not_reach_one_another(host: Host) -> None:
    # Peer access over NVLink is what tells two boards of four apart.
    answers = read_nvml(
        replace(with_links(eight_gpus_double(), (TO_SWITCH,) * 18), answers={"nvmlDeviceGetP2PStatus": 5}), host
    )
    assert {link.nvlinks for link in answers.links.values()} == {0}


def test_direct_links(host: Host) -> None:
    # A hybrid cube mesh as in a DGX-1: two links to some neighbours, one to others, none to the rest.
    mesh: list[tuple[int | str | None, ...]] = [
        (1, 2, 3, 3, 4, 4),
        (0, 2, 2, 3, 5, 5),
        (0, 1, 1, 3, 3, 6),
        (0, 0, 1, 2, 2, 7),
        (0, 0, 5, 6, 7, 7),
        (1, 1, 4, 6, 6, 7),
        (2, 4, 5, 5, 7, 7),
        (3, 4, 4, 5, 6, 6),
    ]
    answers = read_nvml(with_links(eight_gpus_double(), *mesh), host)
    assert [between(answers, 0, other).nvlinks for other in range(1, 8)] == [1, 1, 2, 2, 0, 0, 0]
    assert between(answers, 6, 7).nvlinks == 2
    assert answers.warnings == ()


def test_links_to_a_processor_are_not_links_between_gpus(host: Host) -> None:
    # POWER9: three links to the other GPU, three to the processor.
    double = with_links(NvmlDouble(eight_gpus_double().gpus[:2]), (1, 1, 1, TO_NPU, TO_NPU), (0, 0, 0, TO_NPU, TO_NPU))
    assert between(read_nvml(double, host), 0, 1).nvlinks == 3
    double = with_links(NvmlDouble(eight_gpus_double().gpus[:2]), (TO_NPU,))
    assert between(read_nvml(double, host), 0, 1).nvlinks == 0


def test_links_to_a_gpu_that_is_not_there(host: Host) -> None:
    # A container with two of four GPUs.
    gpus = with_links(eight_gpus_double(), (1, 1, 2, 2)).gpus
    double = NvmlDouble([gpus[0], gpus[3]])
    double.answers["nvmlDeviceGetNvLinkRemotePciInfo"] = t.cast("t.Any", type("Info", (), {"busId": "0000:F0:00.0"}))
    assert between(read_nvml(double, host), 0, 3) == LinkAnswer(0, "NODE")


def test_a_lost_gpu_makes_only_its_own_links_unknown(host: Host) -> None:
    failing: dict[str | tuple[str, int], int] = {("nvmlDeviceGetNvLinkState", 0): nvml_double.GPU_IS_LOST}
    switched = read_nvml(replace(with_links(eight_gpus_double(), (TO_SWITCH,) * 18), failing=failing), host)
    assert [between(switched, 0, other).nvlinks for other in (1, 7)] == [None, None]
    assert between(switched, 1, 2).nvlinks == 18
    # A direct link has another end, which knows.
    double = with_links(NvmlDouble(eight_gpus_double().gpus[:3]), (1, 1), (0, 0), ())
    direct = read_nvml(replace(double, failing=failing), host)
    assert [between(direct, 0, 1).nvlinks, between(direct, 0, 2).nvlinks] == [2, 0]


def test_paths(host: Host) -> None:
    levels = {(0, 1): 0, (0, 2): 10, (0, 3): 20, (0, 4): 30, (0, 5): 40, (0, 6): 50, (0, 7): 60}
    answers = read_nvml(replace(eight_gpus_double(), levels=levels), host)
    assert [between(answers, 0, other).path for other in range(1, 8)] == [
        "PIX",
        "PIX",
        "PXB",
        "PHB",
        "NODE",
        "SYS",
        None,
    ]
    (warning,) = answers.warnings
    assert "the answer is 60, which is not a level of nvmlGpuTopologyLevel_t (GPU 0000:17:00.0 with" in warning


@pytest.mark.parametrize(
    ("links", "most"), [((), 150), ((TO_SWITCH,) * 18, 730), (tuple(range(1, 16)) + (1,) * 3, 1000)]
)
def test_the_calls_for_links_are_bounded(host: Host, links: tuple[int | str | None, ...], most: int) -> None:
    gpus = [DoubleGpu(f"00000000:{number:02x}:00.0", uuid_of(0), links=links) for number in range(16)]
    double = NvmlDouble(gpus)
    read_nvml(double, host, want_links=False)
    without = len(double.calls)
    assert without <= 3 + 16 * 9
    assert not {call for call in double.calls if "Link" in call or "P2P" in call or "Topology" in call}
    double.calls.clear()
    read_nvml(double, host)
    assert len(double.calls) - without <= most


def test_one_gpu_has_no_links(host: Host) -> None:
    double = NvmlDouble(with_links(eight_gpus_double(), (TO_SWITCH,) * 18).gpus[:1])
    assert read_nvml(double, host).links == {}
    assert "nvmlDeviceGetNvLinkState" not in double.calls


# MIG


def test_mig_slots_are_bounded(host: Host) -> None:
    double = replace(everything_double(), answers={"nvmlDeviceGetMaxMigDeviceCount": 1 << 40})
    answers = read_nvml(double, host)
    assert len(answers.gpus[ADDRESSES[0]].mig_devices) == 2
    assert double.calls.count("nvmlDeviceGetMigDeviceHandleByIndex") <= 64


# In a child process


def test_in_a_child_process_it_is_the_same(host: Host) -> None:
    assert read_nvml_within(30, everything_double(), host) == read_nvml(everything_double(), host)


def test_a_library_that_hangs(host: Host) -> None:
    class Hanging:
        def nvmlInit(self) -> None:
            time.sleep(60)

    started = time.monotonic()
    with pytest.raises(NvmlTimeoutError, match=r"NVML did not answer within 0\.3 seconds: the NVIDIA driver or a GPU"):
        read_nvml_within(0.3, Hanging(), host)
    assert time.monotonic() - started < 10
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_library_that_crashes(host: Host) -> None:
    class Crashing:
        def nvmlInit(self) -> None:
            os.kill(os.getpid(), signal.SIGABRT)

    answers = read_nvml_within(30, Crashing(), host)
    assert answers.source is None
    assert answers.warnings == ("NVML: the process that read it ended without an answer (signal 6)",)


def test_a_child_writes_nothing_where_the_parent_does(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    class Chatty:
        def nvmlInit(self) -> None:
            os.write(1, b"NVRM: hello")
            os.write(2, b"NVRM: hello")

    assert read_nvml_within(30, Chatty(), host).source is None
    assert capfd.readouterr() == ("", "")


# The import


def test_whatever_breaks_the_import_is_an_import_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write(tmp_path / "pynvml.py", "raise OSError('libnvidia-ml.so: wrong ELF class')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    with pytest.raises(ImportError, match=r"OSError: libnvidia-ml\.so: wrong ELF class"):
        load_nvml()
