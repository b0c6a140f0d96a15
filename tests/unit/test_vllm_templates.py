# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role vllm writes for an instance says what its plan says, whatever kind of plan it is."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.numapin.inference.plugins.module_utils._bench_plan import LOCAL, Machine, placed
from ansible_collections.numapin.inference.plugins.module_utils._bench_units import placement_properties
from ansible_collections.numapin.inference.plugins.module_utils._group_guard import Group
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import joined, plan_host
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import (
    Facts,
    cpu_only,
    eight_gpus,
    gpu,
    machine,
    mig,
    mig_uuid,
    model,
    uuid,
)

ROLE = Path(__file__).resolve().parents[2] / "roles" / "vllm"
PYTHON = "/opt/vllm/bin/python"


def first_instance(facts: Facts, **keys: t.Any) -> dict[str, t.Any]:
    entry: dict[str, t.Any] = plan_host(facts, [model(**keys)], host="gpu1", address="192.0.2.11")["instances"][0]
    return entry


def role_variables() -> dict[str, t.Any]:
    """Defaults and internal variables of the role, as templates."""
    found: dict[str, t.Any] = {}
    for part in ("defaults", "vars"):
        found |= yaml.safe_load((ROLE / part / "main.yml").read_text(encoding="utf-8"))
    return {key: trust_as_template(value) if isinstance(value, str) else value for key, value in found.items()}


def render(name: str, instance: dict[str, t.Any], **options: t.Any) -> str:
    variables = {
        **role_variables(),
        "instance": instance,
        "vllm_listen_address": "192.0.2.11",
        "vllm_install_method": "existing",
        "vllm_existing_python": PYTHON,
        **options,
    }
    text = (ROLE / "templates" / name).read_text(encoding="utf-8")
    templar = Templar(loader=DataLoader(), variables=variables)
    return str(templar.template(trust_as_template(text), escape_backslashes=False))


def placement(facts: Facts, binding: str = "systemd", **keys: t.Any) -> dict[str, str]:
    """The settings of placement.conf, those of Environment= by the names of their variables."""
    text = render("placement.conf.j2", first_instance(facts, **keys), vllm_binding=binding)
    pairs = []
    for row in text.splitlines():
        if row.startswith("Environment="):
            (word,) = shlex.split(row.removeprefix("Environment="))
            pairs.append(word.partition("="))
        elif "=" in row and row[0] != "#":
            pairs.append(row.partition("="))
    return {key: value for key, _equals, value in pairs}


def config(facts: Facts, **keys: t.Any) -> dict[str, t.Any]:
    found: dict[str, t.Any] = yaml.safe_load(render("instance.yaml.j2", first_instance(facts, **keys)))
    return found


def chosen(found: t.Mapping[str, t.Any], *keys: str) -> list[t.Any]:
    return [found.get(key) for key in keys]


FENCE = ("CPUAffinity", "AllowedCPUs", "NUMAPolicy", "NUMAMask", "AllowedMemoryNodes")
PARALLEL = ("tensor-parallel-size", "pipeline-parallel-size", "numa-bind", "numa-bind-nodes", "numa-bind-cpus")
BOTH = "1-31,33-63,65-95,97-127"


def test_an_instance_inside_a_node() -> None:
    found = placement(eight_gpus(), tensor_parallel_size=4)
    assert chosen(found, *FENCE) == ["1-31,65-95", "1-31,65-95", "bind", "0", "0"]
    assert found["CUDA_VISIBLE_DEVICES"] == ",".join(uuid(index) for index in range(4))
    # vLLM refuses numa-bind where the process is bound already, and ignores it for a single worker.
    assert chosen(config(eight_gpus(), tensor_parallel_size=4), *PARALLEL) == [4, 1, None, None, None]


def test_a_pipeline_over_nodes() -> None:
    keys: Facts = {"tensor_parallel_size": 8, "spanning": "pipeline"}
    assert chosen(placement(eight_gpus(), **keys), *FENCE) == [BOTH, BOTH, "bind", "0,1", "0,1"]
    nodes, cpus = [0, 0, 0, 0, 1, 1, 1, 1], ["1-31,65-95"] * 4 + ["33-63,97-127"] * 4
    assert chosen(config(eight_gpus(), **keys), *PARALLEL) == [4, 2, True, nodes, cpus]


def test_a_group_interleaved_over_nodes() -> None:
    keys: Facts = {"tensor_parallel_size": 8, "spanning": "interleave"}
    assert chosen(placement(eight_gpus(), **keys), *FENCE) == [BOTH, BOTH, "interleave", "0,1", "0,1"]
    assert chosen(config(eight_gpus(), **keys), *PARALLEL) == [8, 1, None, None, None]


def test_a_package() -> None:
    facts = machine({0: "0-3", 1: "4-7"}, [gpu(0, 0), gpu(1, 1)], packages=[[0, 1]])
    keys: Facts = {"tensor_parallel_size": 2, "scope": "package"}
    assert chosen(placement(facts, **keys), *FENCE) == ["1-3,5-7", "1-3,5-7", "bind", "0,1", "0,1"]
    assert chosen(config(facts, **keys), *PARALLEL) == [2, 1, None, None, None]


def test_a_mig_device() -> None:
    found = placement(machine({0: "0-3"}, [mig(0, 0, "1g", "1g")]))
    assert found["CUDA_VISIBLE_DEVICES"] == mig_uuid(0, 0)


@pytest.mark.parametrize(
    ("keys", "omp", "policy"),
    [
        ({"spanning": "pipeline", "tensor_parallel_size": 2}, "1-7|9-15", "bind"),
        ({"spanning": "interleave", "tensor_parallel_size": 2}, "1-7|9-15", "interleave"),
        ({"spanning": "interleave", "memory_mib": 600000}, "1-7,9-15", "interleave"),
    ],
)
def test_workers_on_the_cpu(keys: Facts, omp: str, policy: str) -> None:
    found = placement(cpu_only(), **keys)
    assert chosen(found, "AllowedCPUs", "NUMAPolicy", "NUMAMask") == ["1-7,9-15", policy, "0,1"]
    assert chosen(found, "VLLM_CPU_OMP_THREADS_BIND", "CPU_VISIBLE_MEMORY_NODES") == [omp, "0,1"]
    assert "numa-bind" not in config(cpu_only(), **keys)


def test_preferred_memory_is_not_fenced() -> None:
    assert chosen(placement(cpu_only(), memory_policy="preferred"), *FENCE[2:]) == ["preferred", "0", None]


NUMACTL, TASKSET = "/usr/bin/numactl --cpunodebind=", "/usr/bin/taskset --cpu-list "
COMMAND = f"{PYTHON} -m vllm.entrypoints.openai.api_server --config /etc/vllm/{{}}.yaml"


@pytest.mark.parametrize(
    ("keys", "bound"),
    [
        ({}, f"{NUMACTL}0 --membind=0 {TASKSET}1-7"),
        ({"memory_policy": "preferred"}, f"{NUMACTL}0 --preferred=0 {TASKSET}1-7"),
        ({"memory_policy": "interleave"}, f"{NUMACTL}0 --interleave=0 {TASKSET}1-7"),
        (
            {"spanning": "interleave", "memory_mib": 600000},
            f"{NUMACTL}0,1 --interleave=0,1 {TASKSET}1-7,9-15",
        ),
    ],
)
def test_numactl_widens_before_taskset_narrows(keys: Facts, bound: str) -> None:
    found = placement(cpu_only(), binding="numactl", **keys)
    assert found["ExecStart"] == f"{bound} {COMMAND.format(first_instance(cpu_only(), **keys)['name'])}"
    # It places the processes, and systemd does not; the fence is systemd's with either.
    assert chosen(found, "CPUAffinity", "NUMAPolicy", "NUMAMask") == [None, None, None]
    systemd = placement(cpu_only(), **keys)
    assert "ExecStart" not in systemd
    fence = ("AllowedCPUs", "AllowedMemoryNodes", "VLLM_CPU_OMP_THREADS_BIND")
    assert chosen(found, *fence) == chosen(systemd, *fence)


def shell(script: str) -> str:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=20).stdout


def test_values_of_the_environment_are_whole() -> None:
    odd = "a \"quoted\" \\ 100 % 'word' $HOME"
    instance = first_instance(cpu_only(), environment={"ODD": odd})
    found = placement(cpu_only(), environment={"ODD": odd})
    assert found["ODD"] == odd.replace("%", "%%")
    script = render("launch.sh.j2", instance)
    (line,) = [line for line in script.splitlines() if line.startswith("export ODD=")]
    assert shell(f'{line}\nprintf %s "$ODD"') == odd


def launch(path: Path, user: str | None) -> tuple[int, str]:
    """Run the launch script of an instance that was never deployed: it must refuse before it does anything."""
    path.write_text(render("launch.sh.j2", first_instance(cpu_only())), encoding="utf-8")
    path.chmod(0o755)
    done = subprocess.run([path], capture_output=True, text=True, timeout=20, user=user, check=False)
    return done.returncode, done.stderr


def test_the_launch_script_wants_root() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        status, said = launch(Path(directory) / "launch", "nobody" if os.geteuid() == 0 else None)
    assert status == 78
    assert "run it as root, not as" in said
    assert "only root can read /etc/vllm/llama-n0.env. vLLM itself will run as user vllm" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="the script refuses everybody but root earlier")
def test_the_launch_script_names_what_is_missing(tmp_path: Path) -> None:
    status, said = launch(tmp_path / "launch", None)
    assert status == 78
    assert "/etc/vllm/llama-n0.env is missing: run the play that deploys llama-n0 on this host again" in said


def test_the_launch_script_binds_and_runs_as_the_unit_does() -> None:
    script = render("launch.sh.j2", first_instance(cpu_only()), vllm_supplementary_groups=["video", "render"])
    command = script[script.index("\nexec /usr/bin/setpriv") :].replace("\\\n", " ")
    words = shlex.split(command.replace("$(id -G vllm | tr ' ' ,)", "IDS"))
    placed = placement(cpu_only(), binding="numactl")["ExecStart"].split()
    assert words[-len(placed) :] == placed
    privileges = ["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
    user = ["--reuid=vllm", "--regid=vllm", "--groups=IDS,video,render"]
    assert words[: -len(placed)] == ["exec", "/usr/bin/setpriv", *user, *privileges]


def test_a_shell_reads_secrets_as_systemd_does(tmp_path: Path) -> None:
    odd = "a \"quoted\" \\ `id` 'word' $HOME # 100 %"
    path = tmp_path / "env"
    path.write_text(render("instance.env.j2", {}, vllm_secret_environment={"ODD": odd}), encoding="utf-8")
    assert shell(f'. {path}; printf %s "$ODD"') == odd


def missing(facts: Facts, found: t.Collection[str] = (), options: Facts | None = None, **keys: t.Any) -> dict[str, str]:
    """The programs that a host lacks, with their packages, where only ``found`` are there."""
    names = ("numactl", "taskset", "setpriv")
    paths = {f"/usr/bin/{name}": {"exists": name in found} for name in names}
    plan = {"instances": [first_instance(facts, **keys)]}
    variables = {
        **role_variables(),
        "vllm_plan": plan,
        "__vllm_deployment": {"paths": paths},
        **(options or {}),
    }
    templar = Templar(loader=DataLoader(), variables=variables)
    answer: dict[str, str] = templar.template(trust_as_template("{{ __vllm_missing_programs }}"))
    return answer


def test_programs_are_installed_only_where_something_needs_them() -> None:
    pipeline: Facts = {"tensor_parallel_size": 8, "spanning": "pipeline"}
    numactl, scripts = {"vllm_binding": "numactl"}, {"vllm_launch_scripts": True}
    both = {"/usr/bin/numactl": "numactl", "/usr/bin/taskset": "util-linux"}
    assert missing(cpu_only()) == {}
    assert missing(eight_gpus(), **pipeline) == {"/usr/bin/numactl": "numactl"}
    assert missing(cpu_only(), options=numactl) == both
    assert missing(cpu_only(), options=scripts) == {**both, "/usr/bin/setpriv": "util-linux"}
    assert missing(cpu_only(), ["numactl", "taskset"], options=numactl) == {}
    assert missing(cpu_only(), ["taskset", "setpriv"], options=scripts) == {"/usr/bin/numactl": "numactl"}


@pytest.mark.parametrize(
    ("numa", "options", "said"),
    [
        (False, {"vllm_binding": "numactl"}, "numactl cannot bind on this host: its kernel has no NUMA support"),
        (False, {}, ""),
        (True, {"vllm_binding": "numactl"}, ""),
        (True, {"vllm_secret_environment": {"GOOD_1": "x", "HF-TOKEN": "x"}}, "can have: HF-TOKEN. Allowed are"),
    ],
)
def test_what_cannot_be_bound_or_named_is_refused_in_the_plan(numa: bool, options: Facts, said: str) -> None:
    instance = first_instance(cpu_only())
    deployment = {
        "paths": {
            instance["source"]: {"exists": True, "is_directory": True},
            "/proc/self/numa_maps": {"exists": numa},
        },
        "python": {"error": None, "vllm": True},
        "shared_memory_total_mib": None,
    }
    planned = {"instances": [instance]}
    refusals = render("refusals.j2", instance, __vllm_planned=planned, __vllm_deployment=deployment, **options)
    assert said in refusals
    # Nothing at all is None there, as in the role.
    assert bool(said) is (refusals.strip() not in ("", "None"))


@pytest.mark.parametrize(
    ("facts", "keys"),
    [
        (eight_gpus(), {"tensor_parallel_size": 2}),
        (eight_gpus(), {"memory_policy": "preferred"}),
        (cpu_only(), {"device": "cpu"}),
    ],
    ids=["gpus", "preferred", "cpu"],
)
def test_the_benchmark_measures_the_placement_that_is_deployed(facts: Facts, keys: dict[str, t.Any]) -> None:
    """The role's template and the benchmark's transient units say the same of one instance, each in its own words."""
    found = placed(Machine(facts), [first_instance(facts, **keys)], LOCAL)
    assert isinstance(found, list), found
    (where,) = found
    deployed = placement(facts, **keys)
    measured = dict(row.split("=", 1) for row in placement_properties(where))
    fence = {"CPUAffinity", "NUMAPolicy", "NUMAMask", "AllowedCPUs", "AllowedMemoryNodes"}
    assert measured == {key: value for key, value in deployed.items() if key in fence}
    assert where.environment == {key: deployed[key] for key in where.environment}
    assert where.environment.keys() >= {
        key for key in deployed if key.startswith(("CUDA_", "CPU_VISIBLE", "VLLM_CPU_OMP"))
    }


# --- Instances over several hosts -------------------------------------------------------------------------------------


def over_two_hosts(rank: int, facts: Facts, **keys: t.Any) -> dict[str, t.Any]:
    """What one of two hosts has of an instance."""
    hosts = [{"host": f"gpu{one}", "address": f"192.0.2.{one}", "interface": "eth1"} for one in (1, 2)]
    fleet = {
        "groups": [
            {"name": "llama-g0", "model": "llama", "hosts": ["gpu1", "gpu2"], "first_port": 29500, "members": hosts}
        ]
    }
    asked = [model(hosts=2, **keys)]
    plans = {
        one["host"]: plan_host(facts, asked, host=one["host"], address=one["address"], fleet=fleet) for one in hosts
    }
    found: dict[str, t.Any] = (plans["gpu1"]["instances"] + joined(plans["gpu2"], plans)["members"])[rank]
    return found


@pytest.mark.parametrize(("rank", "headless"), [(0, None), (1, True)])
def test_what_vllm_is_told_of_the_other_host(rank: int, headless: bool | None) -> None:
    entry = over_two_hosts(rank, eight_gpus(), tensor_parallel_size=8, spanning="pipeline")
    found = yaml.safe_load(render("instance.yaml.j2", entry))
    keys = ("nnodes", "node-rank", "master-addr", "master-port", "headless", "distributed-executor-backend")
    assert chosen(found, *keys) == [2, rank, "192.0.2.1", 29500, headless, "mp"]
    assert chosen(found, *PARALLEL[:3]) == [4, 4, True]
    # Each host binds its own workers, and knows nothing of the other's nodes.
    assert found["numa-bind-nodes"] == [0] * 4 + [1] * 4


def environment_of(entry: dict[str, t.Any], **options: t.Any) -> dict[str, str]:
    text = render("placement.conf.j2", entry, vllm_binding="systemd", **options)
    rows = [row for row in text.splitlines() if row.startswith("Environment=")]
    pairs = [shlex.split(row.removeprefix("Environment="))[0].partition("=") for row in rows]
    return {key: value for key, _equals, value in pairs}


def test_the_environment_of_a_host_on_gpus() -> None:
    facts = eight_gpus()
    facts["gpu_nic_pairs"] = [
        {"gpu": one["pci_address"], "nic": "eth1", "infiniband": f"mlx5_{one['node']}", "path": "PIX"}
        for one in facts["gpus"]
    ]
    entry = over_two_hosts(1, facts, tensor_parallel_size=4)
    found = environment_of(entry)
    assert chosen(found, "VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_IB_HCA", "VLLM_PORT") == [
        *("192.0.2.2", "eth1", "=eth1", "=mlx5_0", "29502")
    ]
    assert environment_of(entry, vllm_group_ib_hcas=["mlx5_8"])["NCCL_IB_HCA"] == "=mlx5_8"
    own = over_two_hosts(1, facts, tensor_parallel_size=4, environment={"NCCL_IB_HCA": "mlx5_9"})
    assert environment_of(own)["NCCL_IB_HCA"] == "mlx5_9"


def test_the_environment_of_a_host_on_the_cpu() -> None:
    found = environment_of(over_two_hosts(0, cpu_only(), tensor_parallel_size=2, across_hosts="tensor"))
    assert chosen(found, "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") == ["eth1", None]


@pytest.mark.parametrize("binding", ["systemd", "numactl"])
def test_the_unit_of_a_host_runs_the_guard(binding: str) -> None:
    text = render("placement.conf.j2", over_two_hosts(1, eight_gpus()), vllm_binding=binding)
    (command,) = [row for row in text.splitlines() if row.startswith("ExecStart=/")]
    engine = f"{PYTHON} -m vllm.entrypoints.cli.main serve --config /etc/vllm/llama-g0.yaml"
    guard = f"{PYTHON} -I /usr/local/lib/numapin/group_guard.py /etc/vllm/llama-g0.group.json -- {engine}"
    assert command.endswith(guard)
    assert ("numactl" in command) == (binding == "numactl")
    assert "Requires=numapin-groups.service" in text
    assert "NotifyAccess=main" in text
    assert "numapin-groups" not in render(
        "placement.conf.j2", over_two_hosts(1, eight_gpus()), vllm_binding=binding, vllm_group_firewall="none"
    )


def test_members_have_one_fingerprint_and_another_configuration_another(tmp_path: Path) -> None:
    def group(rank: int, **keys: t.Any) -> dict[str, t.Any]:
        found: dict[str, t.Any] = yaml.safe_load(render("group.json.j2", over_two_hosts(rank, eight_gpus(), **keys)))
        return found

    leader, follower = group(0), group(1)
    assert leader | {"rank": 1} == follower
    assert leader["guard_port"] == 29501
    assert group(1, arguments={"max-num-seqs": 8})["fingerprint"] != leader["fingerprint"]
    path = tmp_path / "group.json"
    path.write_text(render("group.json.j2", over_two_hosts(1, eight_gpus())), encoding="utf-8")
    read = Group.read(str(path))
    assert (read.label(read.rank), read.port) == ("follower gpu2 (192.0.2.2)", 29501)


def test_only_members_come_to_their_ports() -> None:
    entry = over_two_hosts(0, eight_gpus())
    text = render("groups.nft.j2", entry, vllm_serving_plan={"instances": [entry]})
    rules = [row.strip() for row in text.splitlines() if row.startswith("        ")]
    assert rules == [
        "type filter hook input priority -10; policy accept;",
        "iif lo accept",
        "ip saddr 192.0.2.1 accept",
        "ip saddr 192.0.2.2 accept",
        "tcp dport { 8000 } accept",
        "tcp dport 29500-29563 drop",
        "# Only what others begin: answers to what this host has begun come to such ports as well.",
        "tcp dport 32768-60999 tcp flags & (fin | syn | rst | ack) == syn drop",
    ]
    # The old table and the new one are exchanged in one transaction.
    assert "table inet numapin_groups\ndelete table inet numapin_groups\ntable inet numapin_groups {" in text


def test_an_instance_on_one_host_knows_nothing_of_groups() -> None:
    entry = first_instance(eight_gpus(), tensor_parallel_size=4)
    text = render("placement.conf.j2", entry, vllm_binding="systemd")
    for word in ("ExecStart", "NotifyAccess", "numapin-groups", "VLLM_HOST_IP", "IFNAME"):
        assert word not in text
    assert "nnodes" not in render("instance.yaml.j2", entry)
