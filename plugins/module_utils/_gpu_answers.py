# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What a library said about the GPUs of a host, as plain data: NVML is read into it, and a capture stores it.

Nothing is decided here: a node that is claimed is kept as it was claimed, and ``_gpus.py`` makes up its mind. ``None``
is a question that was not answered.
"""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._pci import normalised_pci_address

NVML = "nvml"
NVIDIA_SMI = "nvidia_smi"
# From near to far, as `nvidia-smi topo -m` names them.
PATHS = ("PIX", "PXB", "PHB", "NODE", "SYS")
# No machine has as many GPUs: what is above is damage, and links are as many as the square of it.
HIGHEST_COUNT = 256
_TEXT_LIMIT = 2048


class GpuAnswersError(NumapinError):
    """Stored answers that are not what this collection stores."""


class MigDevice(t.NamedTuple):
    """One slice of a GPU in MIG mode; its node is its GPU's."""

    uuid: str | None
    name: str | None
    memory_total_mib: int | None


class GpuAnswer(t.NamedTuple):
    """What was said about one GPU."""

    uuid: str | None = None
    name: str | None = None
    memory_total_mib: int | None = None
    near_nodes: str | None = None  # nodes next to it (cpulist notation); several where a virtual machine hides which
    near_cpus: str | None = None  # cpulist
    memory_node: int | None = None  # the node that its own memory is, on coherent systems
    mig_enabled: bool | None = None
    mig_devices: tuple[MigDevice, ...] = ()


class LinkAnswer(t.NamedTuple):
    """What was said about two GPUs: active NVLinks between them, and the way over PCIe."""

    nvlinks: int | None = None
    path: str | None = None  # one of PATHS


class GpuUsers(t.NamedTuple):
    """The processes that compute on one GPU; in MIG mode those of each MIG device, by its UUID, and none beside."""

    uuid: str | None
    pids: tuple[int, ...]
    by_mig_device: t.Mapping[str, tuple[int, ...]] = {}


class GpuAnswers(t.NamedTuple):
    """Answers of one source: ``nvml`` or ``nvidia_smi``, and ``None`` when none of them works (``warnings`` say why).

    ``gpus`` are keyed on PCI addresses as the kernel writes them, ``links`` on two of these, the lower first.
    """

    source: str | None
    gpus: t.Mapping[str, GpuAnswer] = {}
    links: t.Mapping[tuple[str, str], LinkAnswer] = {}
    warnings: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, t.Any]:
        """Return what JSON can hold and ``from_plain`` reads."""
        return {
            "source": self.source,
            "gpus": {
                address: {**gpu._asdict(), "mig_devices": [device._asdict() for device in gpu.mig_devices]}
                for address, gpu in self.gpus.items()
            },
            "links": [
                {"first": first, "second": second, **link._asdict()} for (first, second), link in self.links.items()
            ],
            "warnings": list(self.warnings),
        }


def from_plain(value: object) -> GpuAnswers:
    """Return the answers that ``to_plain`` made plain; raises ``GpuAnswersError``, which names what is wrong."""
    top = _object(value, "the answers", {"source", "gpus", "links", "warnings"})
    source = top["source"]
    if source not in (None, NVML, NVIDIA_SMI):
        raise _wrong("source", source, f"{NVML}, {NVIDIA_SMI} or null")
    if not isinstance(top["gpus"], dict) or len(top["gpus"]) > HIGHEST_COUNT:
        raise _wrong("gpus", top["gpus"], f"an object with a PCI address for each of at most {HIGHEST_COUNT} GPUs")
    gpus = {_address(address, "gpus"): _gpu(gpu, f"gpus.{address}") for address, gpu in top["gpus"].items()}
    links = {}
    for index, link in enumerate(_list(top["links"], "links")):
        where = f"links[{index}]"
        given = _object(link, where, {"first", "second", "nvlinks", "path"})
        pair = tuple(_address(given[name], f"{where}.{name}") for name in ("first", "second"))
        if not set(pair) <= gpus.keys() or pair[0] >= pair[1]:
            raise _wrong(where, list(pair), "two different GPUs of these answers, the lower address first")
        if given["path"] is not None and given["path"] not in PATHS:
            raise _wrong(f"{where}.path", given["path"], f"{', '.join(PATHS)} or null")
        links[pair[0], pair[1]] = LinkAnswer(_count(given["nvlinks"], f"{where}.nvlinks"), given["path"])
    warnings = [_text(text, "warnings") or "" for text in _list(top["warnings"], "warnings")]
    return GpuAnswers(source, gpus, links, tuple(warnings))


def _gpu(value: object, where: str) -> GpuAnswer:
    given = _object(value, where, set(GpuAnswer._fields))
    if not (given["mig_enabled"] is None or isinstance(given["mig_enabled"], bool)):
        raise _wrong(f"{where}.mig_enabled", given["mig_enabled"], "true, false or null")
    devices = []
    for index, device in enumerate(_list(given["mig_devices"], f"{where}.mig_devices")):
        here = f"{where}.mig_devices[{index}]"
        slices = _object(device, here, set(MigDevice._fields))
        devices.append(
            MigDevice(
                _text(slices["uuid"], f"{here}.uuid"),
                _text(slices["name"], f"{here}.name"),
                _count(slices["memory_total_mib"], f"{here}.memory_total_mib"),
            )
        )
    return GpuAnswer(
        uuid=_text(given["uuid"], f"{where}.uuid"),
        name=_text(given["name"], f"{where}.name"),
        memory_total_mib=_count(given["memory_total_mib"], f"{where}.memory_total_mib"),
        near_nodes=_set(given["near_nodes"], f"{where}.near_nodes"),
        near_cpus=_set(given["near_cpus"], f"{where}.near_cpus"),
        memory_node=_count(given["memory_node"], f"{where}.memory_node"),
        mig_enabled=given["mig_enabled"],
        mig_devices=tuple(devices),
    )


def _object(value: object, where: str, keys: set[str]) -> dict[str, t.Any]:
    if not isinstance(value, dict) or value.keys() != keys:
        raise _wrong(where, value, f"an object with exactly {', '.join(sorted(keys))}")
    return value


def _list(value: object, where: str) -> list[t.Any]:
    if not isinstance(value, list) or len(value) > HIGHEST_COUNT * HIGHEST_COUNT:
        raise _wrong(where, value, "a list")
    return value


def _address(value: object, where: str) -> str:
    address = normalised_pci_address(value) if isinstance(value, str) else None
    if address is None:
        raise _wrong(where, value, "a PCI address such as 0000:17:00.0")
    return address


def _text(value: object, where: str) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= _TEXT_LIMIT):
        return value
    raise _wrong(where, value, f"text of at most {_TEXT_LIMIT} characters or null")


def _count(value: object, where: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53):
        return value
    raise _wrong(where, value, "a whole number from 0 or null")


def _set(value: object, where: str) -> str | None:
    if value is None:
        return None
    try:
        return format_cpulist(parse_cpulist(value if isinstance(value, str) else repr(value)))
    except CpusetError as error:
        raise _wrong(where, value, "ids in the kernel's notation, such as 0-3,8, or null") from error


def _wrong(where: str, given: object, allowed: str) -> GpuAnswersError:
    shown = repr(given)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return GpuAnswersError(
        f"the stored GPU answers are damaged or of another version: {where} is {shown}, and not {allowed};"
        " capture the host again with this version of the collection"
    )
