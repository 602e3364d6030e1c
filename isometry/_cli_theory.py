"""`isometry theory`: where an activation is critical, and what a network with given sigma_w and sigma_b will do."""

import math
from typing import Annotated, Any

from typer import Option

from isometry import _cli_common as common

_CALL = "isometry theory"
_HELP = """Mean field theory of an activation: its critical points; and at sigma_w and sigma_b (or at the critical point
of --q, or the stable one of --sigma-b) the phase, the fixed points, chi_1 and how many layers a signal survives.

Example: isometry theory --activation tanh --sigma-w 1.5 --sigma-b 0.3 --depth 64
"""


def add(app: Any) -> None:
    """Register the command."""

    @common.command(app, "theory", _HELP)
    def theory(
        activation: common.ActivationName = "tanh",
        sigma_w: Annotated[float | None, Option(help="Standard deviation of weights times √fan_in.")] = None,
        sigma_b: Annotated[float | None, Option(help="Standard deviation of biases. Default: 0.")] = None,
        q: Annotated[float | None, Option(help="Take the critical point with this fixed point.")] = None,
        depth: Annotated[int | None, Option(help="Also what is left after so many layers, and their law.")] = None,
        out: Annotated[str | None, Option(help="Folder for theory.json, and with --depth theory.png.")] = None,
        json: common.Json = False,
    ) -> int:
        return run(activation, sigma_w, sigma_b, q, depth, out, json)


def run(
    activation: str,
    sigma_w: float | None,
    sigma_b: float | None,
    q: float | None,
    depth: int | None,
    out: str | None,
    as_json: bool,
) -> int:
    """Check, compute, print; the exit code."""
    from isometry import _checks, store
    from isometry._internal import provenance, strict_json

    found = report(activation, sigma_w, sigma_b, q, depth)
    laws = _laws(activation, found)
    if laws and out is not None:
        _checks.extra(_CALL, "matplotlib", "plot")
    folder = None if out is None else store.prepare(out)
    found["laws"] = {weights: _summary(law) for weights, law in laws.items()}
    result = {"provenance": provenance.provenance(), **found}
    written = [] if folder is None else store.write_report(folder / "theory", result, _picture(laws))
    if as_json:
        print(strict_json.dumps(result), end="")
    else:
        _print(found)
    common.told(written, as_json)
    return common.EXIT_CLEAN


def _picture(laws: dict[str, Any]) -> Any:
    from isometry import plots

    return plots.laws(laws) if laws else None


def _laws(activation: str, found: dict[str, Any]) -> dict[str, Any]:
    """The laws of `depth` layers at the point, Haar and Gaussian weights; none without a depth or a fixed point."""
    from isometry import theory

    point = found["point"]
    if point is None or point["q"] is None or not point["chi_1"] or "depth" not in point:
        return {}
    at = {"q": point["q"], "sigma_w": point["sigma_w"]}
    return {w: theory.jacobian_law(activation, point["depth"], **at, weights=w) for w in ("orthogonal", "gaussian")}


def _summary(law: Any) -> dict[str, Any]:
    median = law.quantile(0.5, "s")
    atoms = [{"s": math.sqrt(a.lam), "mass": a.mass} for a in law.atoms]
    return {"s_max": law.s_max, "median_s": median, "mean_lam": law.moment(1), "variance_lam": law.variance,
            "support_lam": law.support, "atoms": atoms}  # fmt: skip


def report(
    activation: str, sigma_w: float | None, sigma_b: float | None, q: float | None, depth: int | None
) -> dict[str, Any]:
    """Everything the command says, as plain numbers; None for what does not exist, with the reason in `note`."""
    from isometry import _checks, activations, theory

    if q is not None and (sigma_w is not None or sigma_b is not None):
        raise _checks.InputError(f"{_CALL}(): --q fixes sigma_w and sigma_b; give it alone.")
    for name, value in {"--sigma-w": sigma_w, "--sigma-b": sigma_b, "--q": q}.items():
        given: dict[str, Any] = {} if value is None else {name: value}
        _checks.number(_CALL, low=0.0, open_low=name == "--sigma-w", **given)
    if depth is not None:
        _checks.integer(_CALL, low=1, high=100_000, **{"--depth": depth})
    with _checks.named(_CALL):
        phi = activations.get(activation)
    b = 0.0 if sigma_b is None else sigma_b
    critical = [theory.critical_at(phi, q)] if q is not None else theory.critical_points(phi, b)
    found: dict[str, Any] = {
        "activation": phi.name,
        "critical_points": [vars(p) for p in critical],
        "critical_range": theory.sigma_b_range(phi),
    }
    chosen = next((p for p in critical if p.stable), critical[0] if critical else None)
    if sigma_w is not None:
        return found | {"point": _point(phi, sigma_w, b, depth)}
    if chosen is None:
        return found | {"point": None, "note": f"no critical point at sigma_b={b:g}: {found['critical_range']}"}
    return found | {"point": _point(phi, chosen.sigma_w, chosen.sigma_b, depth)}


def _point(phi: Any, sigma_w: float, sigma_b: float, depth: int | None) -> dict[str, Any]:
    """What a network with this sigma_w and sigma_b does."""
    from isometry import theory

    fixed = theory.q_fixed_points(phi, sigma_w, sigma_b)
    found: dict[str, Any] = {"sigma_w": sigma_w, "sigma_b": sigma_b, "q_fixed_points": [vars(p) for p in fixed]}
    try:
        q = theory.q_fixed_point(phi, sigma_w, sigma_b).value
    except theory.NoFixedPoint as error:
        return found | {"phase": "unbounded", "q": None, "note": str(error)}
    chi = theory.chi(phi, q, sigma_w)
    phase = str(theory.phase_diagram(phi, sigma_w, sigma_b).phase[0, 0])
    spread = theory.variance_coefficient(phi, q) if chi else None
    found |= {"phase": phase, "q": q, "chi_1": chi, "mu_2/mu_1²-1": spread}
    found |= {"c": vars(theory.c_fixed_point(phi, sigma_w, sigma_b))}
    found |= {"depth_scales": vars(theory.depth_scales(phi, sigma_w, sigma_b))}
    if depth is not None:
        log_mean = depth * math.log(chi) if chi else -math.inf
        found |= {"depth": depth, "log_mean_squared_singular_value": log_mean}
    return found


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    console = common.console()
    points = Table(title=f"{found['activation']}: critical points", title_justify="left")
    for name in ("sigma_w", "sigma_w²", "sigma_b", "q*", ""):
        points.add_column(name, justify="right", overflow="fold")
    for p in found["critical_points"]:
        stability = "stable" if p["stable"] else "unstable: never reached"
        points.add_row(*(f"{x:.10g}" for x in (p["sigma_w"], p["sigma_w"] ** 2, p["sigma_b"], p["q"])), stability)
    if found["critical_points"]:
        console.print(points)
    console.print(found["critical_range"], highlight=False)
    if found["point"] is None:
        console.print(found["note"], highlight=False)
    else:
        if found["point"]["q_fixed_points"]:
            console.print(_point_table(found["point"]))
        if found["point"]["q"] is None:
            console.print(found["point"]["note"], highlight=False)
        if found["laws"]:
            console.print(_law_table(found))


def _law_table(found: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"the law of {found['point']['depth']} layers", title_justify="left")
    for name in ("weights", "s_max", "median s", "E lam", "Var lam", "atoms: mass at s"):
        justify = "left" if name in ("weights", "atoms: mass at s") else "right"
        table.add_column(name, justify=justify, overflow="fold")
    for weights, law in found["laws"].items():
        atoms = ", ".join(f"{a['mass']:.4g} at {a['s']:.4g}" for a in law["atoms"]) or "none"
        numbers = (law["s_max"], law["median_s"], law["mean_lam"], law["variance_lam"])
        table.add_row(weights, *(f"{x:.6g}" for x in numbers), atoms)
    return table


def _point_table(point: dict[str, Any]) -> Any:
    from rich.table import Table

    title = f"sigma_w = {point['sigma_w']:.10g}, sigma_b = {point['sigma_b']:.10g}: {point['phase']}"
    table = Table(title=title, title_justify="left", show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for p in point["q_fixed_points"]:
        state = "stable" if p["stable"] else "unstable"
        table.add_row("q fixed point", f"{p['value']:.10g}", f"{state}, V' = {p['slope']:.6g}")
    if point["q"] is None:
        return table
    table.add_row("q*", f"{point['q']:.10g}", "reached from q = 1")
    table.add_row("chi_1", f"{point['chi_1']:.10g}", "mean squared singular value of a layer")
    if point["mu_2/mu_1²-1"] is not None:
        table.add_row("mu_2/mu_1² − 1", f"{point['mu_2/mu_1²-1']:.10g}", "variance of lam a layer, orthogonal weights")
    table.add_row("c*", f"{point['c']['value']:.10g}", f"slope {point['c']['slope']:.6g}")
    meanings = {
        "xi_q": "layers to settle on q*",
        "xi_c": "signals survive about 6 of these",
        "xi_grad": "gradients too",
    }
    for name, says in meanings.items():
        table.add_row(name, f"{point['depth_scales'][name]:.6g}", says)
    if "depth" in point:
        log_mean = point["log_mean_squared_singular_value"]
        table.add_row(f"ln mean lam, {point['depth']} layers", f"{log_mean:.6g}", "depth × ln chi_1")
    return table
