"""Numbers as text: shares, and numbers beyond the range of floats."""

import decimal
import math

import pytest

from isometry._internal import numerals


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.0, 2, "0 %"),
        (0.25, 2, "25 %"),
        (1 / 3, 3, "33.3 %"),
        (1e-9, 2, "1e-07 %"),
        (0.9999, 2, "> 99 %"),
        (0.9999, 3, "> 99.9 %"),
        (0.994, 2, "99 %"),
        (1 - 1e-16, 2, "> 99 %"),
        (1.0, 2, "100 %"),
        (1.0, 3, "100 %"),
    ],
)
def test_a_hundred_percent_is_the_whole(share, digits, text):
    assert numerals.percent(share, digits) == text


def decimal_exp(log_value):
    """e^x in forty digits, whose exponent has no limit that matters here."""
    with decimal.localcontext() as context:
        context.prec = 40
        return decimal.Decimal(log_value).exp()


@pytest.mark.parametrize("log_value", [-2000.0, -745.2, -700.0, -3.0, 1e-3, 709.9, 5e3])
def test_a_number_is_that_of_its_logarithm(log_value):
    """Decimal's exponential, which neither over- nor underflows."""
    shown = decimal.Decimal(numerals.of_log(log_value))
    exact = decimal_exp(log_value)
    assert abs(shown / exact - 1) <= decimal.Decimal("0.00501")


def test_zero_and_infinity_are_numbers_too():
    assert numerals.of_log(-math.inf) == "0"
    assert numerals.of_log(math.inf) == "inf"
    assert numerals.of_log(math.log(0.25)) == "0.25"


@pytest.mark.parametrize("log_value", [-900.1, -14.0, 0.0, math.log(2e-8), 33.3, 900.1])
def test_a_bound_is_rounded_away_from_what_it_bounds(log_value):
    exact = decimal_exp(log_value)
    slack = decimal.Decimal("1e-9")
    upper, lower = (
        numerals.bound(log_value, is_upper=is_upper) for is_upper in (True, False)
    )
    assert (upper[:2], lower[:2]) == ("< ", "> ")
    assert exact * (1 - slack) <= decimal.Decimal(upper[2:]) <= exact * 11 / 10
    assert exact * 9 / 10 <= decimal.Decimal(lower[2:]) <= exact * (1 + slack)


def test_a_bound_of_two_digits_is_itself():
    assert numerals.bound(math.log(2e-8), is_upper=True) == "< 2e-08"
    assert numerals.bound(math.log(9.99e-8), is_upper=True) == "< 1e-07"


@pytest.mark.parametrize(
    ("exponent", "text"),
    [
        (0.0, "1"),
        (-2.0, "0.01"),
        (math.log10(5) + 1, "50"),
        (-5.0, "1e-5"),
        (3.0, "1e3"),
        (-400.0, "1e-400"),
        (400 + math.log10(2), "2e400"),
        (-1e-9, "1"),
    ],
)
def test_powers_of_ten_are_short_in_every_range(exponent, text):
    assert numerals.power(exponent) == text
