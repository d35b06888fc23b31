"""Whatever a peer says, an adapter takes it or skips it: no defect, no hang, no needless end.

The search is the same on every run. To search elsewhere, and longer::

    FUZZ_EXAMPLES=1000 pytest tests/adapters/test_fuzz.py
"""

from __future__ import annotations

import os
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.adapter import HttpReply
from holdfast.supervision import Kind
from holdfast.testing import run_virtual
from tests.adapters.fuzz_cases import ROADS, Layer, Road, taped
from tests.adapters.fuzzing import Call, FakeLink, Item, Line, Played, Tape, play, with_body
from tests.adapters.mutations import Mutation, each_in_turn, mutations

fuzzed = settings(
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")),
    suppress_health_check=list(HealthCheck),
)

BROKEN = (Kind.UNKNOWN, Kind.LOCAL)
"""Ends that no peer may bring about: an error nobody thought of, and what no journal can keep."""

roads = pytest.mark.parametrize("road", [pytest.param(road, id=road.name) for road in ROADS])

LAYERS = [
    pytest.param(road, layer, id=f"{road.name}-{layer.name}")
    for road in ROADS
    for layer in road.layers
]

FIELDS = [
    pytest.param(road, layer, id=f"{road.name}-{layer.name}")
    for road in ROADS
    for layer in road.layers
    if layer.fields
]


def played(road: Road, lines: list[Line], tape: Tape | None = None) -> Played:
    """The road's adapter on a greeting and these lines."""
    recorded, config = taped(road.name)
    tape = tape or recorded
    greeted: list[Line] = [*tape.items[: tape.greeting]]
    return run_virtual(
        play(
            road.kind,
            config,
            tape,
            greeted + lines,
            polls=road.polls,
            visits=road.visits,
            hook_url=recorded.hook_url or None,
        )
    )


class Talk:
    """What is said to a living connection: spoilt messages, then one that must be heard."""

    def __init__(self, road: Road, layer: Layer) -> None:
        self.road, self.layer = road, layer
        self.tape, _ = taped(road.name)
        self.said: list[Item] = []
        self._heard = 0
        """Messages that were delivered before the last thing was said."""

    def hold(self, plan: list[tuple[int, list[Mutation]]]) -> int:
        """Say items of the tape with their changes; how many of them were said.

        Raises AssertionError for an end that no message may bring about.
        """
        lines: list[Line] = [partial(self._line, index, changes) for index, changes in plan]
        witness = partial(self._line, self.tape.carriers[0], [])
        result = played(self.road, [*lines, witness])
        self._judge(result)
        return min(len(self.said), len(plan))

    def _line(self, index: int, changes: list[Mutation], link: FakeLink) -> Item:
        raw = changed(self.layer.open(self.tape.items[index]), changes)
        item = self.layer.seal(self.tape.items[index], raw, link)
        self.said.append(item)
        self._heard = len(link.delivered)
        return item

    def _judge(self, result: Played) -> None:
        last, shown = self.said[-1], f"{result.ended} after {self.said!r:.3000}"
        if result.ended is None:
            assert len(result.link.delivered) > self._heard, f"the next message is lost: {shown}"
            assert all(item.status for item in self.said if isinstance(item, Call)), shown
            return
        assert result.ended.kind not in BROKEN, shown
        assert not isinstance(last, Call), f"a caller ended it: {shown}"
        # The answer to a poll is no message: where it makes no sense, there is no next poll.
        assert isinstance(last, HttpReply) or result.ended.code != "bad_frame", shown


@pytest.mark.parametrize(("road", "layer"), LAYERS)
def test_whatever_is_said_to_a_living_connection(road: Road, layer: Layer) -> None:
    tape, _ = taped(road.name)
    items = st.sampled_from(range(0 if road.repeats else tape.greeting, len(tape.items)))
    plans = st.tuples(items, st.lists(mutations(), min_size=1, max_size=3))

    @fuzzed
    @given(st.lists(plans, min_size=1, max_size=6))
    def search(plan: list[tuple[int, list[Mutation]]]) -> None:
        Talk(road, layer).hold(plan)

    search()


@pytest.mark.parametrize(("road", "layer"), FIELDS)
def test_every_field_of_a_message_in_turn(road: Road, layer: Layer) -> None:
    tape, _ = taped(road.name)
    index = tape.carriers[-1]  # the one with a picture
    whole = [(index, [change]) for change in each_in_turn(layer.open(tape.items[index]))]
    assert whole
    while whole:
        # Some changes make a message a goodbye: the next connection hears the rest.
        whole = whole[Talk(road, layer).hold(whole[: road.at_once]) :]


@roads
def test_whatever_is_said_in_a_handshake(road: Road) -> None:
    tape, _ = taped(road.name)
    calls = sorted(tape.replies)
    spots = st.sampled_from([*range(tape.greeting), *calls])

    @fuzzed
    @given(spots, st.lists(mutations(), min_size=1, max_size=2), STATUSES)
    def search(spot: int | tuple[str, str], changes: list[Mutation], status: int | None) -> None:
        items, replies = list(tape.items), {key: list(tape.replies[key]) for key in calls}
        if isinstance(spot, int):
            items[spot] = greeting(items[spot], changes)
        else:
            replies[spot][0] = answer(replies[spot][0], changes, status)
        result = played(road, [], Tape(replies=replies, items=items, greeting=tape.greeting))
        assert result.ended is None or result.ended.kind not in BROKEN, result

    search()


STATUSES = st.sampled_from((None, None, None, 200, 204, 301, 400, 401, 403, 404, 429, 500, 503))


def changed(raw: bytes, changes: list[Mutation]) -> bytes:
    """Some bytes with changes made to them."""
    for change in changes:
        raw = change(raw)
    return raw


def greeting(item: Item, changes: list[Mutation]) -> Item:
    """A spoilt item of a greeting."""
    match item:
        case HttpReply():
            return with_body(item, changed(item.body, changes))
        case Call():
            return item
        case str():
            raw = changed(item.encode(), changes)
            try:
                return raw.decode()
            except UnicodeDecodeError:
                return raw
        case _:
            return changed(item, changes)


def answer(reply: HttpReply, changes: list[Mutation], status: int | None) -> HttpReply:
    """A spoilt answer to a call."""
    return HttpReply(status or reply.status, reply.headers, changed(reply.body, changes))
