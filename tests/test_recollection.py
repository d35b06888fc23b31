"""The newest keys are remembered, each with what was said last."""

from __future__ import annotations

from holdfast.recollection import Recollection


def test_the_last_text_counts() -> None:
    memory = Recollection(2)
    memory.note("a", "1")
    memory.note("a", "2")
    assert (memory.get("a"), memory.get("b")) == ("2", None)


def test_the_key_silent_longest_is_forgotten_first() -> None:
    memory = Recollection(2)
    for key, text in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")]:
        memory.note(key, text)
    assert [memory.get(key) for key in "abc"] == ["3", None, "4"]
