#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Module: a host's topology in a small archive without secrets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_capture
short_description: Capture what a host's topology is read from in a small archive
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Reads everything that M(numapin.inference.numa_facts) reads of a host, files below C(/sys) and C(/proc) and the
    answers of NVML or C(nvidia-smi), and writes it into a C(tar.gz). The option
    O(numapin.inference.numa_facts#module:root) reads it back anywhere, so that a host can be planned for without
    logging in to it, or a bug reported.
  - The facts of the archive are those of the host at that time, apart from the stand-ins described at O(identifiers).
    Interrupt affinities, huge page pools and the boot parameters about NUMA, isolated CPUs, huge pages, cgroups and
    the IOMMU are taken besides.
  - Serial numbers are not read. Of files that can hold secrets, such as C(/proc/cmdline), only known parameters are
    kept. Before the archive is written it is read back, and everything in it is searched once more; other facts than
    the host's are an error, and so is what still looks like an identifier.
  - The playbook C(numapin.inference.capture) runs it on every inference host and fetches the archives.
extends_documentation_fragment:
  - numapin.inference.attributes
attributes:
  check_mode:
    details:
      - Tells what the archive would hold.
  diff_mode:
    support: none
    details:
      - The archive is told by its size, its number of files and RV(contents).
  idempotent:
    support: none
    details:
      - A capture is made anew each time, since counters and free memory change. A host in the same state gives the
        same bytes.
options:
  path:
    description:
      - The file to write, in a directory that exists. A file that is there is replaced once the new one is complete.
      - Without it, a new file in the directory for temporary files; removing it is left to the caller.
      - Only its owner may read it (mode 0600).
    type: path
  identifiers:
    description:
      - Whether MAC addresses, IP addresses, GUIDs, UUIDs of GPUs, the host's name and the names of network interfaces
        that are made from an address (C(enx001122334455)) stay as they are.
      - Otherwise each is replaced by a numbered stand-in, the same one for the same value everywhere in the archive.
    type: bool
    default: false
  root:
    description:
      - The directory on the host that holds the C(sys) and C(proc) to capture, or an archive made by this module; V(/)
        is the running machine.
    type: path
    default: /
notes:
  - Some files below C(/proc) and C(/sys) are for root only. What the user it runs as cannot read is not in the archive.
seealso:
  - module: numapin.inference.numa_facts
"""

EXAMPLES = r"""
- name: Capture the host
  numapin.inference.host_capture:
    path: /var/tmp/host.tar.gz
  register: captured

- name: Say what was replaced in it
  ansible.builtin.debug:
    var: captured.redactions

- name: See what a capture would hold, with nothing written
  numapin.inference.host_capture:
    path: /var/tmp/host.tar.gz
  check_mode: true

- name: Read a captured machine on the controller
  numapin.inference.numa_facts:
    root: /srv/captures/gpu1.tar.gz
  delegate_to: localhost
"""

RETURN = r"""
path:
  description: Where the archive is; V(null) in check mode without O(path).
  returned: success
  type: str
  sample: /var/tmp/host.tar.gz
size_bytes:
  description: Size of the archive in bytes.
  returned: success
  type: int
  sample: 48211
files:
  description: How many files it holds, besides directories and links.
  returned: success
  type: int
  sample: 1873
contents:
  description: What it holds, by directory.
  returned: success
  type: list
  elements: dict
  contains:
    directory:
      description: A directory, as on the host.
      type: str
    files:
      description: How many files lie in and below it.
      type: int
    size_bytes:
      description: Their size in bytes, before compression.
      type: int
  sample:
    - directory: /sys/devices/system
      files: 1240
      size_bytes: 15230
redactions:
  description: Which kinds of identifiers were replaced by stand-ins. Empty with O(identifiers=true).
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(interface_name), V(uuid), V(mac_address), V(guid), V(ip_address) or V(host_name).
      type: str
    count:
      description: How many different ones.
      type: int
    where:
      description: The first few files they were in.
      type: list
      elements: str
  sample:
    - kind: uuid
      count: 8
      where: [/numapin/gpu_answers.json]
left_out:
  description: What was not taken, and why.
  returned: success
  type: list
  elements: str
  sample: []
warnings_found:
  description: What to know about the archive.
  returned: success
  type: list
  elements: str
  sample: []
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils import _archive, _capture
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._recording import RecordingHost


def contents(capture: _capture.Capture) -> list[dict[str, t.Any]]:
    """Return what the archive holds by directory, of at most three levels: a row is for a person to read."""
    rows: dict[str, dict[str, t.Any]] = {}
    for path, entry in sorted(capture.entries.items()):
        if entry.kind == "file":
            directory = "/".join(path.split("/")[:-1][:4]) or "/"
            row = rows.setdefault(directory, {"directory": directory, "files": 0, "size_bytes": 0})
            row["files"] += 1
            row["size_bytes"] += len(entry.text.encode("utf-8", "surrogateescape"))
    return list(rows.values())


def run(params: dict[str, t.Any], check_mode: bool, scratch_directory: str) -> dict[str, t.Any]:
    """Capture and write; return what the module returns. Raises ``NumapinError``."""
    path: str | None = params["path"]
    if path is not None:
        _capture.refuse_path(path)
    with _archive.opened_root(params["root"], scratch_directory) as root:
        host = RecordingHost(root)
        if host.is_running_machine:
            sources = GpuSources(this_machine=True)
        else:
            sources = GpuSources(nvml=None, nvidia_smi=None, recorded=_archive.recorded_answers(Host(root)))
        capture = _capture.take_capture(host, sources, params["identifiers"], scratch_directory)
    archive = capture.archive()
    if not check_mode:
        path = _capture.write_archive(path, archive)
    return {
        "changed": True,
        "path": path,
        "size_bytes": len(archive),
        "files": capture.file_count,
        "contents": contents(capture),
        "redactions": [{**vars(redaction), "where": list(redaction.where)} for redaction in capture.redactions],
        "left_out": list(capture.left_out),
        "warnings_found": list(capture.warnings),
    }


def main() -> t.NoReturn:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path"},
            "identifiers": {"type": "bool", "default": False},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params, module.check_mode, module.tmpdir)
    except NumapinError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
