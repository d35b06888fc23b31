"""The profiles: complete, playable on their simulators, and of one mind with the adapters."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from holdfast.adapters.dingtalk import DingTalk
from holdfast.adapters.discord import Discord
from holdfast.adapters.feishu import Feishu
from holdfast.adapters.matrix import Matrix
from holdfast.adapters.mattermost import Mattermost
from holdfast.adapters.qqbot import QQBot
from holdfast.adapters.slack import Slack
from holdfast.adapters.telegram import Telegram
from holdfast.adapters.webchat import WebChat
from holdfast.adapters.whatsapp import WhatsApp
from holdfast.lab.cast import CAST
from holdfast.lab.crash_plan import HABITS
from holdfast.lab.engine import Outcome, run
from holdfast.lab.injection import Armed, play
from holdfast.lab.mode import Group, Mode, Step
from holdfast.lab.modes.silent import GREETED, PARTING
from holdfast.lab.modes.silent import MODES as SILENT
from holdfast.lab.modes.silent_watch import MODES as WATCHED
from holdfast.lab.profile import OVER, Profile, profile, sessions
from holdfast.lab.scene import Scene
from holdfast.lab.simulator import Record
from holdfast.lab.steps import (
    blocked,
    connected,
    heal,
    network,
    platform,
    recovered,
    say,
    untouched,
    wait,
)
from holdfast.lab.subjects.inprocess import InProcess
from holdfast.lab.terms import AT_ONCE, Expect, Play
from holdfast.supervision import preset

ADAPTERS = {
    adapter.platform: adapter
    for adapter in (
        DingTalk,
        Discord,
        Feishu,
        Matrix,
        Mattermost,
        QQBot,
        Slack,
        Telegram,
        WebChat,
        WhatsApp,
    )
}
GROUP_A = {mode.id: mode for mode in (*SILENT, *WATCHED)}
platforms = pytest.mark.parametrize("name", CAST)


def test_every_platform_of_the_cast_has_a_profile_of_its_own() -> None:
    assert {profile(name).platform for name in CAST} == set(CAST) == set(ADAPTERS)


def test_an_unknown_platform_is_named_with_those_that_there_are() -> None:
    with pytest.raises(KeyError, match="no platform 'icq'; there are: telegram"):
        profile("icq")


def test_a_profile_must_play_or_decline_everything_and_not_both() -> None:
    lacks = dict.fromkeys(Play, "no")
    assert Profile(platform="x", plays={}, lacks=lacks).lacks == lacks
    with pytest.raises(ValueError, match="x must either play or decline: ZOMBIE"):
        Profile(platform="x", plays={Play.ZOMBIE: "mute"}, lacks=lacks)
    del lacks[Play.NO_ACK]
    with pytest.raises(ValueError, match="x must either play or decline: NO_ACK"):
        Profile(platform="x", plays={}, lacks=lacks)


@platforms
def test_what_is_declined_is_declined_with_a_sentence(name: str) -> None:
    found = profile(name)
    reasons = [*found.lacks.values(), *found.excused.values()]
    assert [why for why in reasons if len(why.split()) < 5] == []


@platforms
def test_the_facts_are_those_of_the_adapter(name: str) -> None:
    found, traits = profile(name), ADAPTERS[name].traits
    assert (found.replays, found.idempotent) == (traits.replays, traits.idempotent)
    assert found.first_wait == preset(name).backoff_first
    assert found.cap == preset(name).backoff_cap
    assert found.ordered == HABITS[name].ordered


@platforms
async def test_every_play_can_be_played_and_mended(name: str) -> None:
    found = profile(name)
    stage = CAST[name].stage(name)
    async with stage:
        await CAST[name].meet(stage)
        known = stage.simulator.FAULTS
        for what, injection in found.plays.items():
            await play(stage.simulator, injection)  # raises UnknownFault for a wrong name
            armed = [fault for fault in known if stage.simulator.faults.armed(fault)]
            declared = injection.name if isinstance(injection, Armed) else injection
            assert not isinstance(declared, str) or declared in armed, what
            stage.simulator.faults.clear()
            found.mend(stage.simulator)
        assert found.links(stage.simulator) >= 0


@platforms
def test_two_bots_of_a_platform_are_two(name: str) -> None:
    found = profile(name)
    mode = Mode(
        id="two",
        group=Group.STATUS,
        what="Two bots.",
        variants={"two": (connected(), say(), say(seat=1), untouched(), untouched(seat=1))},
        accounts=2,
    )
    result = run(mode, "two", name, InProcess())
    if found.alone:
        assert result.reasons == (found.alone,)
    else:
        assert (result.outcome, result.reasons) == (Outcome.PASS, ())
        assert [figures.answered for figures in result.figures] == [1, 1]


@pytest.mark.parametrize("name", [n for n in CAST if Play.REVOKE in profile(n).plays])
def test_mending_makes_revoked_credentials_good_again(name: str) -> None:
    mode = Mode(
        id="revoked",
        group=Group.OWNERSHIP,
        what="The credentials are revoked, and then good again.",
        variants={
            "revoked": (
                *GREETED,
                platform(Play.REVOKE),
                network("rst", fault=False),
                blocked(within=90.0),
                heal(),
                recovered(),
                *PARTING,
            )
        },
        # Looked at anew after 5 minutes, then connected after the second wait of the back-off,
        # which is 40 s at most (DingTalk).
        expect=Expect(recover=345.0, kinds=frozenset({"credentials"})),
    )
    result = run(mode, "revoked", name, InProcess())
    assert (result.outcome, result.reasons) == (Outcome.PASS, ())


@pytest.mark.parametrize("name", [n for n in CAST if Play.BAD_FRAME in profile(n).plays])
def test_a_cell_in_which_nothing_is_wrong_passes_and_one_with_a_planted_claim_fails(
    name: str,
) -> None:
    steps = (*GREETED, network("rst"), heal(), recovered(), *PARTING)
    honest = Mode(id="reset", group=Group.NETWORK, what="A reset.", variants={"rst": steps})
    assert run(honest, "rst", name, InProcess()).reasons == ()
    # What nobody can do: be noticed before it happens.
    planted = Mode(
        id="reset",
        group=Group.NETWORK,
        what="A reset.",
        variants={"rst": steps},
        expect=Expect(detect=-math.inf),
    )
    assert run(planted, "rst", name, InProcess()).outcome is Outcome.FAIL


def test_the_group_has_all_its_modes() -> None:
    assert len(GROUP_A) == 21
    assert all(mode.group is Group.SILENT for mode in GROUP_A.values())


@platforms
def test_silence_is_noticed_by_its_length_and_not_by_chance(name: str) -> None:
    mode = GROUP_A["zombie-half-open"]
    for variant in set(mode.variants) - mode.real:
        result = run(mode, variant, name, InProcess())
        assert (result.outcome, result.reasons) == (Outcome.PASS, ())
        assert AT_ONCE < (result.figures[0].detection_s[0] or 0.0) <= 61.0


@pytest.mark.parametrize(("name", "allowed"), [("telegram", True), ("mattermost", False)])
def test_no_double_is_allowed_where_the_platform_recognises_it(name: str, allowed: bool) -> None:
    assert profile(name).expected(Expect(doubles=True)).doubles is allowed
    assert not profile(name).expected(Expect()).doubles


@pytest.mark.parametrize(
    ("ended", "kept"),
    [
        ((), [(1.0, 9.0), (9.0, math.inf)]),
        (((5.0, "a", "resume window"),), [(9.0, math.inf)]),
        (((9.0, "a", "identify"),), [(1.0, 9.0), (9.0, math.inf)]),
        (((60.0, "a", "resume window"),), [(1.0, 9.0), (9.0, math.inf)]),
        (((20.0, "b", "resume refused"),), [(1.0, 9.0)]),
    ],
)
def test_a_session_keeps_what_is_said_unless_the_platform_itself_ends_it(
    ended: tuple[tuple[float, str, str], ...], kept: list[tuple[float, float]]
) -> None:
    logins = [Record(at, "login", {"session": name}) for at, name in ((1.0, "a"), (9.0, "b"))]
    ends = [
        Record(at, "session-ended", {"session": name, "reason": reason})
        for at, name, reason in ended
    ]
    assert sessions(SimpleNamespace(log=logins + ends)) == kept


@pytest.mark.parametrize("name", ["qqbot", "discord"])
def test_a_simulator_tells_why_a_session_ended(name: str) -> None:
    assert profile(name).kept is sessions
    ends: list[str] = []

    async def look(scene: Scene) -> None:
        facts = (fact for fact in scene.seat.simulator.log if fact.what == "session-ended")
        ends.extend(fact.detail["reason"] for fact in facts)

    refused = (platform(Play.REFUSE_RESUME, fault=False), network("rst"), wait(10.0))
    steps = (*GREETED, *refused, heal(), recovered(), Step("look", look), *PARTING)
    mode = Mode(id="planted", group=Group.SILENT, what="x", variants={"only": steps})
    result = run(mode, "only", name, InProcess())
    assert (result.outcome, ends) == (Outcome.PASS, ["resume refused"]), result.reasons
    assert ends[0] in OVER


@pytest.mark.parametrize(
    ("name", "mode", "warning"),
    [
        ("dingtalk", "logical-zombie", "delivers nothing over it"),
        ("dingtalk", "events-split-two-clients", "gets a part of the messages, picked at random"),
        ("qqbot", "logical-zombie", "and delivers nothing, it looks like a quiet day"),
        ("feishu", "events-split-two-clients", "what another program takes is lost"),
    ],
)
def test_of_what_happens_unnoticed_the_platforms_page_warns(
    name: str, mode: str, warning: str
) -> None:
    assert profile(name).excused[mode].startswith("it happens, and ")
    assert "platform's page" in profile(name).excused[mode]
    page = Path(__file__).parents[2] / "docs" / "platforms" / f"{name}.md"
    assert warning in " ".join(page.read_text(encoding="utf-8").split())
