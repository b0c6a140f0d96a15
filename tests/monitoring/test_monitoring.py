# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules, dashboards, scrape configuration: Prometheus takes them, every metric in them exists, a drift is told."""

from __future__ import annotations

import json
import re
import subprocess
import typing as t
import urllib.parse
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models import dashboard

from ansible_collections.numapin.inference.tests.monitoring.programs import (
    HERE,
    free_port,
    get,
    render,
    running,
    stub_status,
    wait_for,
)

TOP = HERE.parents[1]
RULES = TOP / "roles" / "monitoring" / "files" / "rules.yml"
DASHBOARDS = sorted((TOP / "roles" / "monitoring" / "files" / "dashboards").glob("*.json"))
OURS = (HERE / "exporters" / "numapin.prom").read_text(encoding="utf-8")
WATCHDOGS = (HERE / "exporters" / "numapin-watchdog.prom").read_text(encoding="utf-8")

# Prometheus' own.
BUILT_IN = {"up", "ALERTS"}
METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
# What else stands in an expression: functions, operators, names of labels.
NOT_METRICS = {
    *("sum", "count", "max", "min", "rate", "changes", "histogram_quantile", "vector", "time", "topk", "bottomk"),
    *("by", "on", "and", "or", "unless", "group_left", "ignoring", "label_values"),
}


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, t.Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels(path: Path) -> list[dict[str, t.Any]]:
    found: list[dict[str, t.Any]] = json.loads(path.read_text(encoding="utf-8"))["panels"]
    return found


def expressions(path: Path) -> list[str]:
    return [target["expr"].replace("$host", "gpu1") for panel in panels(path) for target in panel.get("targets", ())]


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in an expression: what is left without texts, labels, ranges, groupings and functions."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", bare)
    bare = re.sub(r"\b(by|on|group_left|ignoring)\s*\([^)]*\)", " ", bare)
    return set(METRIC.findall(bare)) - NOT_METRICS


def names_in(exposition: str) -> set[str]:
    return {match.group() for line in exposition.splitlines() if (match := METRIC.match(line))}


def test_promtool_takes_the_rules_and_their_tests_hold() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(HERE / "rules_test.yml"))


def test_every_alert_is_tested_and_says_what_and_how_bad() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    tested = (HERE / "rules_test.yml").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in alerts if f"alertname: {rule['alert']}" not in tested] == []
    assert {rule["labels"]["severity"] for rule in alerts} == {"info", "warning", "critical"}
    assert all("{{ $labels.host }}" in rule["annotations"]["summary"] for rule in alerts)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: str(path.stem))
def test_a_dashboard_has_grafanas_schema(path: Path) -> None:
    given = json.loads(path.read_text(encoding="utf-8"))
    plugins.register_default_plugins()
    known = json.loads(encoder.JSONEncoder().encode(dashboard.Dashboard.from_json(given)))

    def unknown(ours: t.Any, theirs: t.Any, where: str) -> t.Iterator[str]:
        if isinstance(ours, dict):
            for key, value in ours.items():
                if value not in (None, [], {}):
                    yield from unknown(value, theirs.get(key), f"{where}.{key}")
        elif isinstance(ours, list):
            for index, value in enumerate(ours):
                yield from unknown(value, (theirs or [])[index], f"{where}[{index}]")
        elif ours != theirs:
            yield where

    assert list(unknown(given, known, path.stem)) == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: str(path.stem))
def test_panels_stand_side_by_side_and_have_numbers_of_their_own(path: Path) -> None:
    found = panels(path)
    assert len({panel["id"] for panel in found}) == len(found) > 5
    taken: set[tuple[int, int]] = set()
    for panel in found:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["targets"]


def test_prometheus_parses_every_expression_of_the_dashboards(tmp_path: Path) -> None:
    every = [expression for path in DASHBOARDS for expression in expressions(path)]
    recorded = [{"record": f"test:{number}", "expr": expression} for number, expression in enumerate(every)]
    assert len(recorded) > 30
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": recorded}]}), encoding="utf-8")
    promtool("check", "rules", str(file))


def test_our_metrics_are_those_of_the_documentation() -> None:
    documentation = TOP / "docs" / "verification.md"
    if not documentation.is_file():
        pytest.skip("role verify's timer, which writes these metrics, is not in this checkout")
    told = set(re.findall(r"^\| `(numapin_[a-z_]+)`", documentation.read_text(encoding="utf-8"), re.MULTILINE))
    assert names_in(OURS) == told


def test_the_watchdogs_metrics_are_documented() -> None:
    documentation = (TOP / "docs" / "rollouts.md").read_text(encoding="utf-8")
    assert names_in(WATCHDOGS) == set(re.findall(r"`(numapin_watchdog_[a-z_]+)`", documentation))


def test_every_metric_exists(tmp_path: Path) -> None:
    node, nginx = free_port(), free_port()
    with (
        stub_status() as counters,
        running(
            "prometheus-node-exporter",
            f"--web.listen-address=127.0.0.1:{node}",
            *("--collector.meminfo_numa", "--collector.interrupts", f"--collector.textfile.directory={tmp_path}"),
        ),
        running("prometheus-nginx-exporter", f"-web.listen-address=127.0.0.1:{nginx}", f"-nginx.scrape-uri={counters}"),
    ):
        of_node = wait_for(lambda: get(f"http://127.0.0.1:{node}/metrics"), 20)
        of_nginx = wait_for(lambda: get(f"http://127.0.0.1:{nginx}/metrics"), 20)
    # What the real vLLM answered (make engine-real).
    answers = (TOP / "tests" / "engine" / "contract" / "vllm-answers.json").read_text(encoding="utf-8")
    of_vllm = set(re.findall(r"vllm:[a-z_0-9]+", answers))
    of_dcgm = names_in((HERE / "exporters" / "dcgm.prom").read_text(encoding="utf-8"))
    ours = names_in(OURS) | names_in(WATCHDOGS) | {"numapin_cpu_node"}
    there = names_in(of_node) | names_in(of_nginx) | of_vllm | of_dcgm | ours
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {
        metric
        for expression in [
            *(rule["expr"] for rule in rules()),
            *(one for path in DASHBOARDS for one in expressions(path)),
        ]
        for metric in metrics_in(expression)
    }
    assert {"nginx_up", "node_memory_numa_numa_miss_total", "vllm:num_requests_waiting"} <= used
    assert used - there - recorded - BUILT_IN == set()


@pytest.fixture(scope="module")
def node_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory, node_port: int) -> Path:
    """What the role writes, with a scrape every second."""
    where = tmp_path_factory.mktemp("rendered")
    return render(where, monitoring_node_exporter_port=node_port, monitoring_scrape_interval_seconds=1)


def test_what_is_scraped(rendered: Path, node_port: int) -> None:
    promtool("check", "config", str(rendered / "prometheus" / "prometheus.yml"))
    ours = rendered / "prometheus" / "numapin"
    assert {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in ours.glob("*.json")} == {
        "node": [{"targets": [f"127.0.0.1:{node_port}"], "labels": {"host": "gpu1"}}],
        "nginx": [{"targets": ["127.0.0.1:9113"], "labels": {"host": "gpu1"}}],
        "dcgm": [],
        "vllm": [
            {"targets": [f"192.0.2.11:{port}"], "labels": {"host": "gpu1", "vllm_instance": name, "model": "llama"}}
            for port, name in ((8000, "llama-n0"), (8001, "llama-n1"))
        ],
    }
    provider = yaml.safe_load((rendered / "grafana" / "dashboards" / "numapin.yml").read_text(encoding="utf-8"))
    directory = Path(provider["providers"][0]["options"]["path"])
    assert sorted(path.name for path in directory.iterdir()) == [path.name for path in DASHBOARDS]
    source = yaml.safe_load((rendered / "grafana" / "datasources" / "numapin.yml").read_text(encoding="utf-8"))
    assert source["datasources"][0]["uid"] == panels(DASHBOARDS[0])[1]["datasource"]["uid"]


def test_a_prometheus_of_somebody_elses_gets_our_files_only(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs" / "scrape.yml"
    render(tmp_path, monitoring_install_method="existing", monitoring_grafana=False, monitoring_scrape_file=str(theirs))
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    jobs = ("node", "nginx", "vllm", "dcgm")
    assert written == {
        *("inventory.yml", "prometheus/numapin/rules.yml", "theirs/scrape.yml"),
        *(f"prometheus/numapin/{job}.json" for job in jobs),
    }
    scraped = yaml.safe_load(theirs.read_text(encoding="utf-8"))
    assert [one["job_name"] for one in scraped["scrape_configs"]] == list(jobs)


def test_a_drift_fires_within_two_intervals_and_clears(tmp_path: Path, rendered: Path, node_port: int) -> None:
    """Real Prometheus, real node_exporter, and what role verify's timer writes."""
    port = free_port()
    textfiles = tmp_path / "textfiles"
    textfiles.mkdir()
    drifted, fine = (
        OURS,
        re.sub(
            r'(part="placement"\}) 1',
            r"\1 0",
            OURS.replace('planned{instance="llama-n0"} 0', 'planned{instance="llama-n0"} 1'),
        ),
    )
    assert drifted != fine

    def write(text: str) -> None:
        part = textfiles / "numapin.part"
        part.write_text(text, encoding="utf-8")
        part.replace(textfiles / "numapin.prom")

    def firing() -> dict[str, dict[str, str]]:
        alerts = json.loads(get(f"http://127.0.0.1:{port}/api/v1/alerts"))["data"]["alerts"]
        return {one["labels"]["alertname"]: one["labels"] for one in alerts if one["state"] == "firing"}

    def asked(query: str) -> list[dict[str, t.Any]]:
        url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        found: list[dict[str, t.Any]] = json.loads(get(url))["data"]["result"]
        return found

    write(fine)
    with (
        running(
            "prometheus-node-exporter",
            f"--web.listen-address=127.0.0.1:{node_port}",
            # Nothing of this machine besides: it may be slow.
            *("--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={textfiles}"),
        ),
        running(
            "prometheus",
            f"--config.file={rendered / 'prometheus' / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ),
    ):
        wait_for(lambda: asked("numapin_instance_up"), 30)
        assert "NumapinDrift" not in firing()
        write(drifted)
        # Two scrape intervals, and what a busy machine needs to notice.
        found = wait_for(lambda: "NumapinDrift" in (now := firing()) and now, 2 + 3)
        assert found["NumapinDrift"] | {"alertname": ""} == {
            "alertname": "",
            "host": "gpu1",
            "instance": f"127.0.0.1:{node_port}",
            "job": "node",
            "part": "placement",
            "severity": "warning",
        }
        wait_for(lambda: firing().get("NumapinInstanceNotAsPlanned", {}).get("vllm_instance") == "llama-n0", 5)
        write(fine)
        wait_for(lambda: not {"NumapinDrift", "NumapinInstanceNotAsPlanned"} & firing().keys(), 2 + 3)
