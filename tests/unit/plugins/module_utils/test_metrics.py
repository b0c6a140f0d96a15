# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What our writer writes, read by Prometheus' own parser."""

from __future__ import annotations

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._metrics import Metrics


@pytest.mark.parametrize("text", ["plain", 'say "hi"', "back\\slash", "two\nlines", '\\"\n\\n', "ä€", "a,b={c}"])
def test_labels_come_back_as_they_were(text: str) -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed here")
    metrics = Metrics()
    metrics.gauge("numapin_x", f"About {text}", 1.5, instance=text, node="0-1")
    (family,) = parser.text_string_to_metric_families(metrics.text())
    assert (family.name, family.type, family.documentation) == ("numapin_x", "gauge", f"About {text}")
    (sample,) = family.samples
    assert (sample.labels, sample.value) == ({"instance": text, "node": "0-1"}, 1.5)


def test_the_text() -> None:
    metrics = Metrics()
    metrics.gauge("a", "First.", 1, x="1")
    metrics.gauge("b", "Unknown.", None)
    metrics.gauge("c", "Time.", 1793587200.25)
    metrics.gauge("a", "First.", 2.0, x="2")
    # The samples of a metric stand together, or a scrape is refused.
    assert metrics.text() == (
        '# HELP a First.\n# TYPE a gauge\na{x="1"} 1\na{x="2"} 2\n'
        "# HELP b Unknown.\n# TYPE b gauge\n"
        "# HELP c Time.\n# TYPE c gauge\nc 1793587200.25\n"
    )
