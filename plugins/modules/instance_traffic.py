#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: instance_traffic
short_description: See whether vLLM instances have requests in flight, and wait until they have none
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - An instance is idle when its C(/load) says 0, its metrics say that nothing is running or waiting, and no connection
    is established on its port. What an instance does not tell counts as busy. One that does not listen is idle.
  - Run on the host of the instances, whose C(/proc/net/tcp) has the connections.
  - The module does not fail because of an instance; look at RV(idle) and RV(instances).
attributes:
  check_mode:
    support: full
    description: The module only looks, so it does the same in check mode.
  diff_mode:
    support: N/A
    description: Nothing changes.
  idempotent:
    support: full
    description: Nothing changes. An answer depends on the moment it is asked for.
  platform:
    support: full
    platforms: linux
    description: The systems this module runs on.
options:
  instances:
    description: The instances to look at.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the instance.
        type: str
        required: true
      url:
        description: Where it listens, such as V(http://192.0.2.11:8000). Proxies are not used.
        type: str
        required: true
  wait_seconds:
    description: How long this call waits until all are idle, in seconds. With V(0) it looks once.
    type: int
    default: 0
  quiet_seconds:
    description:
      - How long all must have been idle without a break, in seconds. Longer than O(wait_seconds) makes no sense.
    type: int
    default: 0
  stalled_seconds:
    description:
      - With more than V(0), an instance that has requests in flight is watched for so long, or until it gives a token.
        One that gives none is in RV(stalled), and so is one that listens and leaves C(/health) without an answer for as
        long.
    type: int
    default: 0
  ignored_peers:
    description:
      - IP addresses whose connections are not counted, such as a monitoring server that keeps one open.
      - They are counted as long as C(/load) or C(/metrics) does not answer or says that something is in flight.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Wait until nothing is in flight
  numapin.inference.instance_traffic:
    instances:
      - name: tiny-n0
        url: http://192.0.2.11:8000
    wait_seconds: 10
    quiet_seconds: 2
  register: traffic
  until: traffic.idle
  retries: 90
  delay: 0
"""

RETURN = r"""
idle:
  description: Whether all instances are idle, and were for O(quiet_seconds).
  returned: success
  type: bool
  sample: false
serving:
  description: Names of the instances whose C(/health) answers 200.
  returned: success
  type: list
  elements: str
  sample: [tiny-n0]
stalled:
  description:
    - Names of the instances that hang - for O(stalled_seconds) they gave no token, with requests in flight, or no
      answer to C(/health). One whose counters cannot be read is no such instance.
  returned: success
  type: list
  elements: str
  sample: []
summary:
  description: One line that says what is still in flight.
  returned: success
  type: str
  sample: "tiny-n0: 2 by /load; 2 connections from 192.0.2.21"
instances:
  description: What was seen last of each instance, in the order they were given.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the instance.
      type: str
    serving:
      description: Whether C(/health) answers 200.
      type: bool
    idle:
      description: Whether nothing is in flight.
      type: bool
    detail:
      description: What makes it busy.
      type: str
    connections:
      description:
        - How many connections are established on its port. Where nothing else is in flight those of O(ignored_peers)
          are left out.
      type: int
    load:
      description: What C(/load) says; V(null) when it does not answer.
      type: int
    running:
      description: Running requests by C(/metrics); V(null) when it does not say.
      type: int
    waiting:
      description: Waiting requests by C(/metrics); V(null) when it does not say.
      type: int
    silent:
      description: Whether it listens and leaves C(/health) without an answer.
      type: bool
  sample:
    - name: tiny-n0
      serving: true
      idle: false
      detail: 2 by /load; 2 connections from 192.0.2.21
      connections: 2
      load: 2
      running: 2
      waiting: 0
      silent: false
"""

import typing as t
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._traffic import (
    TrafficError,
    Watched,
    check_watched,
    find_stalled,
    summary,
    wait_until_idle,
)


def main() -> t.NoReturn:
    """Module entry point."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "instances": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"name": text, "url": text},
            },
            "wait_seconds": {"type": "int", "default": 0},
            "quiet_seconds": {"type": "int", "default": 0},
            "stalled_seconds": {"type": "int", "default": 0},
            "ignored_peers": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params: dict[str, t.Any] = module.params
    instances = [Watched(**given) for given in params["instances"]]
    try:
        for option in ("wait_seconds", "quiet_seconds", "stalled_seconds"):
            if params[option] < 0:
                raise TrafficError(f"{option} is {params[option]}: it must be 0 or more")
        check_watched(instances)
        found = wait_until_idle(
            instances,
            Host(),
            wait_seconds=params["wait_seconds"],
            quiet_seconds=params["quiet_seconds"],
            ignored_peers=params["ignored_peers"],
        )
        stalled: list[str] = []
        if params["stalled_seconds"]:
            found, stalled = find_stalled(instances, Host(), found, stalled_seconds=params["stalled_seconds"])
    except NumapinError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        idle=all(traffic.idle for traffic in found),
        serving=[traffic.name for traffic in found if traffic.serving],
        stalled=stalled,
        summary=summary(found),
        instances=[asdict(traffic) for traffic in found],
    )


if __name__ == "__main__":
    main()
