"""HTML as strings in which all text is escaped."""

import html
from collections.abc import Iterable, Sequence

# Attributes whose names Python cannot write as they are.
_SPELLED = {"class_": "class", "for_": "for"}

# Elements that have no end tag in HTML.
_EMPTY = ("br", "meta", "link")

# What a notebook shows takes its colours from there, so that it is legible on any
# background. Lines and dim text are grey, which is seen on white and on black.
_GREY = "rgba(128,128,128,.45)"
_CELL = f"padding:.15em .7em;border-bottom:1px solid {_GREY};vertical-align:top;"
_HEADING = f"{_CELL}text-align:left;font-weight:600;white-space:nowrap;"
_TABLE = "border-collapse:collapse;margin:.4em 0;font-size:.92em;"


class Html(str):
    """Text that is HTML already, and is not escaped again.

    Jinja2 takes a string with the method `__html__` as it is.
    """

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def escape(text: object) -> Html:
    """Return a text as HTML; what is HTML already stays as it is."""
    if isinstance(text, Html):
        return text
    return Html(html.escape(str(text), quote=True))


def joined(parts: Iterable[object]) -> Html:
    """Return texts and pieces of HTML one after another."""
    return Html("".join(map(escape, parts)))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """Return an element; texts among its children and attributes are escaped.

    Args:
        tag: The name of the element.
        *children: Texts, or pieces of HTML.
        **attributes: The attributes; "class_" is class, and underscores are hyphens.
            Those that are None are left out.
    """
    words = [tag]
    for name, value in attributes.items():
        if value is None:
            continue
        spelled = _SPELLED.get(name, name.replace("_", "-"))
        if isinstance(value, float):
            value = number(value)
        words.append(f'{spelled}="{escape(value)}"')
    start = f"<{' '.join(words)}>"
    if tag in _EMPTY:
        return Html(start)
    return Html(f"{start}{joined(children)}</{tag}>")


def number(value: float) -> str:
    """Return a coordinate: to a hundredth of a pixel, without a zero's minus."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def table(headings: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """Return a table for a notebook, whose styles are in its elements."""
    head = [element("th", heading, style=_HEADING) for heading in headings]
    lines = [element("tr", *head)]
    for row in rows:
        cells = [element("td", cell, style=f"{_CELL}text-align:left;") for cell in row]
        lines.append(element("tr", *cells))
    return element("table", *lines, style=_TABLE)


def notebook(title: object, *parts: object) -> str:
    """Return what a notebook shows of an object: a title, and what is below it."""
    heading = element("div", title, style="font-weight:600;margin-bottom:.2em;")
    # A wide table scrolls by itself, and not the whole notebook.
    style = "max-width:100%;overflow-x:auto;"
    return str(element("div", heading, *parts, style=style))


def note(text: object) -> Html:
    """Return a dim line below a table."""
    return element("div", text, style="opacity:.75;font-size:.88em;")
