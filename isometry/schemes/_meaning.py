"""What a scheme is named for, and does not do in a network that lacks it."""

from isometry.schemes._scheme import Scheme
from isometry.structure import Anatomy

# What a network may lack, by the values of `Scheme.made_for`.
_LACKS = {
    "branches": "no residual branch was found",
    "attentions": "no attention was found",
    "windows": "no convolution was found",
    "widths": "of a single layer, no side grows with width",
}


def notes(scheme: Scheme, anatomy: Anatomy) -> tuple[str, ...]:
    """Say what gives a scheme its name, and drawing alone does not do here.

    Args:
        scheme: The scheme.
        anatomy: The network.

    Returns:
        Sentences, most often none.
    """
    if scheme.made_for and not _has(anatomy, scheme.made_for):
        lack = _LACKS[scheme.made_for]
        # A function of an opaque loop may have a branch that nobody sees.
        if anatomy.unread:
            lack = f"{lack} (unread: {', '.join(anatomy.unread)})"
        return (f"{lack}, so {scheme.name} {scheme.otherwise}",)
    if scheme.fit is not None:
        return (
            f"{scheme.name} sets its scales on inputs, and draw alone does not: then "
            "write params = assignment.scheme.adjust(net, params, xs)",
        )
    return ()


def _has(anatomy: Anatomy, part: str) -> bool:
    """Tell whether a network has what a scheme is made for."""
    found = {
        "branches": len(anatomy.branches) > 0,
        "attentions": len(anatomy.attentions) > 0,
        "windows": any(layer.window_axes for layer in anatomy.layers),
        "widths": len(anatomy.layers) > 1,
    }
    return found[part]
