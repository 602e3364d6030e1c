"""The figure of `scale`: time and memory against size, and the exponents beside theory.

Below a size, calls and compilers cost more than the work. So an exponent is fitted to
the last points of a curve, and the memory is what a measurement adds to its arguments.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from benchmarks._declare import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The points at the end of a curve through which its exponent is fitted. With 2 a single
# disturbed sample decides; with all of them the overhead of a call counts.
_LAST = 3


class Curve(NamedTuple):
    """What grows along a curve, and how the work must grow with it.

    Attributes:
        name: The first word of its tasks.
        axis: What is on the x axis.
        size: The place of a task on that axis, from its parameters.
        time: The exponent that operation counts give for large sizes, in words.
        slopes: The exponents that are drawn as dashed lines.
        memory: The same of the bytes of the Jacobians, in words.
    """

    name: str
    axis: str
    size: Callable[[Mapping[str, Any]], int]
    time: str
    slopes: tuple[float, ...]
    memory: str


def _entries(parameters: Mapping[str, Any]) -> int:
    """Return the number of entries of a model's Jacobian, which is square."""
    if parameters["model"] == "cnn":
        return parameters["side"] ** 4
    return (16 * parameters["tokens"]) ** 2


CURVES = (
    Curve(
        "width",
        axis="width N  (8 layers, 4 Jacobians)",
        size=lambda parameters: parameters["width"],
        time="3: products and factorization",
        slopes=(3,),
        memory="2: Jacobians",
    ),
    Curve(
        "depth",
        axis="layers L  (width 64, 16 Jacobians)",
        size=lambda parameters: parameters["depth"],
        time="1: products",
        slopes=(1,),
        memory="0: one product at a time",
    ),
    Curve(
        "Jacobians",
        axis="Jacobians  (width 64, 8 layers)",
        size=lambda parameters: 4 * parameters["inputs"],
        time="1",
        slopes=(1,),
        memory="1, up to the budget",
    ),
    Curve(
        "cnn",
        axis="entries of the Jacobian, CNN",
        size=_entries,
        time="1: pulling back, to 1.5: factorization",
        slopes=(1, 1.5),
        memory="1",
    ),
    Curve(
        "transformer",
        axis="entries of the Jacobian, transformer",
        size=_entries,
        time="1 to 1.5: pulling back, 1.5: factorization",
        slopes=(1, 1.5),
        memory="1",
    ),
)


class Points(NamedTuple):
    """The points of one method along a curve.

    Attributes:
        sizes: Where each lies on the axis.
        seconds: The median of a call.
        added: The bytes that the process held at most from its first call on, beyond
            those that it held before.
    """

    sizes: np.ndarray
    seconds: np.ndarray
    added: np.ndarray


def points(record: Record, curve: Curve) -> dict[str, Points]:
    """Return the points of a curve, by method."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for task in record["tasks"]:
        if not task["name"].startswith(f"{curve.name} "):
            continue
        size = curve.size(task["parameters"])
        for method in task["methods"]:
            added = method["peak_memory"] - method["idle_memory"]
            point = (size, method["median"], added)
            found.setdefault(method["name"], []).append(point)
    return {
        name: Points(*np.array(rows, float).T) for name, rows in sorted(found.items())
    }


def _is_curve(by_method: Mapping[str, Points]) -> bool:
    """Tell whether every method has two points at least."""
    return bool(by_method) and all(len(one.sizes) > 1 for one in by_method.values())


def exponent(sizes: ArrayLike, values: ArrayLike) -> float:
    """Fit the exponent of a power law to the last points of a curve."""
    x, y = np.log(sizes), np.log(values)
    slope, _ = np.polyfit(x[-_LAST:], y[-_LAST:], 1)
    return float(slope)


def figure(record: Record) -> "Figure":
    """Draw a column for each curve: time above, memory below."""
    from isometry.plots import _style

    drawn = [curve for curve in CURVES if _is_curve(points(record, curve))]
    if not drawn:
        raise ValueError("the record has no curve of two points or more")
    made = _style.new_figure((3.1 * len(drawn), 5.6))
    made.set_dpi(150)
    axes = made.subplots(2, len(drawn), squeeze=False)
    for above, below, curve in zip(*axes, drawn, strict=True):
        _draw(curve, points(record, curve), above=above, below=below)
    axes[0, 0].set_ylabel("seconds a call")
    axes[1, 0].set_ylabel("MB beyond the arguments")
    return made


def _draw(
    curve: Curve, by_method: dict[str, Points], *, above: "Axes", below: "Axes"
) -> None:
    """Draw one curve: its points, their exponents, and those of theory, dashed."""
    from isometry.plots import _style

    for index, (name, found) in enumerate(by_method.items()):
        style: dict[str, Any] = {
            "color": _style.colour(index),
            "marker": _style.mark(index),
        }
        slope = exponent(found.sizes, found.seconds)
        above.plot(found.sizes, found.seconds, label=f"{name}: {slope:.2f}", **style)
        below.plot(found.sizes, found.added / 1e6, **style)
    ours = by_method["isometry"]
    for slope in curve.slopes:
        last = ours.sizes[-_LAST:]
        line = ours.seconds[-1] * (last / last[-1]) ** slope
        above.plot(last, line / 2, color="0.4", linestyle="--", linewidth=1)
    above.set_title(f"time: {curve.time}", fontsize=8)
    below.set_title(f"memory: {curve.memory}", fontsize=8)
    above.legend(fontsize=7, title="exponents at the end", title_fontsize=7)
    for one in (above, below):
        one.set_xscale("log")
        one.set_yscale("log")
        one.tick_params(which="both", labelsize=7)
    below.set_xlabel(curve.axis, fontsize=8)
