# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of numa_facts: its option ``query``, so that the managed host needs no JMESPath."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Runs the module, and applies ``query`` to the facts it returns."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Return the module's result, with ``query_result`` when ``query`` was given.

        What is wrong with ``query`` is a result like any other failure of the module: ``failed_when`` sees it.
        """
        arguments = dict(self._task.args)
        expression = arguments.get("query")
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        if expression is None:
            return result | self._module(arguments, task_vars)
        if not isinstance(expression, str):
            return result | _failed(
                f'query is {expression!r}; it takes a JMESPath expression as text, such as "gpus[].uuid"'
            )
        if self._task.async_val:
            return result | _failed(
                "query cannot be answered in a task with async, whose facts come with async_status: leave one of them"
                " out, and pick from the facts with the filter community.general.json_query"
            )
        # Loaded by those calls only that need it.
        from ansible_collections.numapin.inference.plugins.plugin_utils._plain import plain
        from ansible_collections.numapin.inference.plugins.plugin_utils._query import Query, QueryError

        try:
            query = Query(expression)
            result.update(self._module(arguments, task_vars))
            facts = result.get("ansible_facts")
            if not result.get("failed") and isinstance(facts, t.Mapping) and "numa" in facts:
                result["query_result"] = query.search(plain(facts["numa"]))
        except QueryError as error:
            result.update(_failed(f"the query {expression!r} {error}"))
        return result

    def _module(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        returned: dict[str, t.Any] = self._execute_module(
            module_args=arguments,
            task_vars=task_vars,
            wrap_async=self._task.async_val and not self._connection.has_native_async,
        )
        return returned


def _failed(message: str) -> dict[str, t.Any]:
    return {"failed": True, "msg": f"numa_facts: {message}"}
