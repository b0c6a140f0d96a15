# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What modules have in common in their documentation; a module adds ``details`` where it has more to say."""

from __future__ import annotations


class ModuleDocFragment:
    """Named as ansible-core looks for it."""

    DOCUMENTATION = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/numapin.inference.all) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - numapin.inference.all
  check_mode:
    description: Can run in check mode, writes nothing, and gives the answer of the run that follows.
    support: full
  diff_mode:
    description: Returns what has changed, or would change, in diff mode.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
  platform:
    description: The systems this module runs on.
    support: full
    platforms: linux
"""

    # For modules that only look.
    LOOKING = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/numapin.inference.all) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - numapin.inference.all
  check_mode:
    description: Can run in check mode and answers the same, because it only looks.
    support: full
  diff_mode:
    description: Returns what has changed, or would change, in diff mode.
    support: N/A
    details:
      - This module changes nothing.
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
    details:
      - This module changes nothing.
  platform:
    description: The systems this module runs on.
    support: full
    platforms: linux
"""
