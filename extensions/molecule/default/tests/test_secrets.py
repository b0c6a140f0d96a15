# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The API key is where it must be, and nowhere else."""

from __future__ import annotations

import json
import pathlib
import shlex
import typing as t

from site_runs import run_site

# Where a careless role would leave it; the key itself goes in on standard input, for a command line is public.
SEARCHED = "/etc /opt/numapin /root /run /srv /tmp /usr/local /var"


def test_no_process_list_shows_the_key(site: t.Any) -> None:
    """Command lines of every process on every host."""
    for name, host in site.hosts.items():
        listing = host.check_output("ps -ww -eo pid,user,args")
        assert len(listing.splitlines()) > 5
        assert site.api_key not in listing, f"ps on {name} shows the API key"


def test_only_private_files_hold_the_key(site: t.Any) -> None:
    """Every file that holds it belongs to root with mode 0600, and the inference hosts do have one."""
    for name, host in site.hosts.items():
        pattern = shlex.quote(site.api_key)
        # -I would skip the journal, which is the place to look at.
        found = host.run(f"printf %s {pattern} | grep -rlaFs --devices=skip -f - {SEARCHED}").stdout.splitlines()
        for path in found:
            entry = host.file(path)
            assert (entry.user, entry.group, oct(entry.mode)) == ("root", "root", "0o600"), (
                f"{name}: {path} holds the key"
            )
        if name in site.inference:
            wanted = {f"/etc/vllm/{one['name']}.env" for one in site.plans[name]["instances"]}
            assert wanted <= set(found), f"{name}: the key is in {found}, expected in {wanted}"


def test_the_key_works_and_is_needed(site: t.Any) -> None:
    """Otherwise the rest of this file looks for nothing."""
    host = site.hosts[site.balancer]
    ask = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1/v1/models"
    assert host.check_output(ask) == "401"
    header = shlex.quote(f"Authorization: Bearer {site.api_key}")
    assert host.check_output(f"printf %s {header} | {ask} -H @-") == "200"


def test_output_at_vvv_shows_no_key(site: t.Any) -> None:
    """A whole run of site.yml, as talkative as people make it when they ask for help."""
    run = run_site("-vvv", "--diff")
    assert run.status == 0, run.output[-5000:]
    assert len(run.output) > 10000
    assert site.api_key not in run.output


def test_a_preview_of_a_new_key_shows_neither(site: t.Any, tmp_path: pathlib.Path) -> None:
    """What --check --diff -vvv shows of the files that would change, where secrets change as well."""
    new_key = "a-new-key-of-the-preview-0123456789"
    variables = tmp_path / "variables.json"
    variables.write_text(json.dumps({"vllm_api_key": new_key}), encoding="utf-8")
    run = run_site("--check", "--diff", "-vvv", f"--extra-vars=@{variables}")
    assert run.status == 0, run.output[-5000:]
    assert all(run.recap[name]["changed"] for name in site.inference), "the new key changes files and restarts vLLM"
    assert "(secret)" in run.output
    assert new_key not in run.output
    assert site.api_key not in run.output


def test_configuration_files_have_their_modes(site: t.Any) -> None:
    """As docs/architecture.md promises them."""
    for name, entry in site.instances():
        secrets = site.hosts[name].file(f"/etc/vllm/{entry['name']}.env")
        assert (secrets.user, secrets.group, oct(secrets.mode)) == ("root", "root", "0o600")
        config = site.hosts[name].file(f"/etc/vllm/{entry['name']}.yaml")
        assert (config.user, config.group, oct(config.mode)) == ("root", "vllm", "0o640")
