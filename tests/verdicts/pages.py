"""Reports that are made by hand, and a reader of the pages that they become."""

import dataclasses
from html.parser import HTMLParser

import numpy as np

import isometry
from isometry import linalg, theory
from isometry.verdicts._layers import LayerRow
from isometry.verdicts._probe import Probe
from tests.verdicts.measuring import spectrum

# Names that would be markup, or leave an attribute, a style or a script, unescaped.
EVIL = (
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '"onmouseover="alert(1)',
    "'><svg onload=alert(1)>",
    "{{ 7 * 7 }}</script>",
)

# Six values: two zeros, one below the floor, three that are resolved.
S = (2.0, 1.0, 0.5, 1e-9, 0.0, 0.0)


def finding(
    layer, *, grade="bit for bit", is_harmless=False, what="4 units, 1 distinct"
):
    return {
        "layer": layer,
        "what": what,
        "grade": grade,
        "holds_for": f"SGD of {layer}" if layer in EVIL else "SGD, Adam",
        "void_for": "noise",
        "remedy": "Draw it at random.",
        "is_harmless": is_harmless,
        "counts": not is_harmless,
    }


def certificate(*findings, names=("stem", "head")):
    """A certificate as plain data; its layers are locked if there is a finding."""
    found = [one for one in findings if not one["is_harmless"]]
    distinct, rank, grade = [6, 4], 4, None
    if found:
        distinct, rank, grade = [6, 1], 1, found[0]["grade"]
    layers = [
        {
            "name": name,
            "shape": [6, 4],
            "distinct": distinct,
            "never_moves": 0.0,
            "rank_bound": rank,
            "first_gradient": 1,
            "grade": grade,
            "is_product": True,
            "equal_to": [],
            "is_on_kinks": False,
        }
        for name in names
    ]
    return {
        "clear": not found,
        "mode": "training mode",
        "arithmetic": "float64",
        "num_draws": 3,
        "layers": layers,
        "findings": list(findings),
    }


def row(name, *, flags=(), q=0.5, gradient=0.25, distinct=(6, 1)):
    return LayerRow(
        layer=name,
        shape=(6, 4),
        q=q,
        chi=None,
        gradient=gradient,
        distinct=distinct,
        never_moves=0.25,
        flags=flags,
    )


def probe(name="stem"):
    rank = np.array([[[1], [3]], [[1], [3]], [[1], [3]]])
    return Probe(
        steps=np.array([1, 20]),
        layers=(name,),
        shapes=((6, 4),),
        gradient_rank=rank,
        tap_shapes=((6, 4),),
        tap_rank=rank,
        loss=np.array([[2.25, 0.5]] * 3),
        weights=(name, "head"),
        first_signal=np.array([[1, -1]] * 3),
        learning_rate=0.1,
        signals=None,
    )


def flag(name, state, **fields):
    fields = {"remedy": f"mend {name}", "source": "arXiv:1611.01232"} | fields
    return isometry.Flag(name, state, f"reason of {name}", **fields)


def report(*flags, **changes):
    """A report with something in every section; `changes` replace its fields."""
    flags = flags or (
        flag("zero_gradient", "raised", where=("stem",), threshold=0),
        flag("vanishing", "undecided"),
        flag("exploding", "clear"),
    )
    whole = isometry.Report(
        network="mlp([6, 4, 3])",
        flags={one.name: one for one in flags},
        spectra={"end_to_end": spectrum(np.broadcast_to(S, (5, 2, 6)))},
        probe=probe(),
        widths=None,
        setting={"seeds": 5, "inputs": 2, "thresholds": {"log_gain": 3.0}},
        provenance={"versions": {"jax": "0.10.0"}, "time": "2026-01-01T00:00:00+00:00"},
        law=theory.marchenko_pastur(0.5),
        rows=(row("stem", flags=("zero_gradient",)), row("head", q=None)),
        timings={"Jacobians": 1.5},
        certificates=(certificate(finding("stem")),) * 2,
    )
    return dataclasses.replace(whole, **changes)


def malicious():
    """Reports in which every text that may come from a user is markup."""
    networks = {}
    for text in EVIL:
        evil = isometry.Flag(
            text,
            "raised",
            text,
            remedy=text,
            interval=(0.0, 1.0),
            threshold=0.5,
            source=f"{text} arXiv:1611.01232",
            where=(text,) * 8,
        )
        networks[text] = report(
            evil,
            dataclasses.replace(evil, name=f"{text}!", state="undecided"),
            network=text,
            probe=probe(text),
            rows=(row(text, flags=(text,)),),
            law=None,
            no_law=text,
            setting={"seeds": 5, "inputs": 2, "span": (text, text), text: text},
            provenance={text: text, "command": [text]},
            certificates=(certificate(finding(text), names=(text,)),),
        )
    return isometry.Reports(networks, {text + "?": text for text in EVIL})


def quadrature():
    """A record of nodes that are not singular values."""
    nodes = np.log(np.array([[[[2.0, 0.5]]]], np.float32))
    weights = np.full_like(nodes, 0.5)
    rule = linalg.Quadrature(
        log_values=nodes,
        weights=weights,
        log_floor=np.full((1, 1), -14.0, np.float32),
        radau_log_values=nodes,
        radau_weights=weights,
        steps=np.full((1, 1), 2),
    )
    return isometry.Spectrum(
        nodes[:, :, 0],
        weights[:, :, 0],
        rule.log_floor,
        method=isometry.Lanczos(steps=2, probes=1),
        size=64,
        quadrature=rule,
    )


class Page(HTMLParser):
    """The elements, the attributes and the text of a page."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags = []
        self.attributes = []
        self.texts = []
        self.inside = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        self.texts.append((self.inside[-1] if self.inside else "", data))

    @property
    def words(self):
        """The text outside of style and script, with single spaces."""
        shown = [data for tag, data in self.texts if tag not in ("style", "script")]
        return " ".join(" ".join(shown).split())

    def inside_of(self, tag):
        return "".join(data for where, data in self.texts if where == tag)
