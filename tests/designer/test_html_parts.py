"""Pieces of a page."""

from designer.html_parts import note, table


def test_what_is_shown_is_escaped() -> None:
    assert note("a < b") == "<p class='note'>a &lt; b</p>"
    assert table(("<h>",), [("<c>",)]) == (
        "<table><tr><th scope='col'>&lt;h&gt;</th></tr><tr><td>&lt;c&gt;</td></tr></table>"
    )


def test_a_table_without_names_has_no_head() -> None:
    assert table(("", ""), [("a", "b")]) == "<table><tr><td>a</td><td>b</td></tr></table>"
