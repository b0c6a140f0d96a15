# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Ask about the GPUs of a Linux host: NVML, else nvidia-smi."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._child import (
    ChildError,
    ChildTimeoutError,
    answer_of_child,
)
from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import (
    NVIDIA_SMI,
    NVML,
    GpuAnswers,
    GpuUsers,
)
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._nvidia_smi import (
    nvidia_smi_of_this_machine,
    read_nvidia_smi,
    read_nvidia_smi_processes,
)
from ansible_collections.numapin.inference.plugins.module_utils._nvml import (
    NvmlTimeoutError,
    load_nvml,
    read_nvml,
    read_nvml_processes,
    read_nvml_within,
)

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

# Initialising takes seconds for each GPU where no persistence daemon keeps them initialised.
_NVML_TIMEOUT_SECONDS = 60.0


def sources_of_this_machine() -> GpuSources:
    """Return what can be asked on the running machine."""
    return GpuSources(load_nvml, nvidia_smi_of_this_machine(), None, _NVML_TIMEOUT_SECONDS)


def ask(host: Host, sources: GpuSources, want_links: bool) -> GpuAnswers:
    """Return what NVML, else nvidia-smi, says; with ``source`` ``None`` and warnings when nobody does."""
    if sources.this_machine:
        sources = sources_of_this_machine()
    said: list[str] = []
    absent = ""
    if sources.nvml is not None:
        try:
            module = sources.nvml()
        except ImportError as error:
            absent = f"NVML is not asked: Python cannot import pynvml ({error})"
            # Without the binding nvidia-smi is as good; a binding that is there and broken is worth a word.
            if not isinstance(error, ModuleNotFoundError):
                said.append(absent)
        else:
            try:
                answers = _nvml_answers(module, host, sources.nvml_timeout_seconds, want_links)
            except NvmlTimeoutError as error:
                return GpuAnswers(None, warnings=(str(error),))
            if answers.source is not None:
                return answers
            said.extend(answers.warnings)
    if sources.nvidia_smi is not None:
        answers = read_nvidia_smi(sources.nvidia_smi, want_links)
        said.extend(answers.warnings)
        if answers.source is not None:
            return GpuAnswers(answers.source, answers.gpus, answers.links, tuple(said))
    if absent:
        said = [text for text in said if text != absent]
        said.append(
            f"{absent}; the memory of NVIDIA GPUs is unknown and their node is what sysfs says"
            " (install nvidia-ml-py for the Python that Ansible uses on this host)"
        )
    return GpuAnswers(None, warnings=tuple(said))


def _nvml_answers(module: t.Any, host: Host, timeout_seconds: float | None, want_links: bool) -> GpuAnswers:
    if timeout_seconds is None:
        return read_nvml(module, host, want_links)
    return read_nvml_within(timeout_seconds, module, host, want_links)


def ask_users(sources: GpuSources) -> tuple[str | None, dict[str, GpuUsers], tuple[str, ...]]:
    """Return who says it, which processes compute on each GPU by PCI address, and warnings; raises nothing."""
    if sources.this_machine:
        sources = sources_of_this_machine()
    said: list[str] = []
    if sources.nvml is not None:
        try:
            users, warnings = _nvml_users(sources.nvml(), sources.nvml_timeout_seconds)
        except ChildTimeoutError as error:
            # nvidia-smi would hang as well.
            return None, {}, (f"NVML {error}: the NVIDIA driver or a GPU hangs (see the kernel's messages)",)
        except (ImportError, ChildError) as error:
            said.append(f"NVML is not asked: {error}")
        else:
            if users:
                return NVML, users, warnings
            said.extend(warnings)
    if sources.nvidia_smi is not None:
        users, warnings = read_nvidia_smi_processes(sources.nvidia_smi)
        said.extend(warnings)
        if users:
            return NVIDIA_SMI, users, tuple(said)
    return None, {}, tuple(said)


def _nvml_users(module: t.Any, timeout_seconds: float | None) -> tuple[dict[str, GpuUsers], tuple[str, ...]]:
    if timeout_seconds is None:
        return read_nvml_processes(module)

    def work() -> t.Any:
        users, warnings = read_nvml_processes(module)
        return {address: one._asdict() for address, one in users.items()}, warnings

    plain, warnings = answer_of_child(timeout_seconds, work)
    return {address: GpuUsers(**one) for address, one in plain.items()}, tuple(warnings)
