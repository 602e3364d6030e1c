"""Whether a spectrum and a law are of the same thing."""

from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry.measure._record import Spectrum
from isometry.measure._spans import Span
from isometry.theory import Law

# Rounding of a ratio of two widths.
_ROUNDING = 1e-9


def require_match(sp: Spectrum, law: Law) -> None:
    """Refuse a spectrum and a law of different things.

    Raises:
        InputError: One of them is of another type; the span, the number of pairs, the
            shape or the number of positions differ; or there are no more values than
            outliers. The message says what to write.
    """
    if not isinstance(sp, Spectrum):
        raise InputError(
            f"sp={checks.show(sp)} is not a Spectrum; write isometry.ensemble(...)."
        )
    if not isinstance(law, Law):
        raise InputError(
            f'law={checks.show(law)} is not a Law; write net.law("hidden", xs) or '
            "theory.jacobian_law(...)."
        )
    # A "given" span is the user's own, which may be that of the law.
    if sp.span not in (law.span, "given"):
        raise InputError(
            f"sp is of the span {sp.span!r} and the law of {law.span!r}; "
            f"{_advice(sp.span, law.span)}"
        )
    # The depth of a measured function need not be known.
    if sp.span == "hidden" and sp.pairs is not None and sp.pairs != law.pairs:
        known = f"{law.pairs} pairs"
        if law.pairs is None:
            known = "no number of pairs: a limit of great depth"
        raise InputError(
            f"sp has {sp.pairs} (W, D) pairs and the law {known}; write "
            f"theory.jacobian_law(..., depth={sp.pairs}), or net.law('hidden', xs)."
        )
    # A law has no sizes, so zeros are compared for each singular value.
    zeros = sp.structural_zeros / sp.size
    if abs(zeros - law.structural_zeros) > _ROUNDING * (1 + zeros):
        raise InputError(
            f"sp has {zeros:.4g} structural zeros per singular value and the law "
            f"{law.structural_zeros:.4g}: they are of different shapes; give "
            "jacobian_law the widths of the span."
        )
    if sp.size % law.positions:
        raise InputError(
            f"the law is of {law.positions} positions and sp has {sp.size} singular "
            "values, which is no multiple; write dataclasses.replace(law, "
            "positions=...), the number of pixels."
        )
    if law.outliers >= sp.size:
        raise InputError(
            f"the law states {law.outliers} outliers and sp has {sp.size} singular "
            "values; measure at a greater width."
        )


def _advice(measured: Span, predicted: str) -> str:
    if measured == "end_to_end" and predicted == "hidden":
        return (
            "end to end a network has one W more than D's, which is not the law of its "
            "pairs. Measure with span='hidden', or take net.law('end_to_end', xs). Of "
            "a plain f that is itself a product of n pairs say so: "
            "dataclasses.replace(sp, span='hidden', pairs=n)."
        )
    return f"write net.law({measured!r}, xs), or measure with span={predicted!r}."
