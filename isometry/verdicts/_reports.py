"""Reports: what an audit found of many networks, side by side and ranked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from isometry import store
from isometry._internal import checks, strict_json
from isometry._internal.errors import public
from isometry.verdicts import _notebook, _table
from isometry.verdicts._flag import gravest
from isometry.verdicts._report import Report


@dataclass(frozen=True, eq=False)
class Reports(Mapping[str, Report]):
    """Reports by name: `reports["zer_o"].flags`.

    Attributes:
        reports: The reports by name.
        undefined: The names of networks that could not be built, with the reasons.

    Example:
        >>> net = networks.mlp([16] * 4, "tanh")
        >>> keys = jax.random.split(jax.random.key(0), 5)
        >>> xs = data.gaussian(jax.random.key(1), 64, 16).xs
        >>> nets = net.with_schemes(["zeros", "orthogonal"])
        >>> reports = isometry.audit(nets, keys, xs, train_steps=0, inputs=4)
        >>> reports.ranking()
        ['orthogonal', 'zeros']
    """

    reports: dict[str, Report]
    undefined: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Report:
        return self.reports[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.reports)

    def __len__(self) -> int:
        return len(self.reports)

    def __repr__(self) -> str:
        verdicts = [f"{name}: {report.verdict}" for name, report in self.items()]
        return f"Reports({', '.join(verdicts)})"

    @property
    def verdict(self) -> str:
        """The gravest verdict of all reports.

        Example:
            >>> flag = isometry.Flag("vanishing", "raised", "½ ln E s² = -4.1")
            >>> report = isometry.Report(
            ...     network="identity", flags={"vanishing": flag},
            ...     spectra={}, probe=None, widths=None, setting={}, provenance={})
            >>> isometry.Reports({"identity": report}).verdict
            'raised'
        """
        return gravest(report.verdict for report in self.reports.values())

    def ranking(self) -> list[str]:
        """Return the names, the best first, by `Report.score`.

        Returns:
            The names.

        Example:
            >>> sp = isometry.Spectrum.of_jacobians(np.eye(3)[None, None])
            >>> flag = isometry.Flag("vanishing", "clear", "½ ln E s² = 0")
            >>> report = isometry.Report(
            ...     network="identity", flags={"vanishing": flag},
            ...     spectra={"end_to_end": sp}, probe=None, widths=None,
            ...     setting={}, provenance={})
            >>> reports = isometry.Reports({"identity": report})
            >>> reports.ranking()
            ['identity']
        """
        return sorted(self.reports, key=lambda name: self.reports[name].score)

    @public("Reports.raised")
    def raised(self, flag: str) -> list[str]:
        """Return the names of the networks that raise a flag.

        Args:
            flag: The name of a flag.

        Returns:
            The names.

        Raises:
            InputError: There is no such flag.

        Example:
            >>> sp = isometry.Spectrum.of_jacobians(np.eye(3)[None, None])
            >>> flag = isometry.Flag("vanishing", "clear", "½ ln E s² = 0")
            >>> report = isometry.Report(
            ...     network="identity", flags={"vanishing": flag},
            ...     spectra={"end_to_end": sp}, probe=None, widths=None,
            ...     setting={}, provenance={})
            >>> reports = isometry.Reports({"identity": report})
            >>> reports.raised("vanishing")
            []
        """
        # All reports have the same flags.
        known: list[str] = []
        if self.reports:
            known = list(next(iter(self.reports.values())).flags)
        checks.one_of("flag", flag, known)
        return [name for name, one in self.reports.items() if one.flags[flag].raised]

    def table(self, width: int = 80) -> str:
        """Return a table with a row for each network, the best first.

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
            >>> reports = isometry.Reports({"identity": report})
            >>> "no flag raised" in reports.table(width=140)
            True
        """
        return _table.as_text(self, width)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: everything that `to_json` writes.

        Returns:
            The reports by name, their ranking, and the networks that could not be
            built.

        Example:
            >>> sp = isometry.Spectrum.of_jacobians(np.eye(3)[None, None])
            >>> flag = isometry.Flag("vanishing", "clear", "½ ln E s² = 0")
            >>> report = isometry.Report(
            ...     network="identity", flags={"vanishing": flag},
            ...     spectra={"end_to_end": sp}, probe=None, widths=None,
            ...     setting={}, provenance={})
            >>> reports = isometry.Reports({"identity": report})
            >>> reports.as_dict()["ranking"]
            ['identity']
        """
        reports = {name: report.as_dict() for name, report in self.reports.items()}
        return {
            "reports": reports,
            "ranking": self.ranking(),
            "undefined": self.undefined,
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
            >>> reports = isometry.Reports({"identity": report})
            >>> '"ranking"' in reports.to_json()
            True
        """
        return strict_json.dumps(self.as_dict())

    @public("Reports.to_html")
    def to_html(self, path: store.Path) -> None:
        """Write a page for a browser, in which the networks stand side by side.

        See `Report.to_html`.

        Args:
            path: Where the file goes, in a folder that exists: "report.html".

        Returns:
            None.

        Raises:
            InputError: There is no report; the folder does not exist, or the file
                cannot be written.
            MissingExtra: jinja2 is not installed.

        Example:
            >>> sp = isometry.Spectrum.of_jacobians(np.eye(3)[None, None])
            >>> flag = isometry.Flag("vanishing", "clear", "½ ln E s² = 0")
            >>> report = isometry.Report(
            ...     network="identity", flags={"vanishing": flag},
            ...     spectra={"end_to_end": sp}, probe=None, widths=None,
            ...     setting={}, provenance={})
            >>> isometry.Reports({"identity": report}).to_html("reports.html")
        """
        # Imported here: few programs write a page.
        from isometry.verdicts import _html

        _html.write(self, path)

    def _repr_html_(self) -> str:
        return _notebook.of_reports(self)
