# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The built artefact, installed by the README's words, works without anything of the checkout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.tests.artefact.installed import TOP, Installed, InstallError, install
from ansible_collections.numapin.inference.tests.fleet.doubles import Fleet


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(tmp_path_factory.mktemp("user") / "home")


def names(pattern: str) -> set[str]:
    return {f"numapin.inference.{path.stem}" for path in TOP.glob(pattern)}


def test_ansible_sees_this_one_only(installed: Installed) -> None:
    listed = json.loads(installed.run("ansible-galaxy", "collection", "list", "--format", "json"))
    # Beside what ansible-core keeps for itself.
    places = {place: list(held) for place, held in listed.items() if "site-packages" not in place}
    assert places == {str(installed.collection.parents[1]): ["numapin.inference"]}
    assert str(TOP) not in json.dumps(listed)
    assert not installed.collection.is_symlink()
    assert (installed.collection / "MANIFEST.json").is_file()
    assert not (installed.collection / "tests").exists()


def test_every_playbook_is_taken(installed: Installed) -> None:
    inventory = installed.collection / "docs" / "examples" / "fleet" / "inventory.yml"
    playbooks = sorted(names("playbooks/*.yml"))
    shown = installed.run("ansible-playbook", "--syntax-check", "-i", inventory, *playbooks)
    assert shown.count("playbook: ") == len(playbooks)


@pytest.mark.parametrize(
    ("kind", "pattern"), [("module", "plugins/modules/*.py"), ("filter", "plugins/filter/*.py"), ("role", "roles/*")]
)
def test_everything_has_its_documentation(installed: Installed, kind: str, pattern: str) -> None:
    listed = json.loads(installed.run("ansible-doc", "--json", "-l", "-t", kind, "numapin.inference"))
    assert listed.keys() == names(pattern)
    shown = json.loads(installed.run("ansible-doc", "--json", "-t", kind, *listed))
    assert shown.keys() == listed.keys()


def test_a_captured_machine_is_planned(installed: Installed) -> None:
    """Modules, filters and a playbook run, from what was installed."""
    captures = installed.home / "captures"
    captures.mkdir()
    shutil.copyfile(TOP / "tests" / "captures" / "gpu-server.tar.gz", captures / "gpu1.tar.gz")
    inventory = installed.home / "inventory.yml"
    models = "[{name: tiny, source: /opt/models/tiny, tensor_parallel_size: 2, gpus: '[?memory_total_mib > `1`]'}]"
    inventory.write_text(f"inference: {{hosts: {{gpu1: {{}}}}, vars: {{vllm_models: {models}}}}}\n", encoding="utf-8")
    shown = installed.run("ansible-playbook", "-i", inventory, "numapin.inference.plan_captured")
    assert "gpu1  tiny-n0   tiny   0     1     0             GPU-00000001,GPU-00000002  8000" in shown
    assert "gpu1  tiny-n1   tiny   1     3     2             GPU-00000003,GPU-00000004  8001" in shown


def test_a_fleet_is_deployed(installed: Installed, tmp_path: Path) -> None:
    """The whole of site.yml, of what was installed; the hosts are doubles."""
    fleet = Fleet(1, tmp_path)
    shown = installed.run("ansible-playbook", "-i", fleet.inventory(), "numapin.inference.site", **fleet.settings())
    assert "nginx: llama at http://127.0.0.1:80, answers" in shown
    assert str(TOP) not in shown


def test_a_home_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter").touch()
    with pytest.raises(InstallError, match="neither empty nor made by this"):
        install(tmp_path)
    assert (tmp_path / "letter").exists()
