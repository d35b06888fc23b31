"""Draws ``docs/picture.svg``, the picture of the README; ``--check`` fails if it is stale.

Colours follow the reader's light or dark scheme. Nothing is referred to outside the file, and the
font is whatever the reader's system uses.

    python tools/draw_picture.py [--check]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

FILE = Path(__file__).resolve().parent.parent / "docs" / "picture.svg"

WIDTH, HEIGHT = 960, 320

SHAPES = """
  text { font-family: system-ui, sans-serif; font-size: 14px; text-anchor: middle; }
  .note { font-size: 12px; }
  .core { stroke-width: 2; }
  path { fill: none; stroke-width: 1.5; }
  .cable, .cut { stroke-width: 3; stroke-linecap: round; }
  .cut { stroke-dasharray: 2 8; }
  .report { stroke-dasharray: 5 4; }"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Colours for one kind of background."""

    ink: str
    soft: str
    line: str
    room: str
    ground: str
    sea: str
    alarm: str

    def rules(self) -> str:
        """The colours as style rules. No variables: not every viewer knows them."""
        return f"""
  text {{ fill: {self.ink}; }}
  .note, .tip {{ fill: {self.soft}; }}
  .ground {{ fill: {self.ground}; stroke: {self.line}; }}
  .room {{ fill: {self.room}; stroke: {self.line}; }}
  .core {{ fill: {self.room}; stroke: {self.sea}; }}
  path {{ stroke: {self.soft}; }}
  .cable, .report {{ stroke: {self.sea}; }}
  .cut {{ stroke: {self.alarm}; }}"""


LIGHT = Scheme(
    ink="#1f2933",
    soft="#52606d",
    line="#9aa5b1",
    room="#ffffff",
    ground="#f3f6f9",
    sea="#0b7285",
    alarm="#c92a2a",
)

DARK = Scheme(
    ink="#e6edf3",
    soft="#a3b1bf",
    line="#5c6b7a",
    room="#1b232c",
    ground="#12181f",
    sea="#3bc9db",
    alarm="#ff8787",
)


def style(*, dark: bool = False) -> str:
    """The style sheet; ``dark`` shows the dark colours to every reader."""
    if dark:
        return SHAPES + DARK.rules()
    return (
        f"{SHAPES}{LIGHT.rules()}\n  @media (prefers-color-scheme: dark) {{{DARK.rules()}\n  }}\n"
    )


@dataclass(frozen=True, slots=True)
class Box:
    """A room: its place, its name, and what it does."""

    x: int
    y: int
    width: int
    height: int
    name: str
    note: str = ""
    kind: str = "room"

    @property
    def left(self) -> tuple[int, int]:
        """The middle of the left side."""
        return self.x, self.y + self.height // 2

    @property
    def right(self) -> tuple[int, int]:
        """The middle of the right side."""
        return self.x + self.width, self.y + self.height // 2

    @property
    def top(self) -> tuple[int, int]:
        """The middle of the upper side."""
        return self.x + self.width // 2, self.y

    @property
    def bottom(self) -> tuple[int, int]:
        """The middle of the lower side."""
        return self.x + self.width // 2, self.y + self.height

    def draw(self) -> str:
        """The box with its words in the middle."""
        x, y = self.left[0] + self.width // 2, self.left[1] + 5
        words = f'<text x="{x}" y="{y - 8 if self.note else y}">{escape(self.name)}</text>'
        if self.note:
            words += f'<text class="note" x="{x}" y="{y + 10}">{escape(self.note)}</text>'
        return (
            f'<rect class="{self.kind}" x="{self.x}" y="{self.y}" width="{self.width}" '
            f'height="{self.height}" rx="8"/>{words}'
        )


Point = tuple[int, int]

GATEWAY = Box(196, 16, 574, 288, "", kind="ground")
SUPERVISOR = Box(344, 34, 280, 52, "supervisor", "causes in, decisions out", "core")
ADAPTER = Box(212, 140, 122, 104, "adapter", "a connection")
INBOX = Box(368, 136, 112, 48, "inbox", "stored, then ack")
LANE = Box(510, 136, 112, 48, "lane", "a chat, in order")
AGENT = Box(650, 164, 104, 56, "agent", "your function")
OUTBOX = Box(510, 204, 112, 48, "outbox", "owed until sent")
SENDER = Box(368, 204, 112, 48, "sender", "rates, receipts")
STATUS = Box(796, 56, 152, 56, "gateway_state.json", "dated evidence")
COMMANDS = Box(796, 138, 152, 56, "holdfast status", "explain, kick, pause")
JOURNAL = Box(368, 268, 254, 26, "one journal, SQLite")
PLATFORMS = (
    Box(16, 84, 116, 44, "Telegram"),
    Box(16, 170, 116, 44, "QQ"),
    Box(16, 256, 116, 44, "Matrix"),
)


def arrow(start: Point, end: Point, kind: str = "") -> str:
    """A line with a tip; horizontal or vertical lines only bend in their middle."""
    (x1, y1), (x2, y2) = start, end
    style = f' class="{kind}"' if kind else ""
    middle = (x1 + x2) // 2
    path = f"M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}"
    if x1 == x2:
        path = f"M{x1} {y1} V{y2}"
        way = 1 if y2 > y1 else -1
        tip = f"{x2},{y2} {x2 - 4},{y2 - 8 * way} {x2 + 4},{y2 - 8 * way}"
    else:
        way = 1 if x2 > x1 else -1
        tip = f"{x2},{y2} {x2 - 8 * way},{y2 - 4} {x2 - 8 * way},{y2 + 4}"
    return f'<path{style} d="{path}"/><polygon class="tip" points="{tip}"/>'


def cable(platform: Box, y: int, kind: str) -> str:
    """A cable from a platform to the adapters."""
    (x1, y1), x2 = platform.right, ADAPTER.x
    return f'<path class="{kind}" d="M{x1} {y1} C{x1 + 50} {y1} {x2 - 50} {y} {x2} {y}"/>'


def note(x: int, y: int, text: str) -> str:
    """A few small words."""
    return f'<text class="note" x="{x}" y="{y}">{escape(text)}</text>'


def picture(*, dark: bool = False) -> str:
    """The whole drawing."""
    boxes = (GATEWAY, SUPERVISOR, ADAPTER, INBOX, LANE, AGENT, OUTBOX, SENDER, JOURNAL)
    parts = [box.draw() for box in boxes]
    parts += [box.draw() for box in (*PLATFORMS, STATUS, COMMANDS)]
    kinds = ("cable", "cut", "cable")
    for platform, y, kind in zip(PLATFORMS, (160, 192, 224), kinds, strict=True):
        parts.append(cable(platform, y, kind))
    parts.append(note(164, 172, "cut"))
    adapter_in, adapter_out = (ADAPTER.right[0], INBOX.left[1]), (ADAPTER.right[0], SENDER.left[1])
    parts.append(arrow(adapter_in, INBOX.left))
    parts += [arrow(one.right, next_.left) for one, next_ in pairwise((INBOX, LANE))]
    parts.append(arrow(LANE.right, (AGENT.left[0], AGENT.left[1] - 10)))
    parts.append(arrow((AGENT.left[0], AGENT.left[1] + 10), OUTBOX.right))
    parts.append(arrow(OUTBOX.left, SENDER.right))
    parts.append(arrow(SENDER.left, adapter_out))
    parts += [f'<path d="M{b.bottom[0]} {b.bottom[1]} V{JOURNAL.y}"/>' for b in (SENDER, OUTBOX)]
    up, down = ADAPTER.x + 34, ADAPTER.x + 78
    parts.append(f'<path d="M{up} {ADAPTER.y} C{up} 76 296 52 {SUPERVISOR.x} 52"/>')
    parts.append(
        f'<polygon class="tip" points="{SUPERVISOR.x},52 {SUPERVISOR.x - 8},48 '
        f'{SUPERVISOR.x - 8},56"/>'
    )
    parts.append(f'<path d="M{SUPERVISOR.x} 70 C316 72 {down} 84 {down} {ADAPTER.y}"/>')
    parts.append(
        f'<polygon class="tip" points="{down},{ADAPTER.y} {down - 4},{ADAPTER.y - 8} '
        f'{down + 4},{ADAPTER.y - 8}"/>'
    )
    parts.append(note(242, 70, "its end"))
    parts.append(note(352, 116, "open, probe, close"))
    parts.append(arrow(SUPERVISOR.right, (STATUS.x, STATUS.left[1] - 8), "report"))
    parts.append(arrow(COMMANDS.top, STATUS.bottom))
    title = "Holdfast: platforms, the rooms of the gateway, and what people look at"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-labelledby="title">\n<title id="title">{title}</title>\n'
        f"<style>{style(dark=dark)}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def main(arguments: list[str]) -> int:
    """Write or check; the exit code."""
    new = picture()
    if "--check" not in arguments:
        FILE.write_text(new, encoding="utf-8")
    elif not FILE.exists() or FILE.read_text(encoding="utf-8") != new:
        print(f"{FILE.name} is stale: run python tools/draw_picture.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
