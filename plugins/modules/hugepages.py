#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: hugepages
short_description: Reserve huge pages on each NUMA node
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Sets the pools of huge pages for each page size and NUMA node, reads them back, and says what was asked for and what
    was got. A kernel that finds less memory than asked for reports success all the same.
  - A pool never shrinks below what processes use, and a floor of memory is kept on every node, unless that is asked
    for.
  - What is set is set again early at every boot, for each node, before anything that needs it starts.
  - The pools as they were before the first change are kept in C(/var/lib/numapin). A pool, mount or group that is no
    longer given goes back to what it was; with O(state=restored) all of them do.
  - The program that runs at boot is C(/usr/local/lib/numapin/hugepages.pyz); it needs Python and nothing else.
extends_documentation_fragment:
  - numapin.inference.attributes
attributes:
  check_mode:
    details:
      - Whether memory is in one piece only the kernel can say, so that a shortfall by fragmentation is not foreseen.
      - A user or group that does not exist is taken for one that an earlier task would have made.
  diff_mode:
    details:
      - Shows the pages of each pool, mounts, and files.
  idempotent:
    details:
      - With O(on_shortfall=warn) a second run tries to get what is missing.
options:
  state:
    description:
      - V(present) sets what is given.
      - V(restored) puts everything back to what it was before this module first changed it. No other option than
        O(force) and O(on_shortfall) matters then.
    type: str
    choices: [present, restored]
    default: present
  pools:
    description:
      - The pools. Nodes and page sizes that are not named are left alone.
      - Exactly one of O(pools[].nodes), O(pools[].pages) and O(pools[].bytes) is given for each.
    type: list
    elements: dict
    default: []
    suboptions:
      size:
        description: Page size, such as V(2M) or V(1G). The kernel must offer it.
        type: str
        required: true
      nodes:
        description: The pages of single nodes.
        type: list
        elements: dict
        suboptions:
          node:
            description: Id of the node.
            type: int
            required: true
          pages:
            description: Number of pages.
            type: int
          bytes:
            description: Bytes, such as V(4G), in units of powers of 1024. A multiple of the page size.
            type: str
      pages:
        description:
          - Number of pages of the whole host. They are spread evenly over the nodes that have both CPUs and memory;
            what is left over goes to the nodes with the lowest ids, one page each. Nodes of memory alone (CXL, memory
            of GPUs) are left alone.
        type: int
      bytes:
        description: The same in bytes, such as V(64G). A multiple of the page size.
        type: str
  minimum_available_mib:
    description:
      - Memory in MiB that must stay available on every node that gives pages (free memory, caches of files, slabs that
        can be reclaimed). What is beyond it is not taken.
      - With V(0) the kernel alone decides, and may take nearly all.
      - A pool that goes back to what it was is not held by it.
    type: int
    default: 1024
  on_shortfall:
    description:
      - What to do when not all pages can be had. V(rollback) puts the pools back and fails, V(fail) fails and leaves
        what was got, V(warn) takes what there is.
      - With a floor (O(minimum_available_mib)), the first two refuse what cannot be before anything is changed.
    type: str
    choices: [fail, rollback, warn]
    default: rollback
  drop_caches:
    description:
      - When compaction is not enough, write back and drop the host's file caches and try again. Files have to be read
        from disk again afterwards.
    type: bool
    default: false
  force:
    description:
      - Shrink a pool below what processes use. They keep their pages, which the kernel takes back (as surplus) when
        they are given up.
    type: bool
    default: false
  shm_group:
    description: Name or number of the group that may make shared memory of huge pages (C(vm.hugetlb_shm_group)).
    type: str
  mounts:
    description:
      - File systems of huge pages, for programs that ask for them by path. They are mount units of systemd.
      - A mount that is there already and is the same, such as systemd's own C(/dev/hugepages), is used as it is.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path. The directory is made where it is missing.
        type: str
        required: true
      size:
        description: Page size, such as V(2M).
        type: str
        required: true
      limit:
        description: The most that files there may take, such as V(4G). A multiple of the page size. Without it the
          whole pool.
        type: str
      owner:
        description: Name or number of the user who owns it.
        type: str
        default: root
      group:
        description: Name or number of its group.
        type: str
        default: root
      mode:
        description: Mode as a string of four octal digits.
        type: str
        default: '0755'
  persistent:
    description: Set the pools again at every boot.
    type: bool
    default: true
seealso:
  - module: numapin.inference.kernel_settings
"""

EXAMPLES = r"""
- name: 64 pages on node 0 and 32 on node 1
  numapin.inference.hugepages:
    pools:
      - size: 2M
        nodes:
          - {node: 0, pages: 64}
          - {node: 1, bytes: 64M}

# The group must exist.
- name: 32 GiB in pages of 1 GiB over all nodes with CPUs, and a place for programs that want a path
  numapin.inference.hugepages:
    pools:
      - {size: 1G, bytes: 32G}
    mounts:
      - {path: /mnt/huge-1g, size: 1G, group: vllm, mode: '0770'}

- name: As it was before
  numapin.inference.hugepages:
    state: restored
"""

RETURN = r"""
pools:
  description: Every pool that was asked for, or given back.
  returned: success
  type: list
  elements: dict
  sample: [{size: 2M, node: 0, before: 0, asked: 64, got: 64, in_use: 0, surplus: 0, recovery: [], reason: null}]
  contains:
    size:
      description: Page size.
      type: str
    node:
      description: Node.
      type: int
    before:
      description: Persistent pages before.
      type: int
    asked:
      description: Pages asked for.
      type: int
    got:
      description: Persistent pages, read back from the kernel (in check mode as far as free memory tells).
      type: int
    in_use:
      description: Pages that processes have.
      type: int
    surplus:
      description: Pages beyond the persistent ones, which the kernel takes back when they are given up.
      type: int
    recovery:
      description: What was done to get the pages, V(compaction) and V(dropping caches).
      type: list
      elements: str
    reason:
      description: Why RV(pools[].got) is not RV(pools[].asked).
      type: str
mounts:
  description: The mounts. C(unit) is null for one that somebody else made. C(state) is V(unchanged) or V(mounted).
  returned: success
  type: list
  elements: dict
  sample: [{path: /mnt/huge, size: 2M, unit: mnt-huge.mount, state: mounted}]
reboot_required:
  description: Whether pages can be had at boot only.
  returned: success
  type: bool
  sample: false
reboot_reasons:
  description: Which ones, why, and with which kernel parameters.
  returned: success
  type: list
  elements: str
  sample: []
kernel_command_line:
  description: The kernel parameters that reserve the pools asked for at boot, before any memory is used.
  returned: success
  type: str
  sample: hugepagesz=1G hugepages=0:8,1:8
drift:
  description: Pools that were not, before this run, what the boot configuration sets.
  returned: success
  type: list
  elements: str
  sample: ["2M on node 1: 32 pages at boot, 0 pages now"]
competitors:
  description: Files that set the pools of the whole host behind this module's back.
  returned: success
  type: list
  elements: dict
  sample: [{name: vm.nr_hugepages, source: /etc/sysctl.d/99-x.conf line 1, value: '512',
            sentence: /etc/sysctl.d/99-x.conf line 1 sets vm.nr_hugepages = 512, yields: false}]
"""

import grp
import pwd
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._file_entries import parse_mode
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._hugetlb import HugetlbError, parse_size
from ansible_collections.numapin.inference.plugins.module_utils._hugetlb_mount import Mount
from ansible_collections.numapin.inference.plugins.module_utils._hugetlb_state import Hugepages, Wish
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd

# In check mode the number of somebody whom an earlier task would have made.
UNKNOWN = -1


def user_id(name: str, what: str, check_mode: bool) -> int:
    """Number of a user given by name or number."""
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        if check_mode:
            return UNKNOWN
        raise HugetlbError(f"{what}: {name!r} is not a user of this host: make it first, or give its number") from None


def group_id(name: str, what: str, check_mode: bool) -> int:
    """Number of a group given by name or number."""
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        if check_mode:
            return UNKNOWN
        raise HugetlbError(f"{what}: {name!r} is not a group of this host: make it first, or give its number") from None


def wanted_mount(given: dict[str, t.Any], check_mode: bool) -> Mount:
    """One element of ``mounts``."""
    what = f"mount {given['path']}"
    return Mount(
        path=given["path"],
        size_kib=parse_size(given["size"], f"{what}: size") // 1024,
        limit_bytes=None if given["limit"] is None else parse_size(given["limit"], f"{what}: limit"),
        uid=user_id(given["owner"], what, check_mode),
        gid=group_id(given["group"], what, check_mode),
        mode=parse_mode(given["path"], given["mode"]),
    )


def wish(params: dict[str, t.Any], check_mode: bool = False) -> Wish:
    """The module's options as one state."""
    if params["minimum_available_mib"] < 0:
        raise HugetlbError(f"minimum_available_mib is {params['minimum_available_mib']}: give 0 or more")
    options = Wish(
        on_shortfall=params["on_shortfall"],
        force=params["force"],
        drop_caches=params["drop_caches"],
        floor_mib=params["minimum_available_mib"],
        persistent=params["persistent"],
    )
    if params["state"] == "restored":
        # What was there before is put back whatever it leaves: the floor is for what is new.
        return options._replace(floor_mib=0)
    mounts = [wanted_mount(given, check_mode) for given in params["mounts"]]
    paths = [mount.path for mount in mounts]
    for path in paths:
        if paths.count(path) > 1:
            raise HugetlbError(f"mount {path} is given twice: give every path once")
    return options._replace(
        pools=params["pools"],
        mounts=mounts,
        shm_gid=None if params["shm_group"] is None else group_id(params["shm_group"], "shm_group", check_mode),
    )


def foresees_somebody(wanted: Wish) -> bool:
    """Whether a user or group is given that does not exist yet."""
    return UNKNOWN in (wanted.shm_gid, *(number for mount in wanted.mounts for number in (mount.uid, mount.gid)))


def main() -> t.NoReturn:
    """Module entry point."""
    amount: dict[str, t.Any] = {"pages": {"type": "int"}, "bytes": {"type": "str"}}
    one_of = ["pages", "bytes"]
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "restored"], "default": "present"},
            "pools": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "size": {"type": "str", "required": True},
                    "nodes": {
                        "type": "list",
                        "elements": "dict",
                        "options": {"node": {"type": "int", "required": True}, **amount},
                        "mutually_exclusive": [one_of],
                        "required_one_of": [one_of],
                    },
                    **amount,
                },
                "mutually_exclusive": [["nodes", *one_of]],
                "required_one_of": [["nodes", *one_of]],
            },
            "minimum_available_mib": {"type": "int", "default": 1024},
            "on_shortfall": {"type": "str", "choices": ["fail", "rollback", "warn"], "default": "rollback"},
            "drop_caches": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "shm_group": {"type": "str"},
            "mounts": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "str", "required": True},
                    "size": {"type": "str", "required": True},
                    "limit": {"type": "str"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str", "default": "0755"},
                },
            },
            "persistent": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        wanted = wish(module.params, module.check_mode)
        done = Hugepages(Host(), Systemd(), check_mode=module.check_mode).converge(wanted)
    except NumapinError as error:
        module.fail_json(msg=str(error))
    if foresees_somebody(wanted):
        module.warn(f"a user or group that is given does not exist yet: it must by then, and is shown as {UNKNOWN}")
    for warning in done.warnings:
        module.warn(warning)
    module.exit_json(**done.answer("huge pages", module._diff))


if __name__ == "__main__":
    main()
