"""Report: what an audit found of one network."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isometry import store
from isometry._internal import checks, compilation, strict_json
from isometry._internal.errors import public
from isometry._internal.strict_json import Plain
from isometry.measure._known import known
from isometry.measure._record import Spectrum
from isometry.measure._statistics import STATISTICS
from isometry.theory import Law
from isometry.verdicts import _layers, _notebook, _table
from isometry.verdicts._flag import CLEAR, UNDECIDED, Flag, gravest
from isometry.verdicts._layers import LayerRow
from isometry.verdicts._probe import Probe
from isometry.verdicts._registry import registered


@dataclass(frozen=True, eq=False)
class Report:
    """An audit of one network.

    Attributes:
        network: The name or description of the network.
        flags: The flags by name, the gravest first.
        spectra: Spectra over (seeds, inputs), by the name of the Jacobian: "end_to_end"
            and, if there is one, "hidden". Empty where parameters or signals are not
            finite.
        probe: The record of the training probe, or None if none was run.
        widths: Ranks along training at hidden widths N, 2 N and 4 N, if
            rank_constrained_training is raised and a probe was run; else None.
        setting: The settings of the measurement: seeds, inputs, steps, thresholds, ...
        provenance: Versions, device, precision, command, commit.
        law: What theory predicts for the hidden span; None where `no_law` says why
            there is no prediction.
        no_law: Why there is no law, or "".
        rows: A row for each weight layer; see `Report.layers`.
        timings: How many seconds each part took, compilation included.
        certificates: What `Certificate.to_dict` says of each seed that was certified.

    Example:
        >>> net = networks.mlp([16] * 4, "tanh", "zeros")
        >>> keys = jax.random.split(jax.random.key(0), 5)
        >>> xs = data.gaussian(jax.random.key(1), 64, 16).xs
        >>> report = isometry.audit(net, keys, xs, train_steps=0, inputs=4)
        >>> report.flags["zero_gradient"].raised
        True
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
    rows: tuple[LayerRow, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    certificates: tuple[dict[str, Plain], ...] = ()

    @property
    def verdict(self) -> str:
        """The gravest state of all flags: "raised", "undecided" or "clear".

        Example:
            >>> flag = isometry.Flag("vanishing", "undecided", "too few seeds")
            >>> report = isometry.Report(
            ...     network="identity", flags={"vanishing": flag},
            ...     spectra={}, probe=None, widths=None, setting={}, provenance={})
            >>> report.verdict
            'undecided'
        """
        return gravest(flag.state for flag in self.flags.values())

    @property
    def reason(self) -> str:
        """The verdict in words: every raised flag, else every undecided one.

        Example:
            >>> flag = isometry.Flag("vanishing", "raised", "½ ln E s² = -4.1")
            >>> report = isometry.Report(
            ...     network="identity", flags={"vanishing": flag},
            ...     spectra={}, probe=None, widths=None, setting={}, provenance={})
            >>> report.reason
            'vanishing: ½ ln E s² = -4.1'
        """
        if self.verdict == CLEAR:
            return "no flag raised"
        chosen = [flag for flag in self.flags.values() if flag.state == self.verdict]
        return "; ".join(f"{flag.name}: {flag.reason}" for flag in chosen)

    def __repr__(self) -> str:
        return f"Report({self.network}: {self.verdict}; {self.reason})"

    def __str__(self) -> str:
        return _table.in_words(self)

    @property
    def score(self) -> tuple[int, int, int, float]:
        """What networks are ranked by, the smallest first.

        Four numbers: how many raised flags tell of what no training repairs; how many
        other flags are raised; how many are undecided; and √E(s − 1)² end to end, the
        distance from isometry, infinite where it is not known.

        Example:
            >>> sp = isometry.Spectrum.of_jacobians(np.eye(3)[None, None])
            >>> flag = isometry.Flag("vanishing", "raised", "½ ln E s² = -4.1")
            >>> report = isometry.Report(
            ...     network="identity", flags={"vanishing": flag},
            ...     spectra={"end_to_end": sp}, probe=None, widths=None,
            ...     setting={}, provenance={})
            >>> report.score
            (0, 1, 0, 0.0)
        """
        # The rank of a flag that is not registered any more is not known; it counts
        # among those that make training slow.
        rank = {one.name: one.rank for one in registered()}
        grave, slow, undecided = 0, 0, 0
        for flag in self.flags.values():
            if flag.state == UNDECIDED:
                undecided += 1
            elif flag.raised:
                is_grave = rank.get(flag.name, _table.SLOW) < _table.SLOW
                if is_grave and not flag.recovering:
                    grave += 1
                else:
                    slow += 1
        # A network without a spectrum, or with one that is not finite, is ranked behind
        # all others with as many flags. NaN would make any order of them a sorted one.
        deviation = math.inf
        if self.spectra:
            measured = self.statistics()["isometry_deviation"]
            if math.isfinite(measured):
                deviation = measured
        return grave, slow, undecided, deviation

    @public("Report.statistics")
    def statistics(self, span: str = "end_to_end") -> dict[str, Any]:
        """Return medians over seeds × inputs of the statistics of a spectrum.

        s_min and s_median are 0 where they are zero or unresolved: nothing below the
        floor is reported as a value.

        Args:
            span: The name of a spectrum in `spectra`.

        Returns:
            The statistics by name, and the standard error of E s² over seeds.

        Raises:
            InputError: There is no spectrum of this name.

        Example:
            >>> net = networks.mlp([16] * 4, "tanh", "orthogonal")
            >>> keys = jax.random.split(jax.random.key(0), 5)
            >>> xs = data.gaussian(jax.random.key(1), 64, 16).xs
            >>> report = isometry.audit(net, keys, xs, train_steps=0, inputs=4)
            >>> round(report.statistics()["s_max"], 2)
            0.9
        """
        # Medians, because a mean over log-normal values belongs to rare draws.
        sp = self.spectra[checks.one_of("span", span, self.spectra)]
        statistics = {
            name: np.asarray(value) for name, value in _statistics(sp).items()
        }
        medians = {name: float(np.median(value)) for name, value in statistics.items()}
        error = None
        # One seed has no standard error.
        if sp.log_values.shape[0] > 1:
            error = float(sp.standard_error(lambda s: s.moment(1)))
        return {
            **medians,
            "mean_s2_standard_error": error,
            "zero_fraction": float(statistics["zero_fraction"].mean()),
            "exact_zero_fraction": float(statistics["exact_zero_fraction"].mean()),
            "size": sp.size,
            "structural_zeros": sp.structural_zeros,
            "log_floor": float(np.max(sp.log_floor)),
        }

    def layers(self) -> str:
        """Return a table with a row for each weight layer.

        The columns are the name and the shape of the weight; q, the mean square of the
        pre-activations; chi, the growth of a squared derivative from the layer before;
        the norm of the loss gradient of the weight; how many of its slices can ever
        differ; the share of its entries that never move; and the raised flags that name
        the layer. Numbers are medians over seeds and inputs. A cell is empty where
        nothing is known, or nothing is wrong.

        Returns:
            The table as text.

        Example:
            >>> net = networks.mlp([16] * 4, "tanh", "zeros")
            >>> keys = jax.random.split(jax.random.key(0), 5)
            >>> xs = data.gaussian(jax.random.key(1), 64, 16).xs
            >>> report = isometry.audit(net, keys, xs, train_steps=0, inputs=4)
            >>> print(report.layers().splitlines()[0].split())
            ['layer', 'shape', 'q', 'chi', 'gradient', 'distinct', 'never', 'flags']
        """
        return _layers.table(self.rows)

    def table(self, width: int = 80) -> str:
        """Return a table of one row.

        Args:
            width: The number of columns.

        Returns:
            The table as text.

        Raises:
            MissingExtra: rich is not installed.

        Example:
            >>> sp = isometry.Spectrum.of_jacobians(np.eye(3)[None, None])
            >>> flag = isometry.Flag("vanishing", "clear", "½ ln E s² = 0")
            >>> report = isometry.Report(
            ...     network="identity", flags={"vanishing": flag},
            ...     spectra={"end_to_end": sp}, probe=None, widths=None,
            ...     setting={}, provenance={})
            >>> "no flag raised" in report.table(width=140)
            True
        """
        # Imported here, because that module imports this one.
        from isometry.verdicts._reports import Reports

        return Reports({"network": self}).table(width)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: everything that `to_json` writes.

        Returns:
            Numbers, strings, arrays, and mappings of them.

        Example:
            >>> sp = isometry.Spectrum.of_jacobians(np.eye(3)[None, None])
            >>> flag = isometry.Flag("vanishing", "clear", "½ ln E s² = 0")
            >>> report = isometry.Report(
            ...     network="identity", flags={"vanishing": flag},
            ...     spectra={"end_to_end": sp}, probe=None, widths=None,
            ...     setting={}, provenance={})
            >>> report.as_dict()["verdict"]
            'clear'
        """
        # Quantiles of every spectrum, and all singular values of the one end to end.
        spectra = {span: self._spectrum_as_dict(span) for span in self.spectra}
        if spectra:
            sp = self.spectra["end_to_end"]
            spectra["end_to_end"]["log_s"] = _resolved_logs(sp)
        return {
            "network": self.network,
            "verdict": self.verdict,
            "reason": self.reason,
            "flags": {name: flag.as_dict() for name, flag in self.flags.items()},
            "spectra": spectra,
            "layers": [row.as_dict() for row in self.rows],
            "certificates": self.certificates,
            "law": self._law_as_dict(),
            "probe": None if self.probe is None else self.probe.as_dict(),
            "width_independence": self.widths,
            "setting": self.setting,
            "timings": self.timings,
            "provenance": self.provenance,
        }

    def _spectrum_as_dict(self, span: str) -> dict[str, Any]:
        """Return a spectrum as plain data."""
        sp = self.spectra[span]
        # Quantiles over the singular values of all seeds and inputs together.
        levels = np.linspace(0, 1, 101)
        quantiles = np.quantile(_resolved_logs(sp), levels, method="inverted_cdf")
        return {
            "statistics": self._known_statistics(span),
            "log_s_quantiles": quantiles,
            "pairs": sp.pairs,
            "method": str(sp.method),
        }

    def _known_statistics(self, span: str) -> dict[str, Any]:
        """Return the statistics; None, with a reason, for what is not known."""
        statistics = self.statistics(span)
        unknown = [
            name
            for name, value in statistics.items()
            if isinstance(value, float) and math.isnan(value)
        ]
        if not unknown:
            return statistics
        records = known(self.spectra[span])
        # A standard error is unknown for the reason of its statistic.
        reasons = {
            name: records[name.removesuffix("_standard_error")].why for name in unknown
        }
        return statistics | dict.fromkeys(unknown) | {"why_unknown": reasons}

    def _law_as_dict(self) -> dict[str, Any]:
        """Return the law as plain data."""
        if self.law is None:
            return {"name": None, "reason": self.no_law}
        return {
            "name": self.law.name,
            "support": self.law.support,
            "atoms": [{"lam": atom.lam, "mass": atom.mass} for atom in self.law.atoms],
            "s_max": self.law.s_max,
        }

    def to_json(self) -> str:
        """Return strict JSON text; infinities are the strings "inf" and "-inf".

        Returns:
            The text.

        Example:
            >>> sp = isometry.Spectrum.of_jacobians(np.eye(3)[None, None])
            >>> flag = isometry.Flag("vanishing", "clear", "½ ln E s² = 0")
            >>> report = isometry.Report(
            ...     network="identity", flags={"vanishing": flag},
            ...     spectra={"end_to_end": sp}, probe=None, widths=None,
            ...     setting={}, provenance={})
            >>> '"verdict": "clear"' in report.to_json()
            True
        """
        return strict_json.dumps(self.as_dict())

    @public("Report.to_html")
    def to_html(self, path: store.Path) -> None:
        """Write a page for a browser: verdict, spectra, layers, certificates, training.

        The page is one file that asks for no other and needs no network. All names are
        escaped. The same report gives the same page.

        Args:
            path: Where the file goes, in a folder that exists: "report.html".

        Returns:
            None.

        Raises:
            InputError: The folder does not exist, or the file cannot be written.
            MissingExtra: jinja2 is not installed.

        Example:
            >>> sp = isometry.Spectrum.of_jacobians(np.eye(3)[None, None])
            >>> flag = isometry.Flag("vanishing", "clear", "½ ln E s² = 0")
            >>> report = isometry.Report(
            ...     network="identity", flags={"vanishing": flag},
            ...     spectra={"end_to_end": sp}, probe=None, widths=None,
            ...     setting={}, provenance={})
            >>> report.to_html("report.html")
        """
        # Imported here, because that module imports this one.
        from isometry.verdicts._reports import Reports

        Reports({"network": self}).to_html(path)

    def _repr_html_(self) -> str:
        return _notebook.of_report(self)


@compilation.jit
def _statistics(sp: Spectrum) -> dict[str, Any]:
    return {name: statistic(sp) for name, statistic in STATISTICS.items()}


def _resolved_logs(sp: Spectrum) -> np.ndarray:
    """Return ln s, with −inf for values that are too small to be resolved."""
    return np.where(sp.resolved, sp.log_values, -np.inf)
