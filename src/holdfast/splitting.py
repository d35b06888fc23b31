"""Cut a long text into parts a platform accepts, without tearing what belongs together.

A part ends, in this order of preference, where a paragraph, a line, a sentence or a word ends. A
fenced code block (CommonMark 0.31, section 4.5) that spans parts is closed at the end of one part
and opened again, with its info string, at the start of the next. Surrogate pairs and extended
grapheme clusters (Unicode Annex 29, as far as chats need it) stay whole.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from holdfast.adapter import TextUnit

MIN_LIMIT = 4
"""Units: the largest code point takes four bytes of UTF-8."""


def split(text: str, limit: int, unit: TextUnit = TextUnit.CHARACTERS) -> list[str]:
    """Parts of ``text``, none empty and none longer than ``limit`` units; blank text has none.

    Joined, they are the text again but for the whitespace at the cuts and the repaired fences.
    A part is at least half full unless that would tear a word. Two things are torn, because they
    fit nowhere: a cluster longer than a part, between code points, and a fence whose markers
    leave no room for code, which is treated as plain text. An info string that leaves no room
    becomes the first line of the code. Raises ValueError when ``limit`` is below `MIN_LIMIT`.
    """
    if limit < MIN_LIMIT:
        raise ValueError(f"limit must be at least {MIN_LIMIT}, not {limit}")
    if not text.strip():
        return []
    if measure(text, unit) <= limit:
        return [text]
    return list(_Splitter(text, limit, unit).parts())


def measure(text: str, unit: TextUnit) -> int:
    """The length of ``text`` as a platform counts it. Lone surrogates count like any other."""
    if unit is TextUnit.CHARACTERS:
        return len(text)
    if unit is TextUnit.UTF16:
        return len(text.encode("utf-16-le", "surrogatepass")) // 2
    return len(text.encode("utf-8", "surrogatepass"))


# -- grapheme clusters ----------------------------------------------------------------------------

_ZWJ = "\u200d"
_EXTENDING = frozenset({"Mn", "Me", "Mc"})


def _extends(char: str) -> bool:
    """Whether a character continues the cluster before it (GB9, GB9a)."""
    return (
        char in (_ZWJ, "\u200c")
        or "\U0001f3fb" <= char <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= char <= "\U000e007f"  # tags, in flags of regions
        or unicodedata.category(char) in _EXTENDING
    )


def _is_regional(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _is_hangul_tail(char: str) -> bool:
    """A vowel or final consonant of a syllable spelled in jamo (GB6 to GB8)."""
    return "\u1160" <= char <= "\u11ff" or "\ud7b0" <= char <= "\ud7fb"


def is_boundary(text: str, index: int) -> bool:
    """Whether ``text`` may be cut before ``index`` without tearing a cluster."""
    if not 0 < index < len(text):
        return True
    before, after = text[index - 1], text[index]
    if before < "\u0300" and after < "\u0300":
        return not (before == "\r" and after == "\n")
    if "\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff":
        return False
    if before == _ZWJ or _extends(after) or _is_hangul_tail(after):
        return False
    if _is_regional(before) and _is_regional(after):
        start = index
        while start and _is_regional(text[start - 1]):
            start -= 1
        return (index - start) % 2 == 0
    return True


# -- fences ---------------------------------------------------------------------------------------

# An info string after backticks has no backtick in it, or the line is inline code. Any indent is
# taken: blocks inside lists are indented, and chat platforms do not mind.
_OPENER = re.compile(r"\s*(?P<marker>`{3,}(?=[^`]*$)|~{3,})")


@dataclass(frozen=True, slots=True)
class _Fence:
    opener: str
    """The line that opens it again, info string included."""
    marker: str

    def closed_by(self, line: str) -> bool:
        mark = line.strip()
        return len(mark) >= len(self.marker) and set(mark) == {self.marker[0]}


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    before: _Fence | None
    """The fence this line is in, or closes."""
    after: _Fence | None
    """The fence the next line is in."""


def _lines(text: str, limit: int, unit: TextUnit) -> Iterator[_Line]:
    fence: _Fence | None = None
    plain = False  # in a fence whose markers leave no room for code: beyond repair
    for line in text.split("\n"):
        before = None if plain else fence
        if fence is None and (found := _OPENER.match(line)):
            opener, info = _fitting(line, found["marker"], limit, unit)
            fence = _Fence(opener.strip(), found["marker"])
            plain = not opener
            if opener and info:
                yield _Line(opener, None, fence)
                line, before = info, fence
        elif fence is not None and fence.closed_by(line):
            if not plain and measure(f"{fence.opener}\n{line}", unit) > limit:
                line = fence.marker
            fence, plain = None, False
        yield _Line(line, before, None if plain else fence)


def _fitting(line: str, marker: str, limit: int, unit: TextUnit) -> tuple[str, str]:
    """The opening line, empty if none leaves room for code, and the info it has no room for."""
    info = line.strip()[len(marker) :].strip()
    for opener, rest in (line, ""), (marker, info):
        # Two newlines, and room for one code point of any size.
        if measure(opener, unit) + 1 + MIN_LIMIT + 1 + len(marker) <= limit:
            return opener, rest
    return "", ""


# -- cuts -----------------------------------------------------------------------------------------


class _Rank(IntEnum):
    """How good a place for a cut is; less is better."""

    PARAGRAPH = 1
    LINE = 2
    CODE_LINE = 3
    SENTENCE = 4
    WORD = 5
    INSIDE_WORD = 6
    AFTER_OPENER = 7
    """Leaves an empty code block behind."""


@dataclass(frozen=True, slots=True)
class _Place:
    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    rank: _Rank
    end: _Place
    resume: _Place
    size: int
    """Units of the part it makes, without a closing marker."""
    fence: _Fence | None
    """The fence it cuts through."""


_SENTENCE = re.compile(
    r"[.!?\u2026][\"'\u201d\u2019)\]]*(?=\s)|[\u3002\uff01\uff1f][\"\u201d\u2019\u300d\u300f\uff09\]]*"
)


class _Splitter:
    """Walks over the lines; each part is the best cut among those that fit."""

    def __init__(self, text: str, limit: int, unit: TextUnit) -> None:
        self.lines = list(_lines(text, limit, unit))
        self.limit = limit
        self.unit = unit

    def parts(self) -> Iterator[str]:
        place: _Place | None = _Place(0, 0)
        fence: _Fence | None = None
        while place is not None:
            place = self._skip_blank(place, fence)
            if place is None:
                return
            opening = f"{fence.opener}\n" if fence else ""
            cut = self._best(list(self._cuts(place, measure(opening, self.unit))))
            if cut is None:
                yield opening + self._text(place, None)
                return
            body = opening + self._text(place, cut.end)
            if cut.fence:
                yield f"{body}\n{cut.fence.marker}"
            elif body.strip():
                yield body.rstrip()
            place, fence = cut.resume, cut.fence

    def _skip_blank(self, place: _Place, fence: _Fence | None) -> _Place | None:
        """The next place with something to see; inside code, everything counts."""
        if fence is not None:
            return place
        while not self._rest(place).strip():
            if place.line + 1 == len(self.lines):
                return None
            place = _Place(place.line + 1, 0)
        indent = len(self._rest(place)) - len(self._rest(place).lstrip())
        if measure(self._rest(place)[:indent], self.unit) * 2 > self.limit:
            return replace(place, column=place.column + indent)
        return place

    def _rest(self, place: _Place) -> str:
        return self.lines[place.line].text[place.column :]

    def _text(self, start: _Place, end: _Place | None) -> str:
        last = len(self.lines) - 1 if end is None else end.line
        texts = [line.text for line in self.lines[start.line : last + 1]]
        if end is not None:
            texts[-1] = texts[-1][: end.column]
        texts[0] = texts[0][start.column :]
        return "\n".join(texts)

    def _closing(self, fence: _Fence | None) -> int:
        return 0 if fence is None else len(fence.marker) + 1

    def _cuts(self, place: _Place, size: int) -> Iterator[_Cut | None]:
        """The cuts that fit, first to last; None at the end when all the rest fits."""
        for number in range(place.line, len(self.lines)):
            line = self.lines[number]
            start = place.column if number == place.line else 0
            whole = size + measure(line.text[start:], self.unit)
            if number + 1 == len(self.lines) and whole <= self.limit:
                yield None
                return
            if whole + self._closing(line.after) > self.limit:
                yield from self._cuts_inside(_Place(number, start), size)
                return
            yield _Cut(
                rank=self._rank(number),
                end=_Place(number, len(line.text)),
                resume=_Place(number + 1, 0),
                size=whole,
                fence=line.after,
            )
            size = whole + 1

    def _rank(self, number: int) -> _Rank:
        """The rank of the end of a line that has a successor."""
        line, following = self.lines[number], self.lines[number + 1]
        if line.after is not None:
            return _Rank.AFTER_OPENER if line.before is None else _Rank.CODE_LINE
        around_code = line.before is not None or following.after is not None
        return _Rank.PARAGRAPH if around_code or not following.text.strip() else _Rank.LINE

    def _cuts_inside(self, place: _Place, size: int) -> Iterator[_Cut]:
        line = self.lines[place.line]
        if line.before is not line.after:
            return  # Half a fence line is no fence line.
        text, start = line.text, place.column
        budget = self.limit - size - self._closing(line.after)
        stop = start + self._fits(text[start : start + max(budget, 0)], budget)
        for rank, end in self._ends(line, start, stop):
            yield _Cut(
                rank=rank,
                end=replace(place, column=end),
                resume=replace(place, column=self._resume(line, end)),
                size=size + measure(text[start:end], self.unit),
                fence=line.after,
            )

    def _fits(self, text: str, budget: int) -> int:
        """How many characters of ``text`` take at most ``budget`` units."""
        lengths = range(len(text) + 1)
        return max(0, bisect_right(lengths, budget, key=lambda n: measure(text[:n], self.unit)) - 1)

    def _ends(self, line: _Line, start: int, stop: int) -> Iterator[tuple[_Rank, int]]:
        """The last end of each rank in the line's ``text[start:stop]``."""
        text = line.text
        if line.after is None:
            ends = [m.end() for m in _SENTENCE.finditer(text, start, stop + 1) if m.end() <= stop]
            if ends and self._is_clean(line, start, ends[-1]):
                yield _Rank.SENTENCE, ends[-1]
        for end in range(stop, start, -1):
            if text[end : end + 1].isspace() and self._is_clean(line, start, end):
                yield _Rank.WORD, end
                break
        for end in range(stop, start, -1):
            if self._is_clean(line, start, end):
                yield _Rank.INSIDE_WORD, end
                return
        if stop > start:
            yield _Rank.INSIDE_WORD, stop

    def _is_clean(self, line: _Line, start: int, end: int) -> bool:
        """Whether the cut tears no cluster and makes no half look like a fence's marker."""
        text, resume = line.text, self._resume(line, end)
        if not (is_boundary(text, end) and is_boundary(text, resume)):
            return False
        if line.after is not None:
            return not (line.after.closed_by(text[start:end]) or line.after.closed_by(text[end:]))
        return not (_OPENER.match(text, start, end) or _OPENER.match(text, resume))

    def _resume(self, line: _Line, end: int) -> int:
        """Where the next part goes on: behind the blanks, which in code are part of it."""
        while line.after is None and line.text[end : end + 1].isspace():
            end += 1
        return end

    def _best(self, cuts: list[_Cut | None]) -> _Cut | None:
        if cuts[-1] is None:
            return None
        found = [cut for cut in cuts if cut is not None]
        for rank in _Rank.PARAGRAPH, _Rank.LINE, _Rank.CODE_LINE, _Rank.SENTENCE, _Rank.WORD:
            full = [c for c in found if c.rank is rank and c.size * 2 >= self.limit]
            if full:
                return full[-1]
        soft = [c for c in found if c.rank <= _Rank.WORD]
        return soft[-1] if soft else min(found, key=lambda c: c.rank)
