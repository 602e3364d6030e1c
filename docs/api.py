"""Writes docs/api.md, the reference, from the docstrings: `python -m docs.api`."""

import importlib
import inspect
import pathlib
import re
import textwrap

from docs import surface

PAGE = pathlib.Path(__file__).with_suffix(".md")
HEAD = """# Reference

Made by `python -m docs.api` from the docstrings. What each function takes, returns and refuses; the initializers' and
schemes' laws have [a page of their own](initializers.md).

"""
FACE = "What most programs need. Everything here is imported when it is first used."


def page() -> str:
    """The page as text."""
    found = surface.everything()
    contents = "".join(f"- [{module}](#{module.replace('.', '')})\n" for module in found)
    return HEAD + contents + "".join(_module(module, items) for module, items in found.items())


def _module(module: str, items: list[surface.Item]) -> str:
    doc = FACE if module == "isometry" else inspect.getdoc(importlib.import_module(module)) or ""
    return f"\n## {module}\n\n{_prose(doc)}\n" + "".join(map(_entry, items))


def _entry(item: surface.Item) -> str:
    """Heading, signature, docstring; a method's heading is below its class's."""
    level, name = ("####" if item.owner else "###"), item.path.removeprefix("isometry.")
    call = textwrap.fill(surface.line(item), 118, subsequent_indent="    ", break_long_words=False)
    return f"\n{level} {name}\n\n```text\n{call}\n```\n" + (f"\n{_prose(_sections(item.doc))}\n" if item.doc else "")


def _sections(doc: str) -> str:
    """The sections of a Google docstring as Markdown: entries as a list, the example as it stands."""
    lines: list[str] = []
    for part in re.split(r"^(?=(?:Args|Attributes|Returns|Raises|Example):$)", doc, flags=re.MULTILINE):
        title, _, body = part.partition(":\n")
        if title not in ("Args", "Attributes", "Returns", "Raises", "Example"):
            lines.append(part)
            continue
        body = textwrap.dedent(body)
        if title == "Example":
            body = f"```text\n{body.strip()}\n```\n"
        elif title != "Returns":
            body = re.sub(r"^([*]{0,2})(\w+): ", r"- `\1\2`: ", body, flags=re.MULTILINE)
        lines.append(f"**{title}**\n\n{body}\n")
    return "\n".join(line.rstrip("\n") + "\n" for line in lines).rstrip()


def _prose(text: str) -> str:
    """A docstring as Markdown shows it: a single asterisk would start emphasis, a bracket a tag."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"(?<!\*)\*(?!\*)|<", r"\\\g<0>", p) for p in pieces)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
