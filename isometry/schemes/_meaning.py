"""Notes for a network in which a scheme does not do what it is known for."""

from isometry.schemes._scheme import Scheme
from isometry.structure import Anatomy
from isometry.structure._interpolating import interpolations

# For each value of `Scheme.made_for`, what is said of a network without this part.
_LACKS = {
    "branches": "no residual branch was found",
    "attentions": "no attention was found",
    "windows": "no convolution was found",
    "widths": "of a single layer, no side grows with width",
}


def notes(scheme: Scheme, anatomy: Anatomy) -> tuple[str, ...]:
    """Return what a user of the scheme must know before drawing this network.

    Either the network lacks the part that the scheme was made for, or the scheme is
    data-driven, and `Scheme.adjust` has to follow.

    Args:
        scheme: The scheme.
        anatomy: The anatomy of the network.

    Returns:
        Sentences, most often none.
    """
    interpolating = ""
    if scheme.made_for == "branches":
        interpolating = _interpolating(anatomy)
    if scheme.made_for and not _has(anatomy, scheme.made_for):
        lack = _LACKS[scheme.made_for]
        if interpolating:
            lack = f"{lack} ({interpolating})"
        # A function of an opaque loop may have a branch that nobody sees.
        if anatomy.unread:
            lack = f"{lack} (unread: {', '.join(anatomy.unread)})"
        return (f"{lack}, so {scheme.name} {scheme.otherwise}",)
    if scheme.fit is not None:
        return (
            f"{scheme.name} sets its scales on inputs, and draw alone does not: then "
            "write params = assignment.scheme.adjust(net, params, xs)",
        )
    if interpolating:
        return (f"{interpolating}: their layers are drawn as on the stream",)
    return ()


def _interpolating(anatomy: Anatomy) -> str:
    """Say how many sums of highway layers there are, or return ""."""
    number = len(interpolations(anatomy._flow))
    if number == 0:
        return ""
    if number == 1:
        return "one sum interpolates, (1 - t) x + t F(x), and is no residual branch"
    return (
        f"{number} sums interpolate, (1 - t) x + t F(x), and are no residual branches"
    )


def _has(anatomy: Anatomy, part: str) -> bool:
    """Tell whether a network has a part, one of the values of `Scheme.made_for`."""
    found = {
        "branches": len(anatomy.branches) > 0,
        "attentions": len(anatomy.attentions) > 0,
        "windows": any(layer.window_axes for layer in anatomy.layers),
        "widths": len(anatomy.layers) > 1,
    }
    return found[part]
