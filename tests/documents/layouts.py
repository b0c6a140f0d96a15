# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The servers of docs/layouts.md and their plans, as the planner makes and prints them.

The page has, behind a comment ``<!-- plan: SERVER -->``, a YAML block with variables and a text block with the plan.
``python tests/documents/layouts.py`` writes the plans into the page anew.
"""

from __future__ import annotations

import re
import typing as t

import yaml

from ansible_collections.numapin.inference.plugins.module_utils._archive import opened_root, recorded_answers
from ansible_collections.numapin.inference.plugins.module_utils._facts import gather, wanted_parts
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.plugin_utils._plan_table import plan_table
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import PlanError, plan_host
from ansible_collections.numapin.inference.tests.documents.pages import TOP
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import (
    Facts,
    eight_gpus,
    gpu,
    machine,
)

PAGE = TOP / "docs" / "layouts.md"
RECIPE = re.compile(
    r"(?P<before><!-- plan: (?P<server>[\w-]+) -->\n+```yaml\n(?P<variables>.*?)```\n+```text\n)(?P<plan>.*?)(?=```)",
    re.DOTALL,
)
# What the playbook plan hands to the planner, as roles/vllm/defaults/main.yml has it.
OPTIONS = {
    "vllm_housekeeping_cores": "housekeeping_cores",
    "vllm_balancer_cores": "balancer_cores",
    "vllm_api_server_cores": "api_server_cores",
    "vllm_reserved_cpus": "reserved_cpus",
}


def two_packages(cores: int, gpus: t.Sequence[Facts]) -> Facts:
    """Two packages of one node each, with as many cores and two threads on each of them."""
    halves = {
        node: f"{node * cores}-{node * cores + cores - 1},{(2 + node) * cores}-{(3 + node) * cores - 1}"
        for node in (0, 1)
    }
    return machine(halves, gpus, smt=2 * cores)


def divided(nodes: int, cores: int, gpu_nodes: t.Sequence[int]) -> Facts:
    """Two packages of as many nodes each; a node has ``cores`` cores of one thread."""
    cpus = {node: f"{node * cores}-{node * cores + cores - 1}" for node in range(2 * nodes)}
    gpus = [gpu(index, node) for index, node in enumerate(gpu_nodes)]
    return machine(cpus, gpus, packages=[range(nodes), range(nodes, 2 * nodes)])


def grace(gpu_nodes: dict[int, int], memory_nodes: t.Sequence[int], packages: int) -> Facts:
    """Packages of 72 cores, GPUs (their node by index) whose memory is a node without CPUs, and more such nodes."""
    cpus = {node: f"{72 * node}-{72 * node + 71}" for node in range(packages)}
    gpus = [
        gpu(index, node, name="NVIDIA GB200" if packages > 1 else "NVIDIA GH200 480GB", memory_node=memory_nodes[index])
        for index, node in gpu_nodes.items()
    ]
    return machine(
        {**cpus, **dict.fromkeys(memory_nodes, "")},
        gpus,
        kinds=dict.fromkeys(memory_nodes, "memory_only"),
        packages=[[node] for node in range(packages)],
    )


def captured(name: str) -> Facts:
    """Return the facts of a machine in tests/captures."""
    with opened_root(str(TOP / "tests" / "captures" / f"{name}.tar.gz")) as directory:
        host = Host(directory)
        return gather(host, wanted_parts(["all"]), {}, GpuSources(recorded=recorded_answers(host)))


SERVERS: dict[str, t.Callable[[], Facts]] = {
    "hgx": eight_gpus,
    "four-gpus": lambda: two_packages(24, [gpu(index, index // 2) for index in range(4)]),
    "two-gpus": lambda: two_packages(16, [gpu(index, index) for index in range(2)]),
    "two-gpus-one-node": lambda: two_packages(16, [gpu(index, 1) for index in range(2)]),
    "gpu-server": lambda: captured("gpu-server"),
    "two-sockets": lambda: captured("two-sockets"),
    "gh200": lambda: grace({0: 0}, range(1, 9), 1),
    "gb200": lambda: grace({index: index // 2 for index in range(4)}, (2, 10, 18, 26), 2),
    "snc2": lambda: divided(2, 16, [0, 0, 1, 1, 2, 2, 3, 3]),
    "nps4": lambda: divided(4, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
    "nps4-uneven": lambda: divided(4, 8, [0, 0, 2, 2, 4, 4, 6, 6]),
}


def plan_of(server: str, variables: str) -> str:
    """Return what the playbook plan prints for a server with these variables."""
    given = yaml.safe_load(variables)
    options = {name: given[variable] for variable, name in OPTIONS.items() if variable in given}
    unknown = given.keys() - OPTIONS.keys() - {"vllm_models"}
    if unknown:
        raise ValueError(f"variables that no plan is made of here: {', '.join(sorted(unknown))}")
    try:
        plan = plan_host(
            SERVERS[server](),
            given["vllm_models"],
            host="gpu1",
            address="192.0.2.11",
            reserved_memory_mib=256,
            **options,
        )
    except PlanError as error:
        return f"{error}\n"
    return plan_table(plan) + "\n"


def recipes() -> list[re.Match[str]]:
    """Return the page's recipes."""
    return list(RECIPE.finditer(PAGE.read_text(encoding="utf-8")))


def main() -> None:
    """Write the plans into the page."""
    text = PAGE.read_text(encoding="utf-8")
    new = RECIPE.sub(lambda found: found["before"] + plan_of(found["server"], found["variables"]), text)
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
