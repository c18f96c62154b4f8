"""The demo's table says when the load generator, not the system, was slow."""

import pytest

from flashsale.demo.run import lateness


@pytest.mark.parametrize(
    ("intended_ms", "sent_ms", "told"),
    [(232, 230, ""), (3805, 232, "3,573 ms"), (140, 100, ""), (1000, 940, ""), (100, 20, "80 ms"), (0, 0, "")],
)
def test_a_late_load_generator_is_said_beside_the_figure(intended_ms, sent_ms, told):
    line = lateness({"buy_from_intended_ms_p99": intended_ms, "buy_from_sent_ms_p99": sent_ms})
    assert told in line
    assert bool(told) == ("late" in line)
