"""`isometry theory`: where an activation is critical, and what a network will do."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from isometry.cli import _cache, _exit_codes, _options, _terminal
from isometry.cli._command import Command

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from isometry.activations import Activation
    from isometry.theory import Law

_SUMMARY = "Where an activation is critical, and how far a signal gets."
_TEXT = """Mean-field theory at sigma_w and sigma_b, or at the critical point of --q, or
else at the stable critical point of --sigma-b: the phase, the fixed points, chi_1 and
how many layers a signal survives; with --depth the law of so many layers.
"""
_EXAMPLE = "isometry theory --sigma-w 1.5 --sigma-b 0.3 --depth 64"

_WEIGHTS = ("orthogonal", "gaussian")


@dataclass(frozen=True)
class Question:
    """What the command is asked.

    Attributes:
        activation: Name of the activation.
        sigma_w: Standard deviation of the weights times sqrt(fan_in), or None.
        sigma_b: Standard deviation of the biases, or None.
        q: The fixed point of the variance whose critical point is meant, or None.
        depth: The number of layers, or None.
    """

    activation: str
    sigma_w: float | None = None
    sigma_b: float | None = None
    q: float | None = None
    depth: int | None = None

    def check(self) -> None:
        """Refuse numbers out of range, and points that are given twice."""
        from isometry._internal import checks
        from isometry._internal.errors import InputError

        is_point_given = self.sigma_w is not None or self.sigma_b is not None
        if self.q is not None and is_point_given:
            raise InputError("--q fixes sigma_w and sigma_b; give it alone.")
        if self.sigma_w is not None:
            checks.number("--sigma-w", self.sigma_w, above=0.0)
        if self.sigma_b is not None:
            checks.number("--sigma-b", self.sigma_b, low=0.0)
        if self.q is not None:
            checks.number("--q", self.q, low=0.0)
        if self.depth is not None:
            checks.integer("--depth", self.depth, low=1, high=_options.MOST_LAYERS)


def theory(  # noqa: PLR0917 (typer reads the options off the signature)
    activation: _options.ActivationName = _options.ACTIVATION,
    sigma_w: Annotated[
        float | None, Option(help="Standard deviation of weights times √fan_in.")
    ] = None,
    sigma_b: Annotated[
        float | None, Option(help="Standard deviation of biases. Default: 0.")
    ] = None,
    q: Annotated[
        float | None, Option(help="Take the critical point with this fixed point.")
    ] = None,
    depth: Annotated[
        int | None,
        Option(help="Also what is left after so many layers, and their law."),
    ] = None,
    out: Annotated[
        str | None, Option(help="Folder for theory.json, and with --depth theory.png.")
    ] = None,
    json: _options.Json = False,
    seed: Annotated[int, Option(help="No effect: nothing here is random.")] = 0,
    no_cache: _options.NoCache = False,
) -> int:
    """Read the options, and run the command."""
    _cache.prepare(is_off=no_cache)
    question = Question(
        activation=activation, sigma_w=sigma_w, sigma_b=sigma_b, q=q, depth=depth
    )
    return run(question, out=out, as_json=json)


COMMAND = Command(
    name="theory", function=theory, summary=_SUMMARY, text=_TEXT, example=_EXAMPLE
)


def run(question: Question, *, out: str | None, as_json: bool) -> int:
    """Check, compute, write, print; return the exit code."""
    from isometry import store
    from isometry._internal import checks, provenance, strict_json

    answer = answer_to(question)
    has_laws = _has_laws(answer["point"])
    if has_laws and out is not None:
        checks.extra("matplotlib", "plot")
    folder = None if out is None else store.prepare(out)
    laws = _laws(question.activation, answer["point"]) if has_laws else {}
    answer["laws"] = {weights: _numbers_of(law) for weights, law in laws.items()}
    result = {"provenance": provenance.provenance(), **answer}
    written = []
    if folder is not None:
        written = store.write_report(folder / "theory", result, _picture(laws))
    if as_json:
        print(strict_json.dumps(result), end="")
    else:
        _print(answer)
    _terminal.report_files(written, as_json=as_json)
    return _exit_codes.CLEAN


def answer_to(question: Question) -> dict[str, Any]:
    """Return everything that the command says but laws, as plain numbers.

    Returns:
        The critical points, and the point that was asked for. That is None where there
        is none, with the reason in "note".

    Raises:
        InputError: A number is out of range, or there is no such activation.
        NotDefined: There is no critical point with this fixed point.
    """
    question.check()
    from isometry import activations, theory

    phi = activations.get(question.activation)
    sigma_b = question.sigma_b or 0.0
    if question.q is not None:
        critical = [theory.critical_at(phi, question.q)]
    else:
        critical = theory.critical_points(phi, sigma_b)
    answer: dict[str, Any] = {
        "activation": phi.name,
        "critical_points": [vars(point) for point in critical],
        "critical_range": theory.sigma_b_range(phi),
    }
    if question.sigma_w is not None:
        point = _point(phi, question.sigma_w, sigma_b, depth=question.depth)
        return answer | {"point": point}
    if not critical:
        note = f"no critical point at sigma_b={sigma_b:g}: {answer['critical_range']}"
        return answer | {"point": None, "note": note}
    # The stable one is where a signal ends.
    stable = [point for point in critical if point.stable]
    chosen = (stable or critical)[0]
    point = _point(phi, chosen.sigma_w, chosen.sigma_b, depth=question.depth)
    return answer | {"point": point}


def _point(
    phi: "Activation", sigma_w: float, sigma_b: float, *, depth: int | None
) -> dict[str, Any]:
    """Return the mean field of a network with this sigma_w and sigma_b, as numbers.

    That is its fixed points, phase and depth scales, and with a depth also the log of
    the mean squared singular value.
    """
    from isometry import theory

    fixed_points = theory.q_fixed_points(phi, sigma_w, sigma_b)
    answer: dict[str, Any] = {
        "sigma_w": sigma_w,
        "sigma_b": sigma_b,
        "q_fixed_points": [vars(point) for point in fixed_points],
    }
    try:
        q = theory.q_fixed_point(phi, sigma_w, sigma_b).value
    except theory.NoFixedPoint as error:
        return answer | {"phase": "unbounded", "q": None, "note": error.message}
    chi = theory.chi(phi, q, sigma_w)
    # Theory names the phase of a point in a diagram alone, here one of a single point.
    diagram = theory.phase_diagram(phi, sigma_w, sigma_b)
    answer |= {
        "phase": str(diagram.phase[0, 0]),
        "q": q,
        "chi_1": chi,
        # If all derivatives are zero, so is the mean by which the variance is divided.
        "mu_2/mu_1²-1": theory.variance_coefficient(phi, q) if chi else None,
        "c": vars(theory.c_fixed_point(phi, sigma_w, sigma_b)),
        "depth_scales": vars(theory.depth_scales(phi, sigma_w, sigma_b)),
    }
    if depth is not None:
        log_mean = depth * math.log(chi) if chi else -math.inf
        answer |= {"depth": depth, "log_mean_squared_singular_value": log_mean}
    return answer


def _has_laws(point: Mapping[str, Any] | None) -> bool:
    """Tell whether there are laws: of a number of layers, at a fixed point."""
    if point is None or point["q"] is None:
        return False
    return "depth" in point and point["chi_1"] > 0


def _laws(activation: str, point: Mapping[str, Any]) -> "dict[str, Law]":
    """Return the law of `point["depth"]` layers, for each distribution of weights."""
    from isometry import theory

    laws = {}
    with _terminal.progress(len(_WEIGHTS)) as tell:
        for weights in _WEIGHTS:
            # Deep laws take seconds.
            tell(f"law of {point['depth']} layers, {weights} weights")
            laws[weights] = theory.jacobian_law(
                activation,
                point["depth"],
                q=point["q"],
                sigma_w=point["sigma_w"],
                weights=weights,
            )
    return laws


def _numbers_of(law: "Law") -> dict[str, Any]:
    """Return a law as plain numbers."""
    # Users think of s, and laws are of lam = s².
    atoms = [{"s": math.sqrt(atom.lam), "mass": atom.mass} for atom in law.atoms]
    return {
        "s_max": law.s_max,
        "median_s": law.quantile(0.5, "s"),
        "mean_lam": law.moment(1),
        "variance_lam": law.variance,
        "support_lam": law.support,
        "atoms": atoms,
    }


def _picture(laws: "dict[str, Law]") -> "Figure | None":
    from isometry import plots

    return plots.laws(laws) if laws else None


def _print(answer: Mapping[str, Any]) -> None:
    """Print the critical points, the point that was asked for, and its laws."""
    console = _terminal.console()
    if answer["critical_points"]:
        console.print(_critical_table(answer))
    console.print(answer["critical_range"])
    point = answer["point"]
    if point is None:
        console.print(answer["note"])
        return
    # Where the variance grows without bound there may be none.
    if point["q_fixed_points"]:
        console.print(_point_table(point))
    if point["q"] is None:
        console.print(point["note"])
    if answer["laws"]:
        console.print(_law_table(answer))


def _critical_table(answer: Mapping[str, Any]) -> "Table":
    table = _terminal.table(
        f"{answer['activation']}: critical points",
        {
            "sigma_w": "number",
            "sigma_w²": "number",
            "sigma_b": "number",
            "q*": "number",
            "": "text",
        },
    )
    for point in answer["critical_points"]:
        numbers = (
            point["sigma_w"],
            point["sigma_w"] ** 2,
            point["sigma_b"],
            point["q"],
        )
        stability = "stable" if point["stable"] else "unstable: never reached"
        table.add_row(*(f"{number:.10g}" for number in numbers), stability)
    return table


def _point_table(point: Mapping[str, Any]) -> "Table":
    table = _terminal.table(
        f"sigma_w = {point['sigma_w']:.10g}, sigma_b = {point['sigma_b']:.10g}: "
        f"{point['phase']}",
        {"quantity": "label", "value": "number", "meaning": "text"},
    )
    for fixed in point["q_fixed_points"]:
        state = "stable" if fixed["stable"] else "unstable"
        meaning = f"{state}, V' = {fixed['slope']:.6g}"
        table.add_row("q fixed point", f"{fixed['value']:.10g}", meaning)
    if point["q"] is None:
        return table
    table.add_row("q*", f"{point['q']:.10g}", "reached from q = 1")
    meaning = "mean squared singular value of a layer"
    table.add_row("chi_1", f"{point['chi_1']:.10g}", meaning)
    spread = point["mu_2/mu_1²-1"]
    if spread is not None:
        meaning = "relative variance of lam a layer, orthogonal weights"
        table.add_row("mu_2/mu_1² − 1", f"{spread:.10g}", meaning)
    correlation = point["c"]
    meaning = f"slope {correlation['slope']:.6g}"
    table.add_row("c*", f"{correlation['value']:.10g}", meaning)
    meanings = {
        "xi_q": "layers to settle on q*",
        "xi_c": "signals survive about 6 of these",
        "xi_grad": _fate_of_gradients(point),
    }
    for name, meaning in meanings.items():
        table.add_row(name, f"{point['depth_scales'][name]:.6g}", meaning)
    if "depth" in point:
        label = f"ln mean lam, {point['depth']} layers"
        log_mean = point["log_mean_squared_singular_value"]
        table.add_row(label, f"{log_mean:.6g}", "depth × ln chi_1")
    return table


def _fate_of_gradients(point: Mapping[str, Any]) -> str:
    """Say what becomes of a squared gradient in xi_grad = 1/|ln chi_1| layers."""
    if math.isinf(point["depth_scales"]["xi_grad"]):
        return "gradients keep their size"
    fate = "explode" if point["chi_1"] > 1 else "vanish"
    return f"layers in which squared gradients {fate} by a factor e"


def _law_table(answer: Mapping[str, Any]) -> "Table":
    table = _terminal.table(
        f"the law of {answer['point']['depth']} layers",
        {
            "weights": "label",
            "s_max": "number",
            "median s": "number",
            "E lam": "number",
            "Var lam": "number",
            "atoms: mass at s": "text",
        },
    )
    for weights, law in answer["laws"].items():
        numbers = (
            law["s_max"],
            law["median_s"],
            law["mean_lam"],
            law["variance_lam"],
        )
        atoms = [f"{atom['mass']:.4g} at {atom['s']:.4g}" for atom in law["atoms"]]
        cells = [f"{number:.6g}" for number in numbers]
        table.add_row(weights, *cells, ", ".join(atoms) or "none")
    return table
