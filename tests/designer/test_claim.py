"""A claim says what it does not cover."""

from designer.claim import not_compared, shortcomings

MISSING = {"label": "tuned-baseline 12", "digest": "d", "failure": "ran past its deadline"}


def test_a_claim_with_everything_compared_has_none() -> None:
    assert not_compared(None) == []
    assert list(shortcomings({"winner": None}, [])) == []
    assert list(shortcomings({"not_compared": []}, [{"failed": []}])) == []


def test_a_baseline_that_failed_is_said_to_be_not_compared() -> None:
    (line,) = not_compared({"not_compared": [MISSING]})
    assert line == "Not compared with tuned-baseline 12, which failed: ran past its deadline."
    (said,) = shortcomings({"not_compared": [MISSING]}, [])
    assert said.startswith(line)
    assert "weaker" in said


def test_what_failed_on_the_sealed_seeds_is_said() -> None:
    (said,) = shortcomings({}, [{"failed": [MISSING]}])
    assert said.startswith("tuned-baseline 12 failed on the sealed seeds")
