"""Small pictures: places, ticks, and what breaks a line."""

import decimal
import math

import numpy as np
import pytest

from isometry._internal import svg
from isometry._internal.html import Html, element, number

PANEL = svg.Panel(x=(0.0, 10.0), y=(0.0, 2.0), width=154.0, height=142.0)


def test_places_are_linear_between_the_ends_of_the_axes():
    """100 pixels across and 100 up remain beside 40, 14, 8 and 34 for the margins."""
    assert (PANEL.across(0.0), PANEL.across(10.0)) == (40.0, 140.0)
    assert (PANEL.up(0.0), PANEL.up(2.0)) == (108.0, 8.0)
    assert PANEL.across(2.5) == 65.0


def test_a_line_is_broken_at_what_is_not_known_and_cut_at_the_top():
    drawn = PANEL.line([0.0, 1.0, 2.0, 3.0], [1.0, math.nan, 1.0, 9.0])
    assert 'd="M40 58M60 58L70 8"' in drawn


def test_a_histogram_is_one_outline_that_ends_at_the_base():
    drawn = PANEL.bars(np.array([0.0, 5.0, 10.0]), [2.0, 1.0])
    assert 'd="M40 108V8H90V58H140V108Z"' in drawn


def test_mass_beside_the_panel_moves_it_and_is_named():
    mass = svg.Mass("zeros <1 %", share=0.5, colour="red", is_solid=True)
    panel = svg.Panel(x=PANEL.x, y=PANEL.y, masses=(mass,))
    assert panel.left > PANEL.left
    drawn = panel.drawn(title="a & b", x_label="s", x_ticks=[(0.0, "1")])
    assert "zeros &lt;1 %" in drawn
    assert "<title>a &amp; b</title>" in drawn


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-0.5, 0.4, ["0.5", "1", "2"]),
        (-3.2, 0.5, ["0.001", "0.01", "0.1", "1"]),
        (-13.0, 1.0, ["1e-12", "1e-9", "1e-6", "0.001", "1"]),
        (-347.9, -346.5, ["2e-348", "5e-348", "1e-347", "2e-347"]),
        (346.9, 348.1, ["1e347", "2e347", "5e347", "1e348"]),
    ],
)
def test_ticks_are_powers_of_ten_or_of_few_decades_their_parts(low, high, words):
    ticks = svg.decades(low, high)
    assert [text for _, text in ticks] == words
    for place, text in ticks:
        assert float(decimal.Decimal(text).log10()) == pytest.approx(place)


def test_more_series_than_colours_differ_in_their_marks():
    marks = {svg.mark(0.0, 0.0, index=index) for index in range(35)}
    assert len(marks) == 35


def test_elements_escape_text_and_attributes_but_no_html():
    inner = element("b", "<i>")
    outer = element("p", inner, "&", class_='a"b', aria_label="x", id=None)
    assert outer == '<p class="a&quot;b" aria-label="x"><b>&lt;i&gt;</b>&amp;</p>'
    assert isinstance(outer, Html)
    assert element("br") == "<br>"


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (-0.001, "0"), (2.345, "2.35"), (1200.0, "1200")]
)
def test_coordinates_are_short_and_never_minus_zero(value, text):
    assert number(value) == text
