"""What a policy keeps of its arguments, or does to them, is told."""

from __future__ import annotations

from policies.watched import Watched


def arguments() -> tuple[list[int], dict[str, list[int]]]:
    return [1, 2], {"of": [3]}


def test_arguments_that_were_left_alone_give_no_complaint() -> None:
    first, second = arguments()
    watched = Watched((first, second))
    assert sum(first) + len(second) == 4
    assert list(watched.complaints()) == []


def test_what_was_changed_is_told() -> None:
    first, second = arguments()
    watched = Watched((first, second))
    second["of"].append(4)
    assert list(watched.complaints()) == ["changed a list it was given"]


def test_what_is_kept_is_told() -> None:
    first, second = arguments()
    watched = Watched((first, second))
    kept = second["of"]
    assert list(watched.complaints()) == ["keeps a list it was given; copy the numbers and ids you need"]
    assert kept == [3]
