"""Certificate: what `certify` found, as rows, findings and a table."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from isometry._internal import texts
from isometry._internal.errors import public
from isometry._internal.numerals import percent
from isometry._internal.strict_json import Plain, plain
from isometry.certificates._findings import Finding
from isometry.certificates._layers import EVIDENCE, LayerLock, full_rank
from isometry.certificates._observing import Units

# The width and height of a terminal, in which a certificate should fit.
_COLUMNS, _LINES = 80, 24

# The most findings with one remedy that a repr lists one by one.
_LISTED = 4

# A repr names at most this many of the layers whose findings hold for one and the same
# kind of optimizer.
_MOST_NAMES = 3

# Characters of a name in the table; longer ones lose their middle.
_NAME_LENGTH = 24

# A repr says nothing of the arithmetic if it is this.
_USUAL = "float64"

# The grade in the table if `is_on_kinks`, instead of "in exact arithmetic".
_ON_KINKS = "exact, but on kinks"

_HEADINGS = ("layer", "shape", "distinct", "never", "rank", "step", "grade")


@dataclass(frozen=True, eq=False)
class Certificate:
    """What no training undoes, whatever the data, the loss and the learning rate.

    Attributes:
        layers: A row for each weight layer of the anatomy, in order; each slice of a
            stacked leaf has its own. Biases and scales of norms have none.
        findings: What was found, the gravest first. Harmless findings come last.
        mode: The mode of f that was certified: "training mode", for example.
        arithmetic: The precision in which f computed: "float64", or "float32" and why.
        num_draws: The number of inputs at which gradients were drawn.

    Example:
        >>> net = networks.mlp([3, 4, 2], "tanh", jax.nn.initializers.ones)
        >>> cert = isometry.certify(net, net.init(jax.random.key(0)))
        >>> cert.clear, cert.layers[1].distinct
        (False, (1, 2))
    """

    layers: tuple[LayerLock, ...]
    findings: tuple[Finding, ...]
    mode: str
    arithmetic: str
    num_draws: int
    _observe: Callable[[str], Units] = field(repr=False)

    @property
    def clear(self) -> bool:
        """Whether nothing was found on a row of `layers` that counts.

        What counts is a lock, of any grade; most units of a layer off at every input
        that was drawn; and a weight without any gradient at these inputs. If fewer
        units were off, that is evidence, but does not count, because on few inputs it
        happens by chance to healthy networks: the certificate is clear, and its first
        line names the evidence. What is harmless does not count either. See
        `Finding.counts`.

        Example:
            >>> net = networks.mlp([3, 4, 2], "tanh", "orthogonal")
            >>> isometry.certify(net, net.init(jax.random.key(0))).clear
            True
        """
        return not any(finding.counts for finding in self.findings)

    @public("units")
    def units(self, point: str) -> Units:
        """Tell which values at a point stay equal, up to sign, for ever.

        Args:
            point: A point of the anatomy: "layers/0:out".

        Returns:
            The class and sign of each value, position by position. Printed, it counts
            units: of a convolution the channels, each with all its positions.

        Raises:
            InputError: There is no such point.

        Example:
            >>> net = networks.mlp([3, 4, 2], "tanh", jax.nn.initializers.ones)
            >>> cert = isometry.certify(net, net.init(jax.random.key(0)))
            >>> cert.units("layers/0:out")
            Units('layers/0:out': 4 values, 1 distinct)
        """
        return self._observe(point)

    def table(self) -> str:
        """Return a table with a row for each weight.

        Returns:
            The table as text. Its columns are the name and shape of the weight, how
            many slices can ever differ, the share of entries that never move, a bound
            on the rank of the update, the first step with a gradient, and the grade.

        Example:
            >>> net = networks.mlp([3, 4, 2], "tanh", jax.nn.initializers.ones)
            >>> cert = isometry.certify(net, net.init(jax.random.key(0)))
            >>> print(cert.table())
            layer     shape  distinct  never  rank  step  grade
            layers/0  3×4    3×1              1/3   1     in exact arithmetic
            layers/1  4×2    1×2              1/2   1     in exact arithmetic
        """
        rows = [_HEADINGS, *(_cells(layer) for layer in self.layers)]
        return "\n".join(texts.aligned(rows))

    def to_dict(self) -> dict[str, Plain]:
        """Return the certificate as plain data for strict JSON.

        Returns:
            A dict with the keys "clear", "mode", "arithmetic", "num_draws", "layers"
            (the rows) and "findings".

        Example:
            >>> net = networks.mlp([3, 4, 2], "tanh")
            >>> cert = isometry.certify(net, net.init(jax.random.key(0)))
            >>> cert.to_dict()["clear"]
            True
        """
        return {
            "clear": self.clear,
            "mode": self.mode,
            "arithmetic": self.arithmetic,
            "num_draws": self.num_draws,
            "layers": [plain(asdict(layer)) for layer in self.layers],
            "findings": [plain(asdict(finding)) for finding in self.findings],
        }

    def __repr__(self) -> str:
        grave = [finding for finding in self.findings if not finding.is_harmless]
        harmless = [finding for finding in self.findings if finding.is_harmless]
        lines = self._heading(grave)
        endings = []
        if harmless:
            endings = _wrapped("harmless: " + _summary(harmless), "  ")[:2]
        # Groups of findings are shown, the gravest first, as far as they fit.
        shown: list[Finding] = []
        for group in _groups(grave):
            written = _written(group)
            optimizers = _optimizers([*shown, *group])
            num_lines = len(lines) + len(written) + len(optimizers) + len(endings)
            # The first group is shown however long it is; a last line says how many
            # findings are left out.
            if shown and num_lines >= _LINES:
                continue
            lines += written
            shown += group
        lines += _optimizers(shown)
        num_left = len(grave) - len(shown)
        if num_left:
            lines.append(f"… {num_left} more in cert.findings; rows in cert.table()")
        return "\n".join([*lines, *endings])

    def _heading(self, grave: Sequence[Finding]) -> list[str]:
        """Return the verdict, in lines, with the arithmetic if it is not float64.

        Args:
            grave: The findings that are not harmless, the gravest first.
        """
        bound = [layer for layer in self.layers if _is_bound(layer)]
        num_layers = len(self.layers)
        verdict = f"{len(bound)} of {num_layers} weights locked"
        if not grave:
            verdict = f"clear, nothing locks any of {num_layers} weights"
        elif all(finding.grade == EVIDENCE for finding in grave):
            names = {name for one in grave for name in one.layer.split(", ")}
            verdict = f"evidence for {len(names)} of {num_layers} weights"
            if self.clear:
                verdict = f"clear, but {verdict}"
            # What it is, without the draws on which it rests; they follow below.
            what, _, _ = str(grave[0]).partition(" (")
            verdict += f" ({what})"
        lines = _wrapped(f"Certificate ({self.mode}): {verdict}", "")
        if self.arithmetic != _USUAL:
            lines += _wrapped(f"computed in {self.arithmetic}", "  ")
        return lines


def _is_bound(layer: LayerLock) -> bool:
    """Tell whether a weight is locked, or stays equal to another one."""
    return layer.is_locked or bool(layer.grade) or bool(layer.equal_to)


def _groups(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Collect findings that share their grade and remedy."""
    by_text: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        same = (finding.grade, finding.remedy)
        by_text.setdefault(same, []).append(finding)
    return list(by_text.values())


def _written(group: Sequence[Finding]) -> list[str]:
    """Return the lines of findings that share their grade and remedy."""
    lines = []
    for finding in group[:_LISTED]:
        lines += _wrapped(str(finding), "  ")
    if len(group) > _LISTED:
        lines.append(f"… and {len(group) - _LISTED} more like these")
    first = group[0]
    return [*lines, *_wrapped(f"  {first.grade}. {first.remedy}", "  ")]


def _optimizers(findings: Sequence[Finding]) -> list[str]:
    """Return the lines that say for which optimizers findings hold, each text once."""
    lines = []
    longest: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    for one in findings:
        # Findings that hold for the same optimizers share one text of what breaks
        # them: the longest, which includes the others.
        known = longest.get(one.holds_for, "")
        longest[one.holds_for] = max(known, one.void_for, key=len)
        names.setdefault(one.holds_for, []).extend(one.layer.split(", "))
    for holds_for, void_for in longest.items():
        whose = ""
        # If there are several texts, each begins with the layers that it is about.
        if len(longest) > 1:
            whose = f"{_listed(names[holds_for])}: "
        lines += _wrapped(f"{whose}holds for {holds_for}", "  ")
        lines += _wrapped(f"not with {void_for}", "  ")
    return lines


def _listed(names: Sequence[str]) -> str:
    """Return names in words, of many only the first ones: "a, b, c and 4 more"."""
    unique = list(dict.fromkeys(names))
    shown = ", ".join(unique[:_MOST_NAMES])
    num_left = len(unique) - _MOST_NAMES
    return f"{shown} and {num_left} more" if num_left > 0 else shown


def _wrapped(
    text: str,
    indent: str,
) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, subsequent_indent=indent)


def _summary(harmless: Sequence[Finding]) -> str:
    """Return harmless findings in one line: "a/bias: never moves; 3 more alike"."""
    texts = [str(finding) for finding in harmless[:2]]
    if len(harmless) > 2:
        texts.append(f"{len(harmless) - 2} more alike")
    return "; ".join(texts)


def _cells(layer: LayerLock) -> tuple[str, ...]:
    """Return the cells of a row; "never" is empty where all entries can move."""
    # A long name loses its middle, because its end says most: "…/query".
    name = layer.name
    if len(name) > _NAME_LENGTH:
        half = _NAME_LENGTH // 2
        name = f"{name[: half - 1]}…{name[-half:]}"
    never = percent(layer.never_moves) if layer.never_moves else ""
    step = "never" if layer.first_gradient is None else str(layer.first_gradient)
    return (
        name,
        "×".join(map(str, layer.shape)),
        _distinct(layer),
        never,
        f"{layer.rank_bound}/{full_rank(layer.shape)}",
        step,
        _ON_KINKS if layer.is_on_kinks else layer.grade or "",
    )


def _distinct(layer: LayerLock) -> str:
    """Return how many slices can differ: "3×1"; or "as 2 others" of equal weights."""
    if layer.is_locked:
        return "×".join(map(str, layer.distinct))
    num_others = len(layer.equal_to)
    if num_others:
        return f"as {num_others} other" + "s" * (num_others > 1)
    return "all"
