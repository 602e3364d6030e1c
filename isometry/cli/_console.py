"""A console of rich that prints texts as they are, whoever wrote them."""

from rich.console import (
    Console,
    ConsoleOptions,
    ConsoleRenderable,
    RenderableType,
    RenderHook,
    RenderResult,
)
from rich.segment import Segment

from isometry.cli import _terminal


def literal() -> Console:
    """Return a console that takes nothing for markup, and prints no control character.

    Cells of tables are texts, and a console without markup takes those as they are.
    """
    console = Console(markup=False, emoji=False, highlight=False)
    # Some shells set COLUMNS=0 where they know no width. Nothing would be printed.
    if console.width < 1:
        console.width = _terminal.COLUMNS
    console.push_render_hook(_Cleaning())
    return console


class _Cleaning(RenderHook):
    """Cleans all that a console prints, tables of other modules included."""

    def process_renderables(
        self, renderables: list[ConsoleRenderable]
    ) -> list[ConsoleRenderable]:
        """Return what is printed in place of what was to be printed."""
        return [_Cleaned(renderable) for renderable in renderables]


class _Cleaned:
    """Something whose letters are plain once it is laid out."""

    def __init__(self, inner: RenderableType):
        self._inner = inner

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        for segment in console.render(self._inner, options):
            # Rich's own sequences, such as those of colours, are in the style.
            yield Segment(_terminal.plain(segment.text), segment.style, segment.control)
