# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Answers survive being stored, and what is not ours is refused with the place that is wrong."""

from __future__ import annotations

import copy
import json
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import (
    GpuAnswer,
    GpuAnswers,
    GpuAnswersError,
    LinkAnswer,
    MigDevice,
    from_plain,
)

FIRST, SECOND = "0000:17:00.0", "0000:2a:00.0"
ANSWERS = GpuAnswers(
    "nvml",
    {
        FIRST: GpuAnswer(
            uuid="GPU-00000000-1111-2222-3333-444444444444",
            name="NVIDIA H200",
            memory_total_mib=143771,
            near_nodes="0-1",
            near_cpus="0-3,8",
            memory_node=2,
            mig_enabled=True,
            mig_devices=(MigDevice("MIG-1", "NVIDIA H200 MIG 1g.18gb", 18176), MigDevice(None, None, None)),
        ),
        SECOND: GpuAnswer(),
    },
    {(FIRST, SECOND): LinkAnswer(18, "NODE")},
    ("NVML: nvmlShutdown: Uninitialized",),
)


@pytest.mark.parametrize("answers", [ANSWERS, GpuAnswers(None), GpuAnswers("nvidia_smi", {FIRST: GpuAnswer()})])
def test_round_trip(answers: GpuAnswers) -> None:
    assert from_plain(json.loads(json.dumps(answers.to_plain()))) == answers


def test_the_stored_shape() -> None:
    plain = ANSWERS.to_plain()
    assert sorted(plain) == ["gpus", "links", "source", "warnings"]
    assert plain["gpus"][SECOND] == {
        "uuid": None,
        "name": None,
        "memory_total_mib": None,
        "near_nodes": None,
        "near_cpus": None,
        "memory_node": None,
        "mig_enabled": None,
        "mig_devices": [],
    }
    assert plain["links"] == [{"first": FIRST, "second": SECOND, "nvlinks": 18, "path": "NODE"}]


DAMAGE: list[tuple[tuple[t.Any, ...], t.Any, str]] = [
    ((), None, "the answers is None, and not an object with exactly gpus, links, source, warnings"),
    ((), [], "the answers is [], and not an object"),
    (("source",), "sysfs", "source is 'sysfs', and not nvml, nvidia_smi or null"),
    (("gpus",), [], "gpus is [], and not an object with a PCI address"),
    (("gpus",), dict.fromkeys(range(257)), "and not an object with a PCI address for each of at most 256 GPUs"),
    (("gpus", "17:00.0"), {}, "gpus is '17:00.0', and not a PCI address such as 0000:17:00.0"),
    (("gpus", FIRST), {"uuid": "x"}, "gpus.0000:17:00.0 is {'uuid': 'x'}, and not an object with exactly"),
    (("gpus", FIRST, "uuid"), 7, "gpus.0000:17:00.0.uuid is 7, and not text"),
    (("gpus", FIRST, "name"), "x" * 5000, "gpus.0000:17:00.0.name is 'xxx"),
    (("gpus", FIRST, "memory_total_mib"), -1, "memory_total_mib is -1, and not a whole number"),
    (("gpus", FIRST, "memory_total_mib"), True, "memory_total_mib is True, and not a whole number"),
    (("gpus", FIRST, "memory_node"), 1.5, "memory_node is 1.5, and not a whole number"),
    (("gpus", FIRST, "near_nodes"), "1-", "near_nodes is '1-', and not ids in the kernel's notation"),
    (("gpus", FIRST, "near_cpus"), [0], "near_cpus is [0], and not ids in the kernel's notation"),
    (("gpus", FIRST, "mig_enabled"), 1, "mig_enabled is 1, and not true, false or null"),
    (("gpus", FIRST, "mig_devices"), None, "mig_devices is None, and not a list"),
    (("gpus", FIRST, "mig_devices", 0), {}, "mig_devices[0] is {}, and not an object with exactly"),
    (("links",), {}, "links is {}, and not a list"),
    (("links", 0, "path"), "NV18", "links[0].path is 'NV18', and not PIX, PXB, PHB, NODE, SYS or null"),
    (("links", 0, "nvlinks"), "18", "links[0].nvlinks is '18', and not a whole number"),
    (("links", 0, "second"), FIRST, "links[0] is ['0000:17:00.0', '0000:17:00.0'], and not two different GPUs"),
    (("links", 0, "second"), "0000:3d:00.0", "and not two different GPUs of these answers"),
    (("links", 0, "first"), None, "links[0].first is None, and not a PCI address"),
    (("warnings",), "text", "warnings is 'text', and not a list"),
    (("warnings", 0), 7, "warnings is 7, and not text"),
]


@pytest.mark.parametrize(("place", "value", "message"), DAMAGE)
def test_damage(place: tuple[t.Any, ...], value: t.Any, message: str) -> None:
    plain: t.Any = copy.deepcopy(ANSWERS.to_plain())
    if place:
        inner = plain
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = value
    else:
        plain = value
    with pytest.raises(GpuAnswersError) as refused:
        from_plain(plain)
    text = str(refused.value)
    assert message in text
    assert text.endswith("; capture the host again with this version of the collection")
    assert len(text) < 500
