# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of numa_facts: its option ``query``, so that the managed host needs no JMESPath."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.plugin_utils._query import Query


class ActionModule(ActionBase):
    """Runs the module, and applies ``query`` to the facts it returns."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Return the module's result, with ``query_result`` when ``query`` was given."""
        arguments = dict(self._task.args)
        expression = arguments.get("query")
        query = _compiled(expression)
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=self._task.async_val))
        facts = result.get("ansible_facts")
        if query is not None and not result.get("failed") and isinstance(facts, t.Mapping) and "numa" in facts:
            result["query_result"] = _answer(query, facts["numa"])
        return result


def _compiled(expression: object) -> Query | None:
    """Return the expression ready to use; this and its library are loaded by those calls only that have one."""
    if expression is None:
        return None
    if not isinstance(expression, str):
        raise AnsibleActionFail(
            f'numa_facts: query is {expression!r}; it takes a JMESPath expression as text, such as "gpus[].uuid"'
        )
    from ansible_collections.numapin.inference.plugins.plugin_utils._query import Query, QueryError

    try:
        return Query(expression)
    except QueryError as error:
        raise AnsibleActionFail(f"numa_facts: the query {expression!r} {error}") from error


def _answer(query: Query, facts: object) -> t.Any:
    from ansible_collections.numapin.inference.plugins.plugin_utils._models import plain
    from ansible_collections.numapin.inference.plugins.plugin_utils._query import QueryError

    try:
        return query.search(plain(facts))
    except QueryError as error:
        raise AnsibleActionFail(f"numa_facts: the query {query.expression!r} {error}") from error
