"""The section on why a winner wins: every figure that was found, what failed, and what was left out."""

from __future__ import annotations

from typing import Any

from designer.why_page import why_sections

ROW = {"without": "bursts", "kind": "traffic", "how": "Poisson arrivals", "comparator": 9.0, "winner": 6.0}
WHY: dict[str, Any] = {
    "seeds": 8,
    "sentence": "It wins <so>.",
    "comparator_label": "least_loaded+fcfs",
    "parts": [{"part": "queued", "comparator": 5.0, "winner": 2.0, "saved": 3.0, "interval": [2.5, 3.5]}],
    "interventions": [
        {**ROW, "without": "nothing", "kind": "none", "ratio": 0.5, "t_interval": [0.4, 0.6], "taken": 0.0}
        | {"taken_interval": [0.0, 0.0]},
        {**ROW, "ratio": 0.667, "t_interval": [0.6, 0.7], "taken": 0.42, "taken_interval": [0.3, 0.5]},
        {"without": "cold starts", "kind": "mechanism", "how": "at once", "failure": "took too long"},
    ],
    "not_applicable": [{"without": "prefix-cache hits", "reason": "they are off"}],
    "overlap": {"one_by_one": 1.6, "together": 0.9, "interaction": -0.7, "left": 0.1},
    "winnable": {
        "clairvoyant": 4.0,
        "bound": 2.5,
        "bound_is_for": "policies that answer every request",
        "share": 0.6,
        "share_interval": [0.5, 0.7],
        "share_of_bound": 0.4,
        "share_of_bound_interval": None,
    },
    "traffic": ["Bursty."],
}


def test_every_figure_is_on_the_page() -> None:
    page = "".join(why_sections(WHY))
    for text in (
        "It wins &lt;so&gt;.",
        "+3.000 [+2.500, +3.500]",
        "42% [30%, 50%]",
        "0.667 [0.600, 0.700]",
        "took too long",
        "they are off",
        "one by one the mechanisms take away 160% in sum, all at once 90%".capitalize(),
        "-70%",
        "10% of the gain is left",
        "60% [50%, 70%]",
        "<td>40%</td>",
        "<li>Bursty.</li>",
    ):
        assert text in page, text


def test_what_is_not_known_is_said() -> None:
    unknown = {**WHY, "overlap": None, "winnable": {"reason": "it is about something else"}}
    page = "".join(why_sections(unknown))
    assert "How far the mechanisms overlap is not known" in page
    assert "it is about something else" in page


def test_a_run_that_was_not_explained_has_no_section() -> None:
    assert list(why_sections(None)) == []
