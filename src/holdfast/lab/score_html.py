"""The score as one page: a heat map, how long recoveries took, and a time line of every play.

The page stands alone: no script from anywhere, no font, no picture, no request to any host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Final

from holdfast.lab.cast import CAST
from holdfast.lab.engine import Outcome, Result
from holdfast.lab.modes import MODES
from holdfast.lab.score import late_only, worst
from holdfast.lab.score_page import by_cell, mark

EDGES: Final = (0.1, 0.5, 1.0, 2.0, 6.0, 15.0, 30.0, 60.0, 120.0, 330.0)
"""Seconds: where the bars of the distribution end; 2 and 6 are the promised median and worst."""

WIDTH, BAR = 900, 10
"""Units of a time line's width, and of the height of its two bars."""

COLOURS: Final = {
    "connected": "var(--good)",
    "connecting": "var(--busy)",
    "retrying": "var(--warn)",
    "fatal": "var(--bad)",
}

STYLE: Final = """
:root { color-scheme: light dark; --good: #2e9e5b; --busy: #3d7dca; --warn: #d99a1c;
  --bad: #cf4436; --none: #8884; --ink: #1c2530; --paper: #fbfbf9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --paper: #14181d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; }
th { text-align: left; font-weight: 500; padding: 1px 8px 1px 0; white-space: nowrap; }
thead th { writing-mode: vertical-rl; transform: rotate(180deg); padding: 4px 1px; }
td { width: 26px; height: 20px; text-align: center; color: #fff; border: 1px solid var(--paper); }
td.pass { background: var(--good); } td.fail { background: var(--bad); }
td.late { background: var(--warn); }
td.none { background: var(--none); color: inherit; }
td a { color: inherit; text-decoration: none; display: block; }
details { margin: .3rem 0; } summary { cursor: pointer; }
svg text { fill: currentColor; font: 11px system-ui, sans-serif; }
.scroll { overflow-x: auto; }
"""


def page(results: Sequence[Result], command: str, date: str) -> str:
    """The whole page."""
    return "\n".join(_page(results, command, date)) + "\n"


def _page(results: Sequence[Result], command: str, date: str) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Holdfast: the score of {escape(date)}</title><style>{STYLE}</style>"
    yield "<h1>Ways to die, and who survives them</h1>"
    yield f"<p>Made on {escape(date)} by <code>{escape(command)}</code>. Each cell is a failure "
    yield "mode on a platform: green was survived, red was not, amber was survived, but later than "
    yield "Holdfast promises, grey can not happen there.</p>"
    for name in dict.fromkeys(result.subject for result in results):
        mine = [result for result in results if result.subject == name]
        yield f"<h2>{escape(name)}</h2>"
        played = sum(result.outcome is not Outcome.NOT_APPLICABLE for result in mine)
        yield f"<p>{played} plays.</p>"
        yield from _map(mine)
        yield from _recoveries(mine)
        yield from _plays(mine)
    yield "</html>"


def _map(results: Sequence[Result]) -> Iterator[str]:
    found = by_cell(results)
    platforms = [name for name in CAST if any(name == platform for _, platform in found)]
    yield '<div class="scroll"><table><thead><tr><td></td>'
    yield from (f"<th>{platform}</th>" for platform in platforms)
    yield "</tr></thead><tbody>"
    for mode in (mode for mode in MODES.values() if any(mode.id == one for one, _ in found)):
        yield f'<tr><th title="{escape(mode.what)}">{mode.id}</th>'
        yield from (_square(found.get((mode.id, platform), ())) for platform in platforms)
        yield "</tr>"
    yield "</tbody></table></div>"


def _square(plays: Sequence[Result]) -> str:
    if not plays:
        return "<td></td>"
    outcome = worst(plays)
    kind = "none" if outcome is Outcome.NOT_APPLICABLE else outcome.value
    kind = "late" if late_only(plays) else kind
    told = "; ".join(reason for play in plays for reason in play.reasons) or outcome.value
    link = f'<a href="#{_anchor(plays[0])}">{mark(plays)}</a>'
    return f'<td class="{kind}" title="{escape(told)}">{link}</td>'


def _anchor(result: Result) -> str:
    return escape(f"{result.subject}-{result.mode}-{result.platform}".replace(" ", "-"))


# -- recoveries -----------------------------------------------------------------------------------


def _recoveries(results: Iterable[Result]) -> Iterator[str]:
    """How many recoveries took how long."""
    took = [one for r in results for figure in r.figures for one in figure.recovery_s]
    if not took:
        return
    counts = [
        sum(low < one <= high for one in took if one is not None) + (low == 0.0) * took.count(0.0)
        for low, high in zip((0.0, *EDGES), EDGES, strict=False)
    ]
    longer = sum(one is not None and one > EDGES[-1] for one in took)
    bars = [*zip([f"≤ {edge:g} s" for edge in EDGES], counts, strict=True)]
    bars += [("longer", longer), ("never", took.count(None))]
    most = max(count for _, count in bars) or 1
    yield f"<h3>{len(took)} recoveries, from the healing to connected and listening</h3>"
    yield f'<svg viewBox="0 0 420 {len(bars) * 18}" width="420" role="img" '
    yield f'aria-label="distribution of {len(took)} recoveries">'
    for row, (name, count) in enumerate(bars):
        wide, y = 260 * count / most, row * 18
        yield f'<text x="0" y="{y + 12}">{name}</text>'
        yield f'<rect x="80" y="{y + 3}" width="{wide:.1f}" height="11" fill="var(--busy)"/>'
        yield f'<text x="{86 + wide:.1f}" y="{y + 12}">{count}</text>'
    yield "</svg>"


# -- time lines -----------------------------------------------------------------------------------


def _plays(results: Sequence[Result]) -> Iterator[str]:
    """Each play: the truth above, what was published below."""
    yield "<h3>Every play: the truth above, the published status below</h3>"
    before = ""
    for result in results:
        if result.outcome is Outcome.NOT_APPLICABLE:
            continue
        anchor = _anchor(result)
        name = f' id="{anchor}"' if anchor != before else ""
        before = anchor
        head = f"{result.mode} ({result.variant}) on {result.platform}: {result.outcome}"
        yield f"<details{name}><summary>{escape(head)}</summary>"
        yield from (f"<p>{escape(reason)}</p>" for reason in result.reasons)
        yield from _figures(result)
        yield from _line(result)
        yield "</details>"


def _figures(result: Result) -> Iterator[str]:
    for figure in result.figures:
        noticed = ", ".join(_took(one) for one in figure.detection_s)
        back = ", ".join(_took(one) for one in figure.recovery_s)
        yield (
            f"<p>{figure.said} messages, {figure.answered} answered, {figure.gap} in gaps, "
            f"{figure.lost + figure.unreported} lost, {figure.doubled} doubled, "
            f"lie {figure.lie_s:g} s; noticed after {noticed or '–'}, back after {back or '–'}; "
            f"{figure.opens_a_minute} attempts a minute at most; "
            f"{result.played_s:g} s played on the {result.clock} clock.</p>"
        )


def _took(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"


def _line(result: Result) -> Iterator[str]:
    length = max(result.played_s, 1.0)
    scale = WIDTH / length
    yield f'<svg viewBox="0 0 {WIDTH} {4 * BAR + 14}" width="100%" role="img" '
    yield f'aria-label="{escape(result.mode)} on {result.platform}">'
    ends = (*(moment.at for moment in result.line[1:]), length)
    for moment, end in zip(result.line, ends, strict=False):  # a play may have no line at all
        x, wide = moment.at * scale, max(0.5, (end - moment.at) * scale)
        truth = "var(--bad)" if moment.deaf else "var(--good)"
        told = COLOURS.get(moment.state or "", "var(--none)")
        state = escape(f"{moment.state} {moment.code}".strip())
        yield f'<rect x="{x:.1f}" y="12" width="{wide:.1f}" height="{BAR}" fill="{truth}"/>'
        yield f'<rect x="{x:.1f}" y="{14 + BAR}" width="{wide:.1f}" height="{BAR}" fill="{told}">'
        yield f"<title>{moment.at:.1f} s: {state}</title></rect>"
    for name, began, healed in result.faults:
        yield f'<text x="{began * scale:.1f}" y="9">▼ {escape(name)}</text>'
        if healed is not None:
            yield f'<text x="{healed * scale:.1f}" y="{4 * BAR + 8}">▲ healed</text>'
    yield "</svg>"
