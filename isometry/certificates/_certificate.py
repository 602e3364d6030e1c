"""Certificate: what `certify` found, as rows, findings and a table."""

import itertools
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from isometry._internal.errors import public
from isometry._internal.strict_json import Plain, plain
from isometry.certificates._findings import Finding
from isometry.certificates._layers import LayerLock, full_rank
from isometry.certificates._observing import Units

# A screen: of a table that is wider, terminals break the lines.
_COLUMNS, _LINES = 80, 24

# Names of layers that share a remedy and are listed one by one in a repr.
_LISTED = 4

# Characters of a name in the table; longer ones lose their middle.
_NAME = 28

_HEADINGS = ("layer", "shape", "distinct", "never", "rank", "from step", "grade")


@dataclass(frozen=True, eq=False)
class Certificate:
    """What no training undoes, whatever the data, the loss and the learning rate.

    Attributes:
        layers: A row for each weight layer of the anatomy, in order; each slice of a
            stacked leaf has its own. Biases and scales of norms have none.
        findings: What was found, the gravest first. Harmless findings come last.
        mode: Of what f it speaks: "training mode", for example.
        num_draws: The number of inputs at which gradients were drawn.

    Example:
        >>> net = networks.mlp([3, 4, 2], "tanh", "constant")
        >>> cert = certificates.certify(net, net.init(jax.random.key(0)))
        >>> cert.clear, cert.layers[1].distinct
        (False, (1, 2))
    """

    layers: tuple[LayerLock, ...]
    findings: tuple[Finding, ...]
    mode: str
    num_draws: int
    _observe: Callable[[str], Units] = field(repr=False)

    @property
    def clear(self) -> bool:
        """Whether nothing was found that hinders training."""
        return all(finding.is_harmless for finding in self.findings)

    @public("units")
    def units(self, point: str) -> Units:
        """Tell which values at a point stay equal, up to sign, for ever.

        Args:
            point: A point of the anatomy: "layers/0:out".

        Returns:
            The class and sign of each value.

        Raises:
            InputError: There is no such point.

        Example:
            >>> net = networks.mlp([3, 4, 2], "tanh", "constant")
            >>> cert = certificates.certify(net, net.init(jax.random.key(0)))
            >>> cert.units("layers/0:out")
            Units('layers/0:out': 4 values, 1 distinct)
        """
        return self._observe(point)

    def table(self) -> str:
        """Draw a table with a row for each weight.

        Returns:
            The table: which slices of each weight can ever differ, the share of entries
            that never move, the bound of the rank of the update, the first step with a
            gradient, and the grade.

        Example:
            >>> net = networks.mlp([3, 4, 2], "tanh", "constant")
            >>> cert = certificates.certify(net, net.init(jax.random.key(0)))
            >>> print(cert.table())
            layer     shape  distinct  never  rank    from step  grade
            layers/0  3×4    3×1              1 of 3  1          in exact arithmetic
            layers/1  4×2    1×2              1 of 2  1          in exact arithmetic
        """
        rows = [_HEADINGS, *(_cells(layer) for layer in self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = zip(row, widths, strict=True)
            lines.append("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Plain]:
        """Return the certificate in terms of strict JSON.

        Returns:
            Rows, findings and mode.

        Example:
            >>> net = networks.mlp([3, 4, 2], "tanh")
            >>> cert = certificates.certify(net, net.init(jax.random.key(0)))
            >>> cert.to_dict()["clear"]
            True
        """
        return {
            "clear": self.clear,
            "mode": self.mode,
            "num_draws": self.num_draws,
            "layers": [plain(asdict(layer)) for layer in self.layers],
            "findings": [plain(asdict(finding)) for finding in self.findings],
        }

    def __repr__(self) -> str:
        grave = [finding for finding in self.findings if not finding.is_harmless]
        harmless = [finding for finding in self.findings if finding.is_harmless]
        lines = [self._heading(grave)]
        num_left = 0
        for group in _groups(grave):
            written = _written(group)
            # Two lines are kept for what is harmless and what is left out.
            if len(lines) + len(written) > _LINES - 3:
                num_left += len(group)
                continue
            lines += written
        if harmless:
            lines += _wrapped("harmless: " + _summary(harmless), "  ")[:2]
        if num_left:
            lines.append(f"{num_left} more in cert.findings; rows in cert.table()")
        return "\n".join(lines)

    def _heading(self, grave: Sequence[Finding]) -> str:
        num_locked = sum(layer.is_locked for layer in self.layers)
        text = f"Certificate ({self.mode}): "
        if not grave:
            return text + f"clear, all {len(self.layers)} weights can train fully"
        return text + f"{num_locked} of {len(self.layers)} weights locked"


def _groups(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Collect findings that share their grade, remedy and optimizers."""
    by_text: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        same = (finding.grade, finding.remedy, finding.holds_for, finding.void_for)
        by_text.setdefault(same, []).append(finding)
    return list(by_text.values())


def _written(group: Sequence[Finding]) -> list[str]:
    """Write findings that share what to do."""
    lines = list(
        itertools.chain(*(_wrapped(str(one), "  ") for one in group[:_LISTED]))
    )
    if len(group) > _LISTED:
        lines.append(f"… and {len(group) - _LISTED} weights more alike")
    first = group[0]
    lines += _wrapped(f"  {first.grade}; {first.remedy}", "  ")
    lines += _wrapped(f"  holds for {first.holds_for}", "    ")
    lines += _wrapped(f"  not with {first.void_for}", "    ")
    return lines


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, subsequent_indent=indent)


def _summary(harmless: Sequence[Finding]) -> str:
    """Write harmless findings in a line: "a/bias never moves; 3 start later"."""
    texts = [str(finding) for finding in harmless[:2]]
    if len(harmless) > 2:
        texts.append(f"{len(harmless) - 2} more alike")
    return "; ".join(texts)


def _cells(layer: LayerLock) -> tuple[str, ...]:
    """Write a row of the table; what is as it should be stays empty."""
    name = layer.name
    if len(name) > _NAME:
        half = _NAME // 2
        name = f"{name[: half - 1]}…{name[-half:]}"
    never = f"{layer.never_moves:.0%}" if layer.never_moves else ""
    step = "never" if layer.first_gradient is None else str(layer.first_gradient)
    return (
        name,
        "×".join(map(str, layer.shape)),
        "×".join(map(str, layer.distinct)) if layer.is_locked else "all",
        never,
        f"{layer.rank_bound} of {full_rank(layer.shape)}",
        step,
        layer.grade or "",
    )
