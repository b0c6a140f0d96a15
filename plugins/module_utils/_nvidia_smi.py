# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What ``nvidia-smi`` says about GPUs, for hosts whose Python has no NVML binding, read into ``GpuAnswers``.

Three questions: ``--query-gpu`` (CSV), ``topo -m`` (the matrix of links, and the affinities), and ``-L`` where a GPU is
in MIG mode. NVIDIA does not promise that the output stays as it is. Drivers from 2016 to 2026 print it so: cells with
tabs between them, a header that may be underlined, in it "CPU Affinity", in newer ones "NUMA Affinity" and then "GPU
NUMA ID"; old ones call "SOC" what is "SYS".
"""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._commands import find_executable, run
from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import (
    NVIDIA_SMI,
    PATHS,
    GpuAnswer,
    GpuAnswers,
    GpuUsers,
    LinkAnswer,
    MigDevice,
)
from ansible_collections.numapin.inference.plugins.module_utils._pci import normalised_pci_address

# Takes the arguments, returns the standard output, raises NumapinError.
Ask = t.Callable[[t.Sequence[str]], str]

# Without the persistence daemon every call initialises every GPU, which takes seconds for each.
TIMEOUT_SECONDS = 60.0
# Where Windows puts it into its Linux machines.
_WSL_EXECUTABLE = "/usr/lib/wsl/lib/nvidia-smi"
# nvidia-smi(1): "the infoROM is corrupted"; everything else is printed.
_INFOROM_IS_CORRUPT = 14

# The name stands last: it may hold commas.
_FIELDS = ("index", "pci.bus_id", "uuid", "memory.total", "mig.mode.current", "name")
_FORMAT = "--format=csv,noheader,nounits"
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_GPU_LABEL = re.compile(r"GPU([0-9]{1,4})")
_NVLINKS = re.compile(r"NV([0-9]{1,3})")
_LISTED_GPU = re.compile(r"GPU [0-9]+: .*\(UUID: (GPU-[^)\s]+)\)")
_LISTED_MIG = re.compile(r"\s+MIG (\S+)\s+Device\s+[0-9]+: \(UUID: (MIG-[^)\s]+)\)")
_MIG_MODES = {"Enabled": True, "Disabled": False, "[N/A]": False, "N/A": False, "[Not Supported]": False}


class NvidiaSmiError(NumapinError):
    """nvidia-smi ended with an error."""


class _Row(t.NamedTuple):
    """What the matrix says about one GPU; the links by index of the other."""

    links: dict[int, LinkAnswer]
    near_cpus: str | None
    near_nodes: str | None
    memory_node: int | None


def nvidia_smi_of_this_machine() -> Ask | None:
    """Return what asks nvidia-smi on the running machine; ``None`` where there is none."""
    executable = find_executable("nvidia-smi") or (_WSL_EXECUTABLE if os.access(_WSL_EXECUTABLE, os.X_OK) else None)
    if executable is None:
        return None

    def ask(arguments: t.Sequence[str]) -> str:
        result = run([executable, *arguments], TIMEOUT_SECONDS)
        if result.rc not in (0, _INFOROM_IS_CORRUPT):
            said = next(
                (line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()), "nothing"
            )
            raise NvidiaSmiError(f"exit status {result.rc}: {said[:300]}")
        return result.stdout

    return ask


def read_nvidia_smi(ask: Ask, want_links: bool = True) -> GpuAnswers:
    """Return what nvidia-smi says; its ``source`` is ``None`` when it does not work at all. Raises nothing."""
    warnings: list[str] = []
    try:
        listing = _query(ask)
    except NumapinError as error:
        return GpuAnswers(None, warnings=(f"nvidia-smi does not tell the GPUs: {error}",))
    gpus = _gpus_in(listing, warnings)
    addresses = {index: address for index, (address, _gpu) in gpus.items()}
    rows: dict[int, _Row] = {}
    if gpus:
        try:
            rows = _matrix_in(ask(["topo", "-m"]), addresses.keys(), warnings)
        except NumapinError as error:
            warnings.append(f"nvidia-smi does not tell links and affinities: {error}")
    slices: dict[str, tuple[MigDevice, ...]] = {}
    if any(gpu.mig_enabled for _address, gpu in gpus.values()):
        try:
            slices = _mig_devices_in(ask(["-L"]), {gpu.uuid: gpu.name for _address, gpu in gpus.values()})
        except NumapinError as error:
            warnings.append(f"nvidia-smi does not tell the MIG devices: {error}")
    answers: dict[str, GpuAnswer] = {}
    for index, (address, gpu) in gpus.items():
        row = rows.get(index, _Row({}, None, None, None))
        answers[address] = GpuAnswer(
            uuid=gpu.uuid,
            name=gpu.name,
            memory_total_mib=gpu.memory_total_mib,
            near_nodes=row.near_nodes,
            near_cpus=row.near_cpus,
            memory_node=row.memory_node,
            mig_enabled=gpu.mig_enabled,
            mig_devices=slices.get(gpu.uuid or "", ()) if gpu.mig_enabled else (),
        )
    links: dict[tuple[str, str], LinkAnswer] = {}
    for index, row in rows.items() if want_links else ():
        for other, link in row.links.items():
            if addresses[index] < addresses[other]:
                links[addresses[index], addresses[other]] = link
    return GpuAnswers(NVIDIA_SMI, dict(sorted(answers.items())), dict(sorted(links.items())), tuple(warnings))


def read_nvidia_smi_processes(ask: Ask) -> tuple[dict[str, GpuUsers], tuple[str, ...]]:
    """Return by PCI address which processes compute on each GPU, and warnings; raises nothing.

    GPUs in MIG mode are left out: the list does not say which of their devices a process has.
    """
    warnings: list[str] = []
    try:
        gpus = _gpus_in(_query(ask), warnings)
        listed = _lines(ask(["--query-compute-apps=pid,gpu_bus_id", _FORMAT]))
    except NumapinError as error:
        return {}, (f"nvidia-smi does not tell which processes compute: {error}",)
    pids: dict[str, set[int]] = {address: set() for address, gpu in gpus.values() if not gpu.mig_enabled}
    for line in listed:
        pid, _comma, bus_id = line.partition(",")
        address = normalised_pci_address(bus_id.strip())
        if pid.strip().isdecimal() and address in pids:
            pids[address].add(int(pid))
    uuids = {address: gpu.uuid for address, gpu in gpus.values()}
    return {address: GpuUsers(uuids[address], tuple(sorted(found))) for address, found in pids.items()}, tuple(warnings)


def _query(ask: Ask) -> list[list[str]]:
    """Return the fields of every GPU, as text; raises ``NumapinError``."""
    fields: tuple[str, ...] = _FIELDS
    try:
        text = ask([f"--query-gpu={','.join(fields)}", _FORMAT])
    except NvidiaSmiError as error:
        # Drivers before R450 know no MIG, and refuse the whole question.
        if "not a valid field" not in str(error):
            raise
        fields = tuple(name for name in _FIELDS if name != "mig.mode.current")
        text = ask([f"--query-gpu={','.join(fields)}", _FORMAT])
    rows = []
    for line in _lines(text):
        cells = [cell.strip() for cell in line.split(",", len(fields) - 1)]
        if len(fields) < len(_FIELDS) and len(cells) == len(fields):
            cells.insert(_FIELDS.index("mig.mode.current"), "[N/A]")
        rows.append(cells)
    return rows


def _gpus_in(rows: t.Iterable[t.Sequence[str]], warnings: list[str]) -> dict[int, tuple[str, GpuAnswer]]:
    """Return address and answer of every GPU by its index."""
    gpus: dict[int, tuple[str, GpuAnswer]] = {}
    for cells in rows:
        address = normalised_pci_address(cells[1]) if len(cells) == len(_FIELDS) else None
        index = _whole(cells[0])
        if address is None or index is None or any(address == known for known, _gpu in gpus.values()):
            warnings.append(f"nvidia-smi says {', '.join(cells)[:120]!r} where a GPU is expected: that is left out")
            continue
        uuid, mig_mode = cells[2], cells[4]
        gpus[index] = (
            address,
            GpuAnswer(
                uuid=uuid if uuid.startswith("GPU-") else None,
                name=_known(cells[5]),
                memory_total_mib=_whole(cells[3]) or None,
                mig_enabled=_MIG_MODES.get(mig_mode),
            ),
        )
    return gpus


def _matrix_in(text: str, known: t.Container[int], warnings: list[str]) -> dict[int, _Row]:
    """Return the rows of ``nvidia-smi topo -m`` by the GPUs' indices; devices that are no GPUs are skipped."""
    header: list[str] = []
    rows: dict[int, _Row] = {}
    odd: list[str] = []
    for line in _lines(text):
        if line.strip() == "Legend:":
            break
        cells = [cell.strip() for cell in line.split("\t")]
        if not header:
            named = [cell for cell in cells if cell]
            if "CPU Affinity" in named:
                header = named
            continue
        label = _GPU_LABEL.fullmatch(cells[0])
        if label is None or int(label[1]) not in known:
            continue
        devices = header[: header.index("CPU Affinity")]
        links: dict[int, LinkAnswer] = {}
        for name, cell in zip(devices, cells[1:]):
            other = _GPU_LABEL.fullmatch(name)
            if other is None or other[1] == label[1] or int(other[1]) not in known:
                continue
            link = _link(cell)
            if link is None:
                odd.append(cell)
            else:
                links[int(other[1])] = link
        affinities = cells[1 + len(devices) :]
        # Drivers put a second tab before the last column, and one may be empty.
        has_memory_node = "GPU NUMA ID" in header
        rows[int(label[1])] = _Row(
            links=links,
            near_cpus=_ids(affinities[:1]),
            near_nodes=_ids(affinities[1:2]) if "NUMA Affinity" in header else None,
            memory_node=_whole(next((cell for cell in reversed(affinities[2:]) if cell), ""))
            if has_memory_node
            else None,
        )
    if not rows:
        warnings.append("nvidia-smi topo -m prints no matrix of GPUs that is known: links and affinities are unknown")
    if odd:
        warnings.append(
            f"nvidia-smi topo -m prints links that are not known: {', '.join(map(repr, sorted(set(odd))))[:120]}"
        )
    return rows


def _link(cell: str) -> LinkAnswer | None:
    nvlinks = _NVLINKS.fullmatch(cell)
    if nvlinks:
        return LinkAnswer(int(nvlinks[1]), None)
    # Drivers before R384 know sockets, not nodes.
    path = "SYS" if cell == "SOC" else cell
    return LinkAnswer(0, path) if path in PATHS else None


def _mig_devices_in(text: str, names: t.Mapping[str | None, str | None]) -> dict[str, tuple[MigDevice, ...]]:
    """Return the MIG devices by their GPU's UUID, named as NVML names them."""
    devices: dict[str, tuple[MigDevice, ...]] = {}
    gpu = ""
    for line in _lines(text):
        listed = _LISTED_GPU.fullmatch(line.rstrip())
        if listed:
            gpu = listed[1]
        mig = _LISTED_MIG.fullmatch(line.rstrip())
        if mig and gpu:
            name = f"{names.get(gpu) or ''} MIG {mig[1]}".strip()
            devices[gpu] = (*devices.get(gpu, ()), MigDevice(mig[2], name, None))
    return devices


def _lines(text: str) -> list[str]:
    return [line for line in _ANSI.sub("", text).splitlines() if line.strip()]


def _known(cell: str) -> str | None:
    """Return a text; what stands in brackets is a reason why there is none: [N/A], [GPU is lost]."""
    return None if not cell or cell == "N/A" or cell.startswith("[") else cell


def _whole(cell: str) -> int | None:
    return int(cell) if cell.isascii() and cell.isdigit() and len(cell) <= 12 else None


def _ids(cells: t.Sequence[str]) -> str | None:
    try:
        return format_cpulist(parse_cpulist("".join(cells))) or None
    except CpusetError:
        return None
