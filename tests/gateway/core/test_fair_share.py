from __future__ import annotations

from gateway.core.fair_share import FairShare, weighted_tokens


def test_an_output_token_costs_two_prompt_tokens():
    assert weighted_tokens(100, 10.0) == 120.0


def test_a_newcomer_is_lifted_to_the_least_of_those_that_wait():
    share = FairShare()
    a, b = share.tenant("a"), share.tenant("b")
    for tenant, charge in ((a, 50.0), (b, 30.0)):
        share.hold(tenant)
        tenant.charge(charge)
    assert share.tenant("c").counter == a.counter < b.counter


def test_with_none_waiting_to_the_one_that_was_served_last():
    share = FairShare()
    served = share.tenant("served")
    share.hold(served)
    share.release(served)
    served.charge(70.0)
    assert share.tenant("new").counter == 70.0


def test_one_that_had_more_is_not_lowered():
    share = FairShare()
    share.hold(share.tenant("a"))
    greedy = share.tenant("b")
    greedy.charge(500.0)
    assert share.tenant("b").counter == 500.0


def test_made_up_tenants_do_not_fill_the_memory_and_those_that_wait_are_kept():
    share = FairShare(max_tenants=10)
    waiting = share.tenant("waiting")
    share.hold(waiting)
    for n in range(1000):
        share.tenant(f"t{n}")
    assert len(share.counters()) <= 10
    assert share.tenant("waiting") is waiting


def test_more_waiting_than_are_remembered_are_all_kept():
    share = FairShare(max_tenants=3)
    tenants = []
    for n in range(20):
        tenants.append(share.tenant(f"t{n}"))
        share.hold(tenants[-1])
    assert [share.tenant(tenant.name) for tenant in tenants] == tenants
