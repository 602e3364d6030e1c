"""Tables of plain text, written out by hand."""

from isometry._internal import texts

ROWS = [("name", "note", "size"), ("a", "", "10"), ("long one", "", "2")]


def test_columns_are_aligned_and_end_without_blanks():
    rows = [("name", "note"), ("a", ""), ("long one", "b")]
    assert texts.aligned(rows) == ["name      note", "a", "long one  b"]


def test_numbers_stand_to_the_right():
    rows = texts.without_empty(ROWS)
    wanted = ["name      size", "a           10", "long one     2"]
    assert texts.aligned(rows, num_left=1) == wanted


def test_table_of_empty_columns_has_none():
    assert texts.without_empty([("name", "note"), ("", "")]) == [(), ()]


def test_only_a_long_table_is_shortened():
    lines = [str(i) for i in range(21)]
    assert texts.shortened(lines[:20]) == lines[:20]
    wanted = [*lines[:10], "...", *lines[11:]]
    assert texts.shortened(lines) == wanted
