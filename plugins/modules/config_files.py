#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: config_files
short_description: Put a set of configuration files in place as one
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Makes a named set of files and directories exactly what is given, all of it or nothing.
  - Everything is read and planned first. With O(stage) and O(validate) the new set is laid over a private copy of a
    directory and validated as a whole. Every new content is then written beside its destination before the first file
    is replaced, each file is replaced atomically, and the result is read back. When a step fails, the files that were
    replaced are put back.
  - The module remembers what it wrote. A file of an earlier run of the same set that is no longer given is removed.
  - A file that was there before the set first took it over is kept, and put back when the set gives it up.
extends_documentation_fragment:
  - numapin.inference.attributes
attributes:
  check_mode:
    details:
      - Users, groups and directories that do not exist yet are taken as given, and an O(validate) command that is not
        installed yet is skipped with a warning.
  diff_mode:
    details:
      - Shows one entry per file and directory that changes. Of secrets it shows only that they are secrets.
options:
  name:
    description:
      - Name of the set. One host can have many sets, but a file can belong to one set only.
      - Allowed are small letters, digits, V(.), V(_) and V(-), beginning with a letter or digit.
    type: str
    required: true
  state:
    description:
      - V(present) makes the set what is given.
      - V(absent) removes every file of the set, puts originals back, and removes directories that the set created and
        that are empty.
    type: str
    choices: [present, absent]
    default: present
  directories:
    description:
      - Directories of the set. They are made before the files, parents first.
      - A directory that the set created and that is no longer given is removed when nothing of others is left in it.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path, without V(..) or a trailing slash.
        type: str
        required: true
      owner:
        description: Name or number of the owning user. When left out, an existing directory keeps its owner.
        type: str
      group:
        description: Name or number of the owning group. When left out, an existing directory keeps its group.
        type: str
      mode:
        description: Mode as a string of four octal digits.
        type: str
        default: '0755'
  files:
    description:
      - Files of the set. Exactly one of O(files[].content) and O(files[].secret) is given for each.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - Absolute path, without V(..) or a trailing slash. Its directory must exist or be one of O(directories).
          - A symbolic link that this set did not write is refused.
        type: str
        required: true
      content:
        description: The whole content of the file.
        type: str
      secret:
        description: The whole content of a file that must not be seen. It appears neither in the diff nor in an error.
        type: str
      owner:
        description: Name or number of the owning user. When left out, an existing file keeps its owner.
        type: str
      group:
        description: Name or number of the owning group. When left out, an existing file keeps its group.
        type: str
      mode:
        description:
          - Mode as a string of four octal digits.
          - The default is V(0644), and V(0600) for a file with O(files[].secret).
        type: str
  keep:
    description:
      - Absolute paths of files that an earlier run of this set wrote, and that stay as they are although they are not
        among O(files). Others are ignored.
    type: list
    elements: str
    default: []
  stage:
    description:
      - Directory of the configuration that O(validate) looks at. It is copied to a private temporary directory with the
        modes of its files, and those of O(files) that lie below it are laid over the copy.
      - At most 64 MiB.
    type: path
  validate:
    description:
      - Command that must return 0 before anything is replaced. V(%s) stands for the staged copy of O(stage).
      - It is split into words as a shell would, but run without a shell, and only when a file changes.
    type: str
  validate_timeout_seconds:
    description: How long O(validate) may take, in seconds.
    type: int
    default: 30
  state_directory:
    description: Where the module keeps what it remembers - the manifest of each set, and the originals.
    type: path
    default: /var/lib/numapin
"""

EXAMPLES = r"""
- name: Configure one instance, with its key out of sight
  numapin.inference.config_files:
    name: vllm
    directories:
      - path: /etc/vllm
        mode: '0755'
    files:
      - path: /etc/vllm/tiny-n0.yaml
        content: "port: 8000\n"
        group: vllm
        mode: '0640'
      - path: /etc/vllm/tiny-n0.env
        secret: "VLLM_API_KEY={{ vllm_api_key }}\n"

- name: Replace the balancer's configuration only when nginx accepts the whole of it
  numapin.inference.config_files:
    name: load_balancer
    files:
      - path: /etc/nginx/nginx.conf
        content: "{{ lookup('ansible.builtin.template', 'nginx.conf.j2') }}"
    stage: /etc/nginx
    validate: nginx -t -p %s -c %s/nginx.conf

- name: Put the balancer's files back as they were
  numapin.inference.config_files:
    name: load_balancer
    state: absent
"""

RETURN = r"""
changed_files:
  description: Paths of the files that were (or in check mode would be) written.
  returned: success
  type: list
  elements: str
  sample: [/etc/vllm/tiny-n0.yaml]
changed_directories:
  description: Paths of the directories that were made, removed, or given another owner or mode.
  returned: success
  type: list
  elements: str
  sample: [/etc/vllm]
removed_files:
  description: Paths the set gave up - removed, or put back to what they were before the set.
  returned: success
  type: list
  elements: str
  sample: []
drifted_files:
  description: Paths of the set that somebody else changed or removed since this set was last written.
  returned: success
  type: list
  elements: str
  sample: []
validated:
  description: Whether O(validate) was run and found the new set good. False when nothing changes or nothing validates.
  returned: success
  type: bool
  sample: true
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._file_diff import diff
from ansible_collections.numapin.inference.plugins.module_utils._file_entries import (
    FilesError,
    WantedDirectory,
    WantedFile,
    parse_mode,
)
from ansible_collections.numapin.inference.plugins.module_utils._file_stage import validate
from ansible_collections.numapin.inference.plugins.module_utils._files import STATE_DIRECTORY, FileSet


def wanted_file(given: dict[str, t.Any]) -> WantedFile:
    """One element of ``files``."""
    secret = given["secret"] is not None
    mode = given["mode"] if given["mode"] is not None else ("0600" if secret else "0644")
    return WantedFile(
        path=given["path"],
        content=(given["secret"] if secret else given["content"]).encode(),
        mode=parse_mode(given["path"], mode),
        secret=secret,
        owner=given["owner"],
        group=given["group"],
    )


def wanted_directory(given: dict[str, t.Any]) -> WantedDirectory:
    """One element of ``directories``."""
    return WantedDirectory(given["path"], parse_mode(given["path"], given["mode"]), given["owner"], given["group"])


def put_in_place(module: AnsibleModule) -> dict[str, t.Any]:
    """Plan, validate, write; the values to return. Raises NumapinError, and then nothing has changed."""
    params = module.params
    if params["validate_timeout_seconds"] < 1:
        raise FilesError(f"validate_timeout_seconds is {params['validate_timeout_seconds']}: it must be 1 or more")
    present = params["state"] == "present"
    file_set = FileSet(params["name"], params["state_directory"])
    plan = file_set.plan(
        [wanted_file(given) for given in params["files"]] if present else [],
        [wanted_directory(given) for given in params["directories"]] if present else [],
        check_mode=module.check_mode,
        keep=params["keep"],
    )
    for warning in plan.warnings:
        module.warn(warning)
    validated = False
    if params["stage"] and plan.files:
        skipped = validate(
            plan,
            params["stage"],
            params["validate"],
            module.tmpdir,
            timeout_seconds=params["validate_timeout_seconds"],
            check_mode=module.check_mode,
        )
        if skipped:
            module.warn(skipped)
        validated = skipped is None
    if not module.check_mode:
        file_set.apply(plan)
    result: dict[str, t.Any] = {
        "changed": plan.changed,
        "changed_files": plan.changed_files,
        "changed_directories": plan.changed_directories,
        "removed_files": list(plan.removed_files),
        "drifted_files": list(plan.drifted_files),
        "validated": validated,
    }
    if module._diff:
        result["diff"] = diff(plan)
    return result


def main() -> t.NoReturn:
    """Module entry point."""
    owner = {"owner": {"type": "str"}, "group": {"type": "str"}}
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "directories": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0755"},
                    **owner,
                },
            },
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "str", "required": True},
                    "content": {"type": "str"},
                    "secret": {"type": "str", "no_log": True},
                    "mode": {"type": "str"},
                    **owner,
                },
                "mutually_exclusive": [["content", "secret"]],
                "required_one_of": [["content", "secret"]],
            },
            "keep": {"type": "list", "elements": "str", "default": []},
            "stage": {"type": "path"},
            "validate": {"type": "str"},
            "validate_timeout_seconds": {"type": "int", "default": 30},
            "state_directory": {"type": "path", "default": STATE_DIRECTORY},
        },
        required_together=[["stage", "validate"]],
        supports_check_mode=True,
    )
    try:
        result = put_in_place(module)
    except NumapinError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
