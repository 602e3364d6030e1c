"""Numbers as text: shares in percent, and numbers beyond the range of floats."""

import math

_LN10 = math.log(10)

# Within this range of ln x, e^x is a float64 with all of its digits. Twice as far and
# the smallest numbers would lose digits or be zero.
_LARGEST_LOG = 700.0

# Tenths of a mantissa that rounding of a logarithm may add: ln x is up to 1e4 in the
# deepest networks, with an error of 1e-12. Ten thousand times more would show.
_SLACK = 1e-9


def percent(share: float, digits: int = 2) -> str:
    """Return a share in percent; 100 % only of the whole.

    Args:
        share: The share, from 0 to 1.
        digits: The number of digits, from 2 on.
    """
    text = f"{100 * share:.{digits}g}"
    if share < 1 and float(text) >= 100:
        nines = f"{100 - 10.0 ** (2 - digits):.{digits}g}"
        return f"> {nines} %"
    # Two digits of 100 would be 1e+02.
    if float(text) == 100:
        text = "100"
    return f"{text} %"


def of_log(log_value: float, digits: int = 3) -> str:
    """Return a number, given by its natural logarithm, as text.

    Args:
        log_value: ln of the number; -inf for zero.
        digits: The number of digits.
    """
    if math.isinf(log_value) or math.isnan(log_value):
        return f"{math.exp(log_value):.{digits}g}"
    if abs(log_value) < _LARGEST_LOG:
        return f"{math.exp(log_value):.{digits}g}"
    mantissa, exponent = _parts(log_value / _LN10, digits)
    return f"{mantissa}e{exponent:+03d}"


def bound(log_value: float, *, is_upper: bool) -> str:
    """Return a bound, given by its natural logarithm, as text: "< 1.5e-06".

    It is rounded to two digits, away from what it bounds.
    """
    log10_value = log_value / _LN10
    exponent = math.floor(log10_value)
    tenths = 10 * 10.0 ** (log10_value - exponent)
    # 2 is 2, although its logarithm may be rounded.
    tenths = math.ceil(tenths - _SLACK) if is_upper else math.floor(tenths + _SLACK)
    mantissa = tenths / 10
    if mantissa >= 10:
        mantissa, exponent = mantissa / 10, exponent + 1
    sign = "<" if is_upper else ">"
    return f"{sign} {mantissa:.2g}e{exponent:+03d}"


def power(log10_value: float, digits: int = 3) -> str:
    """Return a number, given by its logarithm to base 10: "0.01", "2", "1e-7"."""
    mantissa, exponent = _parts(log10_value, digits)
    # Where Python writes a float without an exponent.
    if -5 < exponent < digits:
        return f"{float(f'{mantissa}e{exponent}'):.{digits}g}"
    return f"{mantissa}e{exponent}"


def _parts(log10_value: float, digits: int) -> tuple[str, int]:
    """Return the digits of a number from 1 up to 10, and its exponent to base 10."""
    exponent = math.floor(log10_value)
    mantissa = f"{10.0 ** (log10_value - exponent):.{digits}g}"
    # Rounding may reach the next power.
    if float(mantissa) >= 10:
        return "1", exponent + 1
    return mantissa, exponent
