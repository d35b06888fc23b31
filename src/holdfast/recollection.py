"""A bounded memory: what was last said in each of the chats that were heard of last."""

from __future__ import annotations


class Recollection:
    """The last text noted under each of the ``size`` keys that were noted last.

    It is lost with the process and forgets the key that was silent longest: for what makes an
    adapter more helpful, such as which message a typing notice answers, never for what it owes.
    """

    __slots__ = ("_notes", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._notes: dict[str, str] = {}

    def note(self, key: str, text: str) -> None:
        """Remember the text in place of an earlier one; the key becomes the newest."""
        self._notes.pop(key, None)
        self._notes[key] = text
        if len(self._notes) > self._size:
            del self._notes[next(iter(self._notes))]

    def get(self, key: str) -> str | None:
        """The text noted last; None for a key unknown or forgotten."""
        return self._notes.get(key)
