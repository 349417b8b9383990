"""Draw docs/session.svg: the screen of chat-client after a real session, as an emulator shows it.

python -m tests.screenshot docs/session.svg
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import pyte

from tests.helpers.servers import Started
from tests.helpers.terminals import Terminal

COLUMNS, ROWS, WIDTH, HEIGHT = 72, 15, 8.4, 19
BACKGROUND, TEXT, DIM = "#1e1e2e", "#cdd6f4", "#7f849c"
COLORS = {
    "red": "#f38ba8",
    "green": "#a6e3a1",
    "brown": "#f9e2af",
    "blue": "#89b4fa",
    "magenta": "#cba6f7",
    "cyan": "#94e2d5",
    "brightred": "#eba0ac",
    "brightblue": "#74c7ec",
    "brightmagenta": "#f5c2e7",
    "brightblack": DIM,
    "default": TEXT,
}


def session(stack: ExitStack) -> bytes:
    """Return the bytes that a client wrote to its terminal in a short talk."""
    started = Started(stack)
    shown = Terminal(stack, Path(tempfile.mkdtemp()), started.port, "--name", "ada", "--timestamps").ready()
    bob, clara = started.peers(2)

    def hear(line: str) -> None:
        shown.until(lambda: shown.lines[-1].endswith(line))

    bob.send(b"/nick bob\n/me waves\n")
    hear("bob waves")
    clara.send(b"/nick clara\nMorning! Is the release out?\n")
    hear("out?")
    shown.type("Ten minutes ago. 日本語 and 😀 work, too.\r")
    hear("too.")
    clara.send("ada: 👏 thank you!\n".encode())
    hear("you!")
    bob.send(b"/msg ada lunch?\n")
    hear("lunch?")
    shown.type("/reply at twelve\r")
    hear("twelve")
    shown.type("/who\r")
    hear("clara")
    shown.type("A line that is being typed is never torn")
    bob.send(b"even while others talk\n")
    shown.until(lambda: shown.lines[-1].endswith("torn") and shown.lines[-2].endswith("talk"))
    return shown.bytes


def draw(screen: pyte.Screen) -> str:
    """Return the screen as SVG."""
    rows = []
    for row in range(ROWS):
        cells = [(column, screen.buffer[row][column]) for column in range(COLUMNS)]
        for (fg, bold), run in groupby(cells, lambda each: (each[1].fg, each[1].bold)):
            part = list(run)
            while part and part[-1][1].data == " ":
                del part[-1]
            while part and part[0][1].data == " ":
                del part[0]
            if part:
                text = "".join(cell.data for _, cell in part)  # the second cell of a wide character holds ""
                place = (
                    f'x="{12 + part[0][0] * WIDTH:.1f}" y="{24 + row * HEIGHT}" textLength="{len(part) * WIDTH:.1f}"'
                )
                weight = ' font-weight="bold"' if bold else ""
                rows.append(f'<text {place} fill="{COLORS.get(fg, TEXT)}"{weight}>{escape(text)}</text>')
    x, y = 12 + screen.cursor.x * WIDTH, 10 + screen.cursor.y * HEIGHT
    size = f'width="{24 + COLUMNS * WIDTH:.0f}" height="{20 + ROWS * HEIGHT}"'
    font = 'font-family="monospace" font-size="14" style="white-space: pre"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>',
            f'<rect {size} rx="8" fill="{BACKGROUND}"/>',
            f'<rect x="{x:.1f}" y="{y}" width="{WIDTH}" height="{HEIGHT - 2}" fill="{DIM}"/>',
            *rows,
            "</svg>\n",
        ]
    )


def main(path: str) -> None:
    """Run the session, and write the picture."""
    screen: Any = pyte.Screen(COLUMNS, ROWS)
    with ExitStack() as stack:
        data = session(stack)
    pyte.ByteStream(screen).feed(data.replace(b"\x1b[2m", b"\x1b[90m"))  # the emulator knows no dim text
    Path(path).write_text(draw(screen))


if __name__ == "__main__":
    main(*sys.argv[1:])
