"""What an audit found: one network's report, and many side by side."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from isometry import _checks
from isometry._internal import compilation, strict_json
from isometry.degeneracy._flag import CLEAR, FLAGS, RAISED, UNDECIDED, Flag
from isometry.degeneracy._probe import Probe
from isometry.measure._statistics import STATISTICS
from isometry.measure._record import Spectrum
from isometry.theory import Law

_LEGEND = (
    "Singular values s end to end, medians over seeds and inputs; deviation: √E(s − 1)²; eff. rank: exp of the entropy "
    "of s/Σs; zeros: share, on the mean, that is zero or below the floor."
)
_FULL_WIDTH = 120  # columns of a terminal from which on the verdict fits beside the numbers
_COLUMNS = ("scheme", "σ_min", "median", "σ_max", "mean s²", "deviation", "eff. rank", "zeros", "verdict")


@dataclass(frozen=True, eq=False)
class Report:
    """An audit of one network.

    - `network`: its name; `flags`: name → `Flag`; `spectra`: span → `Spectrum` over (seeds, inputs), empty
      where parameters or signals are not finite; `probe`: ranks along training, or None.
    - `law`: what theory predicts for the hidden span, None where `no_law` says why there is no prediction.
    - `widths`: where rank_constrained_training is raised, the same scheme at hidden widths N_x, 2 N_x, 4 N_x.
    - `setting`: how it was measured; `provenance`: versions, device, precision, command, commit.
    """

    network: str
    flags: dict[str, Flag]
    spectra: dict[str, Spectrum]
    probe: Probe | None
    widths: dict[str, Any] | None
    setting: dict[str, Any]
    provenance: dict[str, Any]
    law: Law | None = None
    no_law: str = ""

    @property
    def verdict(self) -> str:
        """ "raised" if any flag is, else "undecided" if any flag is, else "clear"."""
        states = {flag.state for flag in self.flags.values()}
        return next((s for s in (RAISED, UNDECIDED) if s in states), CLEAR)

    @property
    def reason(self) -> str:
        """The verdict in words: every raised flag, else every undecided one, with its reason."""
        chosen = [f for f in self.flags.values() if f.state == self.verdict]
        return "no flag raised" if self.verdict == CLEAR else "; ".join(f"{f.name}: {f.reason}" for f in chosen)

    def __repr__(self) -> str:
        return f"Report({self.network}: {self.verdict}; {self.reason})"

    def statistics(self, span: str = "end_to_end") -> dict[str, Any]:
        """Medians over seeds × inputs of the statistics of a `span`, and the standard error of E s² over seeds.

        s_min and s_median are 0 where they are zero or unresolved: nothing below the floor is reported as a value.
        """
        sp = self.spectra[span]
        found = {name: np.asarray(value) for name, value in _statistics(sp).items()}
        error = float(sp.standard_error(lambda s: s.moment(1))) if sp.log_values.shape[0] > 1 else None
        return {
            **{name: float(np.median(value)) for name, value in found.items()},
            "mean_s2_standard_error": error,
            "zero_fraction": float(found["zero_fraction"].mean()),
            "exact_zero_fraction": float(found["exact_zero_fraction"].mean()),
            "size": sp.size,
            "structural_zeros": sp.structural_zeros,
            "log_floor": float(np.max(sp.log_floor)),
        }

    def table(self, width: int = 120) -> str:
        """A one-row table as text of `width` columns (needs rich)."""
        return as_text(Reports({"network": self}), width)

    def as_dict(self) -> dict[str, Any]:
        """Plain data: everything `to_json` writes."""
        spectra = {}
        for span, sp in self.spectra.items():
            spectra[span] = {
                "statistics": self.statistics(span),
                "log_s_quantiles": _pooled_quantiles(sp),
                "pairs": sp.pairs,
                "method": str(sp.method),
            }
        if spectra:
            spectra["end_to_end"]["log_s"] = _resolved_logs(self.spectra["end_to_end"])
        return {
            "network": self.network,
            "verdict": self.verdict,
            "reason": self.reason,
            "flags": {name: flag.as_dict() for name, flag in self.flags.items()},
            "spectra": spectra,
            "law": self._law_as_dict(),
            "probe": None if self.probe is None else self.probe.as_dict(),
            "width_independence": self.widths,
            "setting": self.setting,
            "provenance": self.provenance,
        }

    def _law_as_dict(self) -> dict[str, Any]:
        if self.law is None:
            return {"name": None, "reason": self.no_law}
        atoms = [{"lam": a.lam, "mass": a.mass} for a in self.law.atoms]
        return {"name": self.law.name, "support": self.law.support, "atoms": atoms, "s_max": self.law.s_max}

    def to_json(self) -> str:
        """Strict JSON text; infinities are the strings "inf" and "-inf"."""
        return strict_json.dumps(self.as_dict())


@dataclass(frozen=True, eq=False)
class Reports(Mapping[str, Report]):
    """Reports by name: `reports["zer_o"].flags`. What could not be built is in `undefined`, with the reason."""

    reports: dict[str, Report]
    undefined: dict[str, str] = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self):
        object.__setattr__(self, "undefined", dict(self.undefined or {}))

    def __getitem__(self, name: str) -> Report:
        return self.reports[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.reports)

    def __len__(self) -> int:
        return len(self.reports)

    def __repr__(self) -> str:
        return f"Reports({', '.join(f'{name}: {report.verdict}' for name, report in self.items())})"

    @property
    def verdict(self) -> str:
        """The most serious verdict."""
        verdicts = {r.verdict for r in self.reports.values()}
        return next((s for s in (RAISED, UNDECIDED) if s in verdicts), CLEAR)

    def raised(self, flag: str) -> list[str]:
        """Names of the networks that raise `flag`.

        **Raises** `ValueError`: no such flag.
        """
        known = next(iter(self.reports.values())).flags if self.reports else {}
        _checks.one_of("Reports.raised", among=known, flag=flag)
        return [name for name, report in self.reports.items() if report.flags[flag].raised]

    def table(self, width: int = 120) -> str:
        """A row a network, as text of `width` columns (needs rich)."""
        return as_text(self, width)

    def as_dict(self) -> dict[str, Any]:
        """Plain data: everything `to_json` writes."""
        return {"reports": {n: r.as_dict() for n, r in self.reports.items()}, "undefined": self.undefined}

    def to_json(self) -> str:
        """Strict JSON text; infinities are the strings "inf" and "-inf"."""
        return strict_json.dumps(self.as_dict())


@compilation.jit
def _statistics(sp: Spectrum) -> dict[str, Any]:
    return {name: statistic(sp) for name, statistic in STATISTICS.items()}


def _resolved_logs(sp: Spectrum) -> np.ndarray:
    """ln s; −inf for what is too small for the precision, which counts as zero everywhere."""
    return np.where(sp.resolved, sp.log_values, -np.inf)


def _pooled_quantiles(sp: Spectrum) -> Any:
    """0 %, 1 % … 100 % of ln s over all matrices; all weigh the same, and so do their nodes."""
    return np.quantile(_resolved_logs(sp), np.linspace(0, 1, 101), method="inverted_cdf")


def rich_table(reports: Reports, width: int = 120) -> Any:
    """A rich table of `reports`, a row a network; below it what the numbers are, and of every flag that is raised
    what to do and whose line.

    At a `width` of the terminal below 120 the numbers stand in one cell with the verdict, each after its name.

    **Raises** `MissingExtra`: rich is not installed.
    """
    rich = _checks.extra("Report.table", "rich.table", "cli")
    text = _checks.extra("Report.table", "rich.text", "cli").Text  # a name may hold brackets, which are no markup
    full = width >= _FULL_WIDTH
    advice = text("\n".join(_advice(reports)), style="default")
    table = rich.Table(pad_edge=False, caption=advice or None, caption_justify="left", show_lines=not full)
    for name in _COLUMNS if full else (_COLUMNS[0], _COLUMNS[-1]):
        if name in ("scheme", "verdict"):
            table.add_column(name, overflow="fold", no_wrap=full and name == "scheme", ratio=int(name == "verdict"))
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for name, report in reports.items():
        numbers = _numbers(report.statistics()) if report.spectra else ["–"] * (len(_COLUMNS) - 2)
        colour = {RAISED: "red", UNDECIDED: "yellow", CLEAR: "green"}[report.verdict]
        verdict = text.assemble((report.verdict, colour), f": {report.reason}")
        named = ", ".join(f"{column} {number}" for column, number in zip(_COLUMNS[1:-1], numbers, strict=True))
        table.add_row(text(name), *([*numbers, verdict] if full else [text.assemble(named, "\n", verdict)]))
    for name, why in reports.undefined.items():
        table.add_row(text(name), *["–"] * (len(_COLUMNS) - 2) * full, text(f"not defined: {why}"))
    return table


def _advice(reports: Reports) -> list[str]:
    """What the numbers are; then a line a flag that is raised anywhere, the gravest first."""
    raised = [flag for report in reports.values() for flag in report.flags.values() if flag.raised]
    lines = {(f.name, f.remedy): f"{f.name}: {f.remedy}. Judged by: {f.source}." for f in raised}
    legend = [_LEGEND] if any(report.spectra for report in reports.values()) else []
    return legend + [lines[key] for key in sorted(lines, key=lambda key: (FLAGS.index(key[0]), key[1]))]


def _numbers(s: dict[str, Any]) -> list[str]:
    """The table's columns of numbers."""
    small = "0" if s["exact_zero_fraction"] else f"<{np.exp(s['log_floor']) * s['s_max']:.1e}"
    return [
        f"{s['s_min']:.3g}" if s["s_min"] else small,
        f"{s['s_median']:.3g}" if s["s_median"] else small,
        f"{s['s_max']:.3g}",
        f"{s['mean_s2']:.3g}",
        f"{s['isometry_deviation']:.3g}",
        f"{s['effective_rank']:.2f}/{s['size']}",
        f"{100 * s['zero_fraction']:.3g} %",
    ]


def as_text(reports: Reports, width: int) -> str:
    """The table as plain text of `width` columns."""
    console = _checks.extra("Report.table", "rich.console", "cli").Console
    buffer = io.StringIO()
    console(file=buffer, width=width, no_color=True).print(rich_table(reports, width))
    return buffer.getvalue()
