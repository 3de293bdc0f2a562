"""Colours that can be read, light and dark: the contrast of WCAG 2.2 (4.5 to 1 for text)."""

from __future__ import annotations

import re

import pytest

from designer.report_style import STYLE


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+):#([0-9a-f]{3,6})", block))


def luminance(colour: str) -> float:
    full = "".join(c * 2 for c in colour) if len(colour) == 3 else colour
    parts = [int(full[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_measure_is_right_for_what_is_known() -> None:
    assert contrast("000", "fff") == pytest.approx(21.0)
    assert contrast("777", "fff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("which", ["light", "dark", "print"])
def test_text_can_be_read_on_everything_it_stands_on(which: str) -> None:
    light, dark, paper = STYLE.split("@media")[0], STYLE.split("@media")[1], STYLE.split("@media")[2]
    shown = {"light": light, "dark": dark, "print": paper}[which]
    found = colours(shown)
    texts = [found["ink"], found["soft"], *re.findall(r"(?:a|\.add|\.del)\{color:#([0-9a-f]+)", shown)]
    assert len(texts) == 5
    for text in texts:
        for ground in ("paper", "shade", "good", "bad"):
            assert contrast(text, found[ground]) >= 4.5, (which, text, ground)


def test_nothing_is_fetched() -> None:
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert STYLE.count("{") == STYLE.count("}")
