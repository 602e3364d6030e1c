"""The page: what stands in it, and how it is written."""

import base64
import hashlib
import pathlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from isometry import store
from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry._internal.html import Html, element, joined
from isometry.verdicts._html import _contents, _pictures

if TYPE_CHECKING:
    import jinja2

    from isometry.verdicts._report import Report
    from isometry.verdicts._reports import Reports

_FOLDER = pathlib.Path(__file__).parent

# "arXiv:1611.01232" and "arXiv:math/0403022", as sources of thresholds name papers.
_PAPER = re.compile(r"arXiv:([a-z-]+/\d{7}|\d{4}\.\d{4,5})")


def write(reports: "Reports", path: store.Path) -> None:
    """Write the page of some reports, whole or not at all.

    Raises:
        InputError: There is no report; the folder of the file does not exist, or the
            disk refuses.
        MissingExtra: jinja2 is not installed.
    """
    # All that can be refused is, before anything is drawn.
    if not reports and not reports.undefined:
        raise InputError("there is no report; audit at least one network.")
    target = checks.path("path", path)
    folder = target.parent
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {str(folder)!r} for {target.name!r}; make it first."
        )
    if target.is_dir():
        raise InputError(f"path={str(target)!r} is a folder; write a file in it.")
    text = page(reports)
    # Bytes of a command line that are no UTF-8 are surrogates, which no file can hold.
    encoded = text.encode("utf-8", "backslashreplace")
    store.atomically(target, lambda file: file.write(encoded))


def page(reports: "Reports") -> str:
    """Return the page of some reports as text."""
    environment = _environment()
    style, script = (_part(name) for name in ("report.css", "report.js"))
    return environment.get_template("report.html.jinja").render(
        style=style,
        script=script,
        policy=_policy(style, script),
        **_context(reports),
    )


def _environment() -> "jinja2.Environment":
    """Return Jinja's environment, which escapes every text that is put in."""
    jinja2: Any = checks.extra("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        # A name that does not exist is an error, and not an empty text.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["papers"] = with_papers
    return environment


def _part(name: str) -> Html:
    """Return our own style or script, which is not escaped."""
    return Html((_FOLDER / name).read_text(encoding="utf-8"))


def _policy(style: str, script: str) -> str:
    """Return the policy of the page: no request at all, and no other script or style.

    A browser then runs nothing that a name in the report may hold, were it not escaped.
    """
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def with_papers(text: str) -> Html:
    """Return a text as HTML, in which each arXiv identifier is a link."""
    parts: list[object] = []
    end = 0
    for match in _PAPER.finditer(text):
        address = f"https://arxiv.org/abs/{match[1]}"
        link = element("a", match[0], href=address, rel="noreferrer")
        parts += [text[end : match.start()], link]
        end = match.end()
    return joined([*parts, text[end:]])


def _context(reports: "Reports") -> dict[str, Any]:
    """Return everything that the template names."""
    ranking = reports.ranking()
    by_name = {name: reports[name] for name in ranking}
    networks = [_contents.network(name, reports[name]) for name in ranking]
    definitions = _contents.definitions()
    edges = _pictures.common_edges(by_name.values())
    return {
        "title": _contents.title(networks, reports.undefined),
        "names": [*ranking, *reports.undefined],
        "headline": _contents.headline(networks, reports.undefined),
        # The gravest network is at the top of the page, the best at that of the table.
        "gravest": networks[::-1],
        "networks": networks,
        # Reports that were made by hand may have different flags.
        "flags": list(dict.fromkeys(name for one in networks for name in one.flags)),
        "undefined": reports.undefined,
        "spectra": {
            name: _pictures.spectra(report, edges) for name, report in by_name.items()
        },
        "depth": _depth(by_name),
        "training": _training(by_name),
        "keys": _pictures.legend(ranking),
        "provenance": _contents.provenance(by_name.values()),
        "definitions": definitions,
        "meaning": {
            one.key: one.words for group in definitions.values() for one in group
        },
        "columns": _contents.STATISTICS,
        "layer_columns": _contents.LAYERS,
    }


def _depth(reports: Mapping[str, "Report"]) -> dict[str, Html]:
    """Return the pictures of what is known along depth, by what they show."""
    titles = {
        "q": "mean square of the pre-activations q",
        "chi": "growth χ of a squared derivative",
        "gradient": "norm of the gradient",
    }
    drawn = {}
    for field, title in titles.items():
        picture = _pictures.depth(reports, field, title)
        if picture is not None:
            drawn[title] = picture
    return drawn


def _training(reports: Mapping[str, "Report"]) -> dict[str, Html]:
    """Return the pictures of the training probe, by what they show."""
    indices = {name: index for index, name in enumerate(reports)}
    probes = {
        name: report.probe
        for name, report in reports.items()
        if report.probe is not None
    }
    pictures = {
        "loss on the batch": _pictures.losses(probes, indices),
        "rank of the accumulated gradient": _pictures.ranks(probes, indices),
    }
    return {title: drawn for title, drawn in pictures.items() if drawn is not None}
