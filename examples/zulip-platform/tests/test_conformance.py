"""Zulip under the conformance kit."""

from zulip_bench import ZULIP

from holdfast.conformance import Suite


class TestZulip(Suite):
    """All scenarios."""

    bench = ZULIP
