"""A report fails on what slipped, did harm, or was caught elsewhere than is written down."""

from __future__ import annotations

from designer.audit import Finding
from designer.audit_page import Report, cheat_rows, hostile_rows, markdown
from designer.audit_world import Check
from designer.endurance import Ordeal
from designer.layers import UNNAMED, Catch

STRONG = ("rlimits", "landlock", "seccomp")


def finding(name: str, layer: str) -> Finding:
    return Finding(name, "it", Catch("static rules", "", 0.0), Catch(layer, "", 1.234))


def ordeal(name: str = "netlink", layer: str = "kernel fence", went_on: bool = True, left: str = "") -> Ordeal:
    catch = Catch(layer, "", 0.5)
    return Ordeal(name, "it", True, catch, catch, went_on, left)


def test_a_clean_audit_has_no_failures() -> None:
    report = Report(STRONG, [finding("gc walk", "two processes")], [ordeal()], [Check("q", "", "found", 0.1)])
    assert report.failures() == []
    assert report.to_json()["num_slipped"] == 0
    assert report.num_asked == 3


def test_each_fault_is_one_line() -> None:
    report = Report(
        STRONG,
        [finding("gc walk", "nothing"), finding("gc referrers", UNNAMED), finding("inspect", "guard")],
        [ordeal(went_on=False), ordeal(left="1 processes"), ordeal(layer="guard")],
        [Check("q", "", "", 0.1)],
    )
    told = report.failures()
    assert [line.partition(":")[0] for line in told[:5]] == ["slipped", "slipped", "harmed", "harmed", "fails"]
    assert told[5:] == [
        "caught elsewhere than is written down: inspect: static rules, guard",
        "caught elsewhere than is written down: netlink: guard, guard",
    ]


def test_where_the_kernel_lacks_a_layer_another_may_catch_it() -> None:
    report = Report(("rlimits",), [finding("inspect", "guard")], [ordeal(layer="guard")], [])
    assert report.failures() == []


def test_tables() -> None:
    assert markdown(("a", "s"), [("x", "1")]) == "| a | s |\n|---|---|\n| x | 1 |"
    assert cheat_rows([finding("gc walk", "guard")]) == [("gc walk", "it", "static rules", "0.00", "guard", "1.23")]
    (row,) = hostile_rows([ordeal(left="1 processes")])
    assert row == ("netlink", "it", "object", "kernel fence", "0.50", "kernel fence", "0.50", "yes", "1 processes")
