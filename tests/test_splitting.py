"""Text splitting: nothing torn, nothing lost, nothing too long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.adapter import TextUnit
from holdfast.splitting import MIN_LIMIT, is_boundary, measure, split

CHARACTERS, UTF16, BYTES = TextUnit.CHARACTERS, TextUnit.UTF16, TextUnit.BYTES
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
FLAG = "\U0001f1e9\U0001f1ea"
CLUSTERS = [
    FAMILY,
    FLAG,
    "e\u0301",
    "\U0001f44d\U0001f3fd",
    "\u2764\ufe0f",
    "\U0001f3f4\U000e0067\U000e0062\U000e007f",
    "\u1112\u1161\u11ab",
    "\ud83d\ude00",
    "\u0915\u094d",
]

units = st.sampled_from(TextUnit)


def test_a_text_that_fits_is_left_alone() -> None:
    assert split("  one\n\ntwo \n", 100) == ["  one\n\ntwo \n"]


@pytest.mark.parametrize("text", ["", " ", "\n\n \t\n" * 20])
def test_a_blank_text_has_no_parts(text: str) -> None:
    assert split(text, 20) == []


def test_a_limit_no_code_point_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4, not 3"):
        split("text", MIN_LIMIT - 1)


@pytest.mark.parametrize(("unit", "length"), [(CHARACTERS, 3), (UTF16, 4), (BYTES, 7)])
def test_a_platform_counts_in_its_own_unit(unit: TextUnit, length: int) -> None:
    assert measure("aü😀", unit) == length


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one two.\nthree\n\nfour five six", ["one two.\nthree", "four five six"]),
        ("one two. three\nfour five six", ["one two. three", "four five six"]),
        ("One two three. Four five six", ["One two three.", "Four five six"]),
        (
            "一二三四五六七八九十。一二三四五六七八九十",
            ["一二三四五六七八九十。", "一二三四五六七八九十"],
        ),
        ("one two three four five six", ["one two three four", "five six"]),
        ("a https://example.org/12", ["a", "https://example.org/", "12"]),
        ("12345678901234567890123", ["12345678901234567890", "123"]),
        ("one\n\ntwo\nthree four five six", ["one\n\ntwo\nthree four", "five six"]),
        ("a list of things:\n  - one\n  - two", ["a list of things:", "  - one\n  - two"]),
        ("one two three four   \n\n   \n\nfive", ["one two three four", "five"]),
        (" " * 50 + "word" + " " * 50, ["word"]),
        (" " * 8 + "a" * 15, ["a" * 15]),
    ],
)
def test_the_best_place_is_chosen(text: str, parts: list[str]) -> None:
    assert split(text, 20) == parts


def test_a_fence_is_closed_and_opened_again_with_its_info_string() -> None:
    code = "".join(f"    line {n}\n" for n in range(5))
    assert split(f"Look:\n```python\n{code}```\nDone.", 44) == [
        "Look:\n```python\n    line 0\n    line 1\n```",
        "```python\n    line 2\n    line 3\n```",
        "```python\n    line 4\n```\nDone.",
    ]


def test_a_cut_goes_before_a_fence_rather_than_behind_its_first_line() -> None:
    assert split("Some text before it.\n```\ncode that is long\n```", 30) == [
        "Some text before it.",
        "```\ncode that is long\n```",
    ]


def test_blank_lines_and_indents_in_code_survive_a_cut() -> None:
    parts = split("```\naaaa\n\n\n\n        bbbb\n```", 20)
    assert parts == ["```\naaaa\n\n\n\n```", "```\n        bbbb\n```"]


def test_a_long_line_of_code_is_cut_without_losing_a_blank() -> None:
    code = "x = 1 +    2 + 3 + 4 + 5 + 6"
    parts = split(f"~~~\n{code}\n~~~", 20)
    assert len(parts) > 2
    assert "".join(part.split("\n")[1] for part in parts) == code


def test_an_info_string_without_room_becomes_code() -> None:
    parts = split("```one long line\ntwo\nthree\n```", 21)
    assert parts == ["```\none long line\n```", "```\ntwo\nthree\n```"]


def test_markers_without_room_for_code_are_plain_text() -> None:
    parts = split("`" * 12 + "\ncode code code code\n" + "`" * 12 + "\n```\nok\n```", 20)
    assert parts == ["`" * 12, "code code code code", "`" * 12, "```\nok\n```"]


def test_a_closing_marker_without_room_is_shortened() -> None:
    assert split("```\ncode\n```" + " " * 30, 20) == ["```\ncode\n```"]


def test_backticks_in_a_line_open_no_fence() -> None:
    assert split("```inline``` and some more\nmore text", 30) == [
        "```inline``` and some more",
        "more text",
    ]


def test_a_cut_does_not_make_a_marker_out_of_inline_backticks() -> None:
    parts = split("some inline text ```not a fence and more of it", 20)
    assert not any(part.startswith("```") for part in parts)


def test_a_cut_in_code_does_not_make_a_closing_marker() -> None:
    parts = split("````\nabcdefghi ```` more and more\n````", 24)
    assert all(part.count("\n") == 2 for part in parts)
    assert not any(part.split("\n")[1].strip() == "````" for part in parts)


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("unit", TextUnit)
def test_clusters_stay_whole(cluster: str, unit: TextUnit) -> None:
    parts = split(cluster * 20, 26, unit)
    assert "".join(parts) == cluster * 20
    assert all(part == cluster * (len(part) // len(cluster)) for part in parts)


def test_a_blank_that_carries_a_mark_is_no_word_boundary() -> None:
    assert split("aaaaaaaaaa bbbbbb \u0301cccccc", 20) == ["aaaaaaaaaa", "bbbbbb \u0301cccccc"]


def test_a_cluster_longer_than_a_part_is_cut_between_code_points() -> None:
    text = "a" + "\u0301" * 50
    assert split(text, 20) == [text[:20], text[20:40], text[40:]]


def test_boundaries_next_to_line_ends_and_edges() -> None:
    assert not is_boundary("\r\n", 1)
    assert is_boundary("ab", 1)
    assert is_boundary("ab", 0)
    assert is_boundary("ab", 2)
    assert is_boundary(FLAG * 2, 2)
    assert not is_boundary(FLAG * 2, 3)
    assert is_boundary("ж" + FLAG, 1)


# -- properties -----------------------------------------------------------------------------------

pieces = st.sampled_from(
    ["word", " ", "  ", "\n", "\n\n", ". ", "。", "longer-word-than-most", "ü", "😀", *CLUSTERS]
)
markers = st.sampled_from(["```", "```@", "```@@@@@@@@@@@@", "~~~", "  ```", "````", "``", "`"])
prose = st.lists(pieces, max_size=60).map("".join)
fenced = st.lists(pieces | markers.map("{}\n".format), max_size=60).map("".join)
block = st.builds(
    lambda before, info, code, after: f"{before}\n```{info}\n{code}\n```\n{after}",
    prose,
    st.sampled_from(["", "py", "text"]),
    prose,
    prose,
)
limits = st.integers(20, 80)
any_text = st.text(max_size=300) | prose | fenced | st.lists(block, max_size=4).map("\n".join)


@given(text=any_text, limit=limits, unit=units)
def test_every_part_fits_and_shows_something(text: str, limit: int, unit: TextUnit) -> None:
    for part in split(text, limit, unit):
        assert part.strip()
        assert measure(part, unit) <= limit


@given(text=st.text(st.characters(exclude_characters="`~")) | prose, limit=limits, unit=units)
def test_plain_parts_join_back_but_for_blanks_at_the_cuts(
    text: str, limit: int, unit: TextUnit
) -> None:
    position = 0
    for part in split(text, limit, unit):
        found = text.index(part, position)
        assert not text[position:found].strip()
        position = found + len(part)
    assert not text[position:].strip()


@given(text=fenced, limit=limits, unit=units)
def test_only_fence_markers_are_added_or_dropped(text: str, limit: int, unit: TextUnit) -> None:
    def essence(shown: str) -> str:
        return re.sub(r"[\s`~@]", "", shown)

    assert essence("".join(split(text, limit, unit))) == essence(text)


@given(blocks=st.lists(block, min_size=1, max_size=4), limit=limits, unit=units)
def test_no_part_ends_inside_a_fence(blocks: list[str], limit: int, unit: TextUnit) -> None:
    for part in split("\n".join(blocks), limit, unit):
        inside = False
        for line in part.split("\n"):
            if line.strip().startswith("```"):
                inside = not inside
        assert not inside


@given(code=st.lists(st.text("ab \t", max_size=40)), limit=limits)
def test_code_survives_exactly(code: list[str], limit: int) -> None:
    text = "```py\n" + "\n".join(code) + "\n```"
    parts = split(text, limit)
    inner = [line for part in parts for line in part.split("\n")[1:-1]]
    assert "".join(inner) == "".join(code)
    assert all(part.startswith("```py\n") and part.endswith("\n```") for part in parts)


@given(
    clusters=st.lists(st.sampled_from([*CLUSTERS, "a", " ", "字"]), min_size=1, max_size=60),
    limit=st.integers(30, 60),
    unit=units,
)
def test_no_cut_is_inside_a_cluster(clusters: list[str], limit: int, unit: TextUnit) -> None:
    text = "".join(clusters)
    position = 0
    for part in split(text, limit, unit):
        position = text.index(part, position)
        assert is_boundary(text, position)
        position += len(part)
        assert is_boundary(text, position)
