# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""numa_facts against numactl, lscpu, lspci, ethtool, systemd and the files themselves, on machines of several shapes.

Run by ``make lab-facts``, which boots the machines (see machines/observe.py and conftest.py). Every test compares all
it can and then tells every difference at once.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import tarfile

import pytest
from fleet.cpus import numbers, spell
from fleet.settings import BUILD, REPOSITORY
from machines import qemu, shapes
from machines.observation import PCI_ADDRESS, Comparison, Facts, Observation
from machines.observe import HUGE_PAGES

# What a run of the module and of numactl itself take from the free memory and give back, beyond what was free before
# and after. The machine the tests run on does other work as well.
FREE_MIB = 64
FREE_SHARE_OF_THIS_MACHINE = 0.25
CAPTURES = REPOSITORY / "tests" / "captures"
# Counters and free memory go on while a capture is made.
MOVING = ("memory_free_mib", "numastat")


def test_nodes(machine: Observation) -> None:
    """Ids, CPUs, memory and distances are numactl's, kinds and offline nodes those of the kernel's own lists."""
    theirs, nodes = machine.before, machine.facts["nodes"]
    ids = sorted(numbers(theirs.files["node/online"]))
    with Comparison(machine) as same:
        same.equal("node ids", [node["id"] for node in nodes], ids)
        same.equal("numactl's number of nodes", f"{len(nodes)} nodes", " ".join(theirs.text("numactl").split()[1:3]))
        for node, distances in zip(nodes, theirs.distances, strict=True):
            where = f"node {node['id']}"
            cpus = [int(word) for word in theirs.numactl(node["id"], "cpus").split()]
            same.equal(f"{where} cpus", node["cpus"], spell(cpus))
            same.equal(f"{where} cpu_count", node["cpu_count"], len(cpus))
            same.equal(f"{where} memory", f"{node['memory_total_mib']} MB", theirs.numactl(node["id"], "size"))
            same.equal(f"{where} distances", [entry["distance"] for entry in node["distances"]], distances)
            same.equal(f"{where} distances to", [entry["node"] for entry in node["distances"]], ids)
            has = [node["id"] in numbers(theirs.files[f"node/has_{what}"]) for what in ("cpu", "memory")]
            kinds = {(1, 1): "cpu_and_memory", (0, 1): "memory_only", (1, 0): "cpu_only", (0, 0): "empty"}
            same.equal(f"{where} kind", node["kind"], kinds[int(has[0]), int(has[1])])
            free_memory(machine, same, node)
        offline = numbers(theirs.files["node/possible"]) - set(ids)
        same.equal("offline_nodes", machine.facts["offline_nodes"], spell(offline))


def free_memory(machine: Observation, same: Comparison, node: Facts) -> None:
    """Free memory is near what numactl saw before and after."""
    seen = [int(tools.numactl(node["id"], "free").split()[0]) for tools in (machine.before, machine.after)]
    margin = FREE_MIB if machine.shape else node["memory_total_mib"] * FREE_SHARE_OF_THIS_MACHINE
    same.between(f"node {node['id']} free", min(seen) - margin, node["memory_free_mib"], max(seen) + margin)


def test_pools_and_counters(machine: Observation) -> None:
    """Huge pages are the files', counters lie between numastat's before and after."""
    files = machine.before.files
    with Comparison(machine) as same:
        for node in machine.facts["nodes"]:
            name = f"node{node['id']}"
            sizes = {re.split("-|kB", path)[1] for path in files if path.startswith(f"node/{name}/hugepages/")}
            pools = []
            for size in sorted(map(int, sizes)):
                base = f"node/{name}/hugepages/hugepages-{size}kB"
                read = {key: int(files[f"{base}/{file}_hugepages"]) for key, file in POOL_FILES.items()}
                pools.append({"size_kib": size, **read})
            same.equal(f"{name} hugepages", node["hugepages"], pools)
            for ours, tool in COUNTERS.items():
                low, high = (tools.numastat[node["id"]][tool] for tools in (machine.before, machine.after))
                same.between(f"{name} {ours}", low, node["numastat"][ours], high)


POOL_FILES = {"total": "nr", "free": "free", "surplus": "surplus"}
COUNTERS = {
    "hit": "numa_hit",
    "miss": "numa_miss",
    "foreign": "numa_foreign",
    "interleave_hit": "interleave_hit",
    "local": "local_node",
    "other": "other_node",
}


def test_cpus(machine: Observation) -> None:
    """Node, package, core and state are lscpu's; siblings, and offline CPUs' nodes, are the kernel's own."""
    rows = {row["cpu"]: row for row in machine.before.json("lscpu cpus")["cpus"]}
    files, cpus = machine.before.files, machine.facts["cpus"]
    # lscpu reads the nodes' lists, which name online CPUs only; the kernel keeps the links of the others.
    links = {path.split("/")[-2]: int(path.rpartition("/node")[2]) for path in machine.before.table("nodes of CPUs")}
    with Comparison(machine) as same:
        same.equal("cpu ids", [cpu["id"] for cpu in cpus], sorted(rows))
        for cpu in cpus:
            row, where = rows[cpu["id"]], f"cpu {cpu['id']}"
            same.equal(f"{where} online", cpu["online"], row["online"])
            for ours, column in (("node", "node"), ("package", "socket"), ("core", "core")):
                same.equal(f"{where} {ours}", cpu[ours] if cpu["online"] else None, row[column])
            same.equal(f"{where} node", cpu["node"], links.get(f"cpu{cpu['id']}"))
            siblings = files.get(f"cpu/cpu{cpu['id']}/topology/thread_siblings_list")
            same.equal(f"{where} smt_siblings", cpu["smt_siblings"], siblings)
        same.equal("offline_cpus", machine.facts["offline_cpus"], offline(machine))
        said = machine.before.lscpu.get("Off-line CPU(s) list", "")
        same.equal("lscpu's offline CPUs", machine.facts["offline_cpus"], spell(numbers(said)))
        same.equal("packages", machine.facts["packages"], packages(rows))
        same.equal("number of packages", str(len(machine.facts["packages"])), machine.before.lscpu["Socket(s)"])
        for node in machine.facts["nodes"]:
            own = {row["socket"] for row in rows.values() if row["online"] and row["node"] == node["id"]}
            same.equal(f"node {node['id']} package_ids", node["package_ids"], sorted(own))
        # What a process may set itself to, whatever it began with.
        allowed = numbers(machine.before.text("allowed cpus")) & numbers(files["cpu/online"])
        allowed -= numbers(files.get("cpu/isolated", ""))
        same.equal("allowed_cpus", machine.facts["allowed_cpus"], spell(allowed))


def offline(machine: Observation) -> str:
    """CPUs that are present and not online, from the kernel's lists."""
    files = machine.before.files
    return spell(numbers(files["cpu/present"]) - numbers(files["cpu/online"]))


def packages(rows: dict[int, Facts]) -> list[Facts]:
    """Packages as lscpu's CPUs make them up."""
    found: dict[int, list[Facts]] = {}
    for row in rows.values():
        if row["online"]:
            found.setdefault(row["socket"], []).append(row)
    return [
        {"id": package, "cpus": spell([row["cpu"] for row in own]), "nodes": sorted({row["node"] for row in own})}
        for package, own in sorted(found.items())
    ]


def test_caches(machine: Observation) -> None:
    """Domains of the last-level cache are the kernel's lists, their size is lscpu's."""
    last = last_level_caches(machine)
    node_of = {cpu: node["id"] for node in machine.facts["nodes"] for cpu in numbers(node["cpus"])}
    sizes = {row["level"]: row["one-size"] for row in machine.before.json("lscpu caches")["caches"]}
    domains = [
        {
            "cpus": cpus,
            "level": level,
            "size_kib": int(sizes[level]) // 1024,
            "nodes": sorted({node_of[cpu] for cpu in numbers(cpus)}),
        }
        for level, cpus in sorted(set(last.values()), key=lambda one: min(numbers(one[1])))
    ]
    with Comparison(machine) as same:
        for cpu in machine.facts["cpus"]:
            expected = last.get(cpu["id"], (0, None))[1] if cpu["online"] else None
            same.equal(f"cpu {cpu['id']} llc_domain", cpu["llc_domain"], expected)
        same.equal("llc_domains", machine.facts["llc_domains"], domains)


def last_level_caches(machine: Observation) -> dict[int, tuple[int, str]]:
    """(level, CPUs) of the last-level cache of every CPU that has caches."""
    files = machine.before.files
    online = numbers(files["cpu/online"])
    found: dict[int, tuple[int, str]] = {}
    for path, level in files.items():
        match = re.fullmatch(r"cpu/cpu(\d+)/cache/(index\d+)/level", path)
        if match and files[path.replace("level", "type")] != "Instruction":
            # Some kernels leave CPUs in the list that went offline.
            cpus = spell(numbers(files[path.replace("level", "shared_cpu_list")]) & online)
            found[int(match[1])] = max(found.get(int(match[1]), (0, "")), (int(level), cpus))
    return found


def test_devices(machine: Observation) -> None:
    """Names and addresses are the kernel's links, nodes lspci's, drivers ethtool's and lspci's, vectors the files'."""
    theirs = machine.before
    drivers = theirs.table("ethtool drivers")
    requested = set(re.findall(r"^ *(\d+):", theirs.text("interrupts"), re.MULTILINE))
    with Comparison(machine) as same:
        for kind, title in (("nics", "net devices"), ("nvme", "nvme devices")):
            addresses = {path.split("/")[4]: address(target) for path, target in theirs.table(title).items()}
            same.equal(kind, {one["name"]: one["pci_address"] for one in machine.facts[kind]}, addresses)
            for device in machine.facts[kind]:
                where, pci = f"{kind} {device['name']}", theirs.pci.get(device["pci_address"] or "", {})
                node = pci.get("NUMANode")
                same.equal(f"{where} node", device["node"], None if node is None else int(node))
                irqs = theirs.vectors.get(device["pci_address"] or "", [])
                same.equal(f"{where} irqs", device["irqs"], irqs)
                named = [irq for irq in device["irqs"] if str(irq) in requested]
                same.equal(f"{where} irqs in /proc/interrupts", device["irqs"] if irqs else [], named)
                driver = drivers.get(device["name"]) if kind == "nics" else pci.get("Driver")
                same.equal(f"{where} driver", device["driver"], driver)
        for nic in machine.facts["nics"]:
            state = theirs.files[f"/sys/class/net/{nic['name']}/operstate"]
            same.equal(f"{nic['name']} link", nic["link"], state)
        for disk in machine.facts["nvme"]:
            same.equal(f"{disk['name']} model", disk["model"], theirs.files[f"/sys/class/nvme/{disk['name']}/model"])


def test_gpus(machine: Observation) -> None:
    """Addresses and nodes are lspci's; CPUs, links and nearest network cards follow from where lspci sees them."""
    theirs = machine.before.pci
    cpus = {node["id"]: node["cpus"] for node in machine.facts["nodes"]}
    nodes = {slot: int(one["NUMANode"]) for slot, one in theirs.items() if one["Vendor"] == "10de"}
    nics = {nic["name"]: nic["node"] for nic in machine.facts["nics"]}
    with Comparison(machine) as same:
        same.equal("gpus", {gpu["pci_address"]: gpu["node"] for gpu in machine.facts["gpus"]}, nodes)
        for gpu in machine.facts["gpus"]:
            node = nodes[gpu["pci_address"]]
            same.equal(f"{gpu['pci_address']} cpus", gpu["cpus"], cpus[node])
            kinds = {link["pci_address"]: link["kind"] for link in gpu["links"]}
            # The double's GPUs of one node are wired to one another.
            others = {other: "NV4" if there == node else "SYS" for other, there in nodes.items()}
            same.equal(f"{gpu['pci_address']} links", {**kinds, gpu["pci_address"]: "NV4"}, others)
        found = {(pair["gpu"], pair["nic"]) for pair in machine.facts["gpu_nic_pairs"]}
        near = {(gpu, nic) for gpu, node in nodes.items() for nic, there in nics.items() if there == node}
        same.equal("pairs", found, near)


def address(target: str) -> str | None:
    """The PCI function that a device's directory lies in."""
    found = PCI_ADDRESS.findall(target)
    return found[-1] if found else None


def test_kernel(machine: Observation) -> None:
    """Settings are the files', hypervisor and container systemd's, services systemctl's."""
    theirs, kernel = machine.before, machine.facts["kernel"]
    files = theirs.files
    thp = re.search(r"\[(\w+)\]", files.get("/sys/kernel/mm/transparent_hugepage/enabled", ""))
    with Comparison(machine) as same:
        same.equal("release", kernel["release"], theirs.text("release"))
        for key, path in (("numa_balancing", "kernel/numa_balancing"), ("zone_reclaim_mode", "vm/zone_reclaim_mode")):
            value = files.get(f"/proc/sys/{path}")
            same.equal(key, kernel[key], None if value is None else int(value))
        same.equal("transparent_hugepage", kernel["transparent_hugepage"], thp[1] if thp else None)
        unified = theirs.text("cgroup file system") == "cgroup2fs"
        same.equal("cgroup_version", kernel["cgroup_version"], 2 if unified else 1)
        for key, file in (("isolated_cpus", "isolated"), ("nohz_full_cpus", "nohz_full")):
            value = files.get(f"cpu/{file}")
            same.equal(key, kernel[key], None if value is None else value.replace("(null)", ""))
        for key in ("virtualization", "container"):
            if machine.shape or theirs.text(key):  # not every machine has systemd
                same.equal(key, kernel[key], theirs.text(key))
        for service in ("irqbalance", "tuned"):
            if machine.shape or theirs.text(service):
                same.equal(service, kernel[service]["active"], theirs.text(service) == "active")


def test_shape(machine: Observation) -> None:
    """What we told QEMU to build is what we read: a third witness, and the proof that the machine is worth the test."""
    shape, facts = machine.shape, machine.facts
    if shape is None:
        pytest.skip("nobody wrote down the shape of the machine that the tests run on")
    offline_cpus = numbers(shape.offline_cpus)
    with Comparison(machine) as same:
        same.equal("gathered", facts["gathered"], PARTS)
        same.equal("nodes", [node["id"] for node in facts["nodes"]], list(range(len(shape.nodes))))
        same.equal("offline_cpus", facts["offline_cpus"], spell(offline_cpus))
        for node, wanted in zip(facts["nodes"], shape.nodes, strict=True):
            where = f"node {node['id']}"
            same.equal(f"{where} cpus", node["cpus"], spell(numbers(wanted.cpus) - offline_cpus))
            same.equal(f"{where} kind", node["kind"], "cpu_and_memory" if wanted.cpus else "memory_only")
            # The kernel and the firmware keep some for themselves, most of it on the first node.
            same.between(f"{where} memory", wanted.memory_mib * 0.75, node["memory_total_mib"], wanted.memory_mib)
            distances = list(shape.distances[node["id"]]) if shape.distances else [10]
            same.equal(f"{where} distances", [entry["distance"] for entry in node["distances"]], distances)
        same.equal("packages", len(facts["packages"]), shape.sockets)
        for kind, names in (("nics", shapes.NETWORKS), ("nvme", ("nvme",))):
            wanted_nodes = sorted(str(device.node) for device in shape.devices if device.kind in names)
            same.equal(f"nodes of {kind}", sorted(str(one["node"]) for one in facts[kind]), wanted_nodes)
            same.equal(f"{kind} with vectors", all(one["irqs"] for one in facts[kind]), True)
        for cpu in facts["cpus"]:
            if cpu["online"]:
                first = cpu["id"] - cpu["id"] % shape.threads
                siblings = set(range(first, first + shape.threads)) - offline_cpus
                same.equal(f"cpu {cpu['id']} siblings", cpu["smt_siblings"], spell(siblings))
        pages = {node["id"]: pool["total"] for node in facts["nodes"] for pool in node["hugepages"] if pool["total"]}
        last = max(number for number, node in enumerate(shape.nodes) if node.cpus)
        same.equal("huge pages", pages, {last: HUGE_PAGES})
        isolated = [word.partition("=")[2] for word in shape.kernel_options if word.startswith("isolcpus=")]
        same.equal("isolated", facts["kernel"]["isolated_cpus"], "".join(isolated))
        same.equal("irqbalance", facts["kernel"]["irqbalance"], {"active": True})
        gpus = [device for device in sorted_by_bus(shape) if device.kind == "gpu"]
        wanted_gpus = [(gpu.node, gpu.name, gpu.memory_mib, "nvml", "nvml") for gpu in gpus]
        keys = ("node", "name", "memory_total_mib", "node_source", "source")
        same.equal("gpus", [tuple(gpu[key] for key in keys) for gpu in facts["gpus"]], wanted_gpus)
        words = [word.split(",")[1] for word in qemu.gpu_words(machine.name, shape)]
        same.equal("uuids", [gpu["uuid"] for gpu in facts["gpus"]], words)


def sorted_by_bus(shape: shapes.Shape) -> list[shapes.Device]:
    """Devices in the order of their PCI addresses."""
    return sorted(shape.devices, key=lambda device: -1 if device.node is None else device.node)


PARTS = ["cpus", "memory", "gpus", "links", "nics", "nvme", "infiniband", "kernel"]


def test_capture(machine: Observation) -> None:
    """A capture, read on the controller, says what the machine said."""
    with Comparison(machine) as same:
        for key, value in still(machine.facts).items():
            same.equal(key, still(machine.captured).get(key), value)
        same.equal("keys", sorted(machine.captured), sorted(machine.facts))


def still(facts: Facts) -> Facts:
    """The facts without what moves."""
    nodes = [{key: value for key, value in node.items() if key not in MOVING} for node in facts["nodes"]]
    # A GPU's UUID identifies its host: a capture has stand-ins.
    gpus = [{**gpu, "uuid": None, "links": [{**link, "uuid": None} for link in gpu["links"]]} for gpu in facts["gpus"]]
    pairs = [{**pair, "gpu_uuid": None} for pair in facts["gpu_nic_pairs"]]
    return {**facts, "nodes": nodes, "gpus": gpus, "gpu_nic_pairs": pairs}


def test_capture_names_nobody(machine: Observation) -> None:
    """Neither serial numbers nor addresses nor the host's name are in an archive."""
    if machine.shape is None:
        pytest.skip("who the machine is that the tests run on is nobody's business")
    with tarfile.open(machine.capture) as archive:
        # Links are none: some of them lead out of what was captured.
        members = [member for member in archive.getmembers() if member.isfile()]
        content = b"\n".join(file.read() for file in map(archive.extractfile, members) if file is not None)
        names = "\n".join(member.name for member in archive.getmembers())
    text = names + "\n" + content.decode(errors="replace")
    uuids = [gpu["uuid"] for gpu in machine.facts["gpus"]]
    secrets = ("numapin-lab-", "52:54:00:4c", "52540", "10.0.2.", "10.77.0.", machine.name, *uuids)
    assert [secret for secret in secrets if secret in text] == []


def test_committed_capture(machine: Observation) -> None:
    """The archive in tests/captures is of this shape still: what it says differs by the kernel's release at most."""
    if machine.shape is None:
        pytest.skip("nobody committed a capture of the machine that the tests run on")
    with Comparison(machine) as same:
        committed, now = (still(facts) for facts in (read_capture(CAPTURES / machine.capture.name), machine.facts))
        for facts in (committed, now):
            facts["kernel"] = {**facts["kernel"], "release": None}
            facts |= {kind: numberless(facts[kind]) for kind in ("nics", "nvme", "infiniband")}
        for key, value in now.items():
            same.equal(key, committed.get(key), value)


def numberless(devices: list[Facts]) -> list[Facts]:
    """Devices by address, without the numbers that they get in the order in which their drivers happen to come up."""
    known = [{**one, "irqs": len(one["irqs"]), "name": re.sub(r"^nvme\d+$", "nvme", one["name"])} for one in devices]
    return sorted(known, key=lambda one: str(one["pci_address"]))


def read_capture(path: pathlib.Path) -> Facts:
    """Run the module on an archive, as Ansible would on the controller."""
    module = "ansible_collections.numapin.inference.plugins.modules.numa_facts"
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {"root": str(path)}}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=BUILD / "dev",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts: Facts = json.loads(done.stdout)["ansible_facts"]["numa"]
    return facts


def test_shapes_can_be_read() -> None:
    """Every shape that lies there is sound, also those that no test boots."""
    known = {"gpu-server", "two-sockets", "four-nodes", "smt-offline", "one-node", "sparse", "balancer"}
    assert known <= set(shapes.names())
    assert all(shapes.read(name).reason for name in shapes.names())
