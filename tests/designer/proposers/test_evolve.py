import dataclasses
import random

from designer.proposers.behaviour import signature
from designer.proposers.emit import emit
from designer.proposers.evolve import EvolveProposer, _elite
from designer.proposers.grammar import Const, Field, Limit, Program, Rank, check, from_json, size, to_json
from designer.proposers.protocol import History, Outcome, Proposal, Proposer
from designer.proposers.random import RandomProposer
from designer.proposers.sampling import Sampler, random_program
from designer.proposers.tuning import ROUTING, Archive
from designer.proposers.variation import cross, mutate, tune
from designer.proposers.vocabulary import QUANTITIES

REFERENCE = {seed: 50.0 + seed for seed in range(4)}


def _run(proposer: Proposer, count: int) -> History:
    """A toy world: the score falls when a request is held, and falls more when the queue is ordered by prompt."""
    outcomes: list[Outcome] = []
    for _ in range(count):
        proposal = proposer.propose(History(REFERENCE, tuple(outcomes)))
        factor = _toy(from_json(proposal.program or {}))
        outcomes.append(Outcome(proposal, "scored", {seed: factor * value for seed, value in REFERENCE.items()}))
    return History(REFERENCE, tuple(outcomes))


def _toy(program: Program) -> float:
    first = repr(program.order[0].by) if program.order else ""
    ordered = "num_prompt_tokens" in first and not program.order[0].largest_first
    return 1.0 if not program.limits else 0.5 if ordered else 0.9


def test_the_same_seed_and_history_give_the_same_proposals() -> None:
    for make in (EvolveProposer, RandomProposer):
        first, again, other = _run(make(5), 12), _run(make(5), 12), _run(make(6), 12)
        assert first == again
        assert first != other


def test_a_fresh_proposer_continues_a_history_as_the_old_one_would() -> None:
    history = _run(EvolveProposer(7), 20)
    assert EvolveProposer(7).propose(history) == EvolveProposer(7).propose(history)
    assert _run(EvolveProposer(7), 21).outcomes[-1].proposal == EvolveProposer(7).propose(history)


def test_evolve_proposes_no_behaviour_twice_nor_the_reference() -> None:
    history = _run(EvolveProposer(2), 40)
    stepped = ("tunes a constant", "moves all constants a little")
    invented = [o.proposal for o in history.outcomes if o.proposal.change not in stepped]
    behaviours = [signature(from_json(proposal.program or {})) for proposal in invented]
    assert len(set(behaviours)) == len(behaviours) > 15
    assert len({o.proposal.source for o in history.outcomes}) == 40
    assert signature(Program()) not in behaviours[:4]


def test_evolve_finds_what_the_toy_world_rewards() -> None:
    history = _run(EvolveProposer(1), 60)
    best = history.incumbent()
    assert best is not None
    assert best.scores[0] == 0.5 * REFERENCE[0]


_CACHED = "candidate.num_cached_tokens"


def _weighs_cached(part: object) -> bool:
    return "Difference" in repr(part) and _CACHED in repr(part)


def test_load_is_weighed_against_what_is_cached_only_where_that_tells_anything() -> None:
    start = [from_json(o.proposal.program or {}) for o in _run(EvolveProposer(3), 8).outcomes]
    assert any(_weighs_cached(program.choice) for program in start[:5])
    sampler = Sampler(random.Random(1))
    assert sum(_weighs_cached(sampler.choice_rank()) for _ in range(400)) > 40
    without = Sampler(random.Random(1), frozenset(QUANTITIES) - {_CACHED})
    assert not any(_CACHED in repr(without.program()) for _ in range(400))


def test_parents_are_candidates_of_the_run_and_predictions_positive() -> None:
    history = _run(EvolveProposer(3), 40)
    known: set[str] = set()
    with_parents = 0
    for outcome in history.outcomes:
        assert known.issuperset(outcome.proposal.parents)
        assert outcome.proposal.predicted_effect is None or outcome.proposal.predicted_effect > 0
        assert outcome.proposal.hypothesis.endswith(".")
        with_parents += bool(outcome.proposal.parents)
        known.add(outcome.proposal.candidate_hash)
    assert with_parents > 5


def test_variation_keeps_every_rule_of_the_grammar() -> None:
    rng = random.Random(8)
    for _ in range(300):
        first, second = random_program(rng), random_program(rng)
        for child, change in (mutate(first, Sampler(rng)), cross(first, second, Sampler(rng))):
            assert check(child) != first
            assert change
            assert size(child) <= 26
        tuned = tune(first, Sampler(rng))
        assert (tuned is None) or tuned[1] == "tunes a constant"


def test_tuning_needs_a_constant() -> None:
    assert tune(Program(), Sampler(random.Random(0))) is None


def test_of_the_elite_few_limit_the_same_quantity() -> None:
    """A world in which limits on KV use come first in every rank: others are parents all the same."""

    def limited(field: str, kind: str, value: float) -> Program:
        return Program((Limit(Field(field), Const(kind, value)),), (Rank(Field("worker.num_inflight_requests")),))

    programs = [limited("worker.kv_cache_usage", "most_used_share", 0.8)]
    programs += [with_rank(programs[0], field) for field in ("num_requests_running", "num_inflight_tokens")]
    programs.append(limited("worker.num_inflight_tokens", "most_tokens", 9000.0))
    effects = [0.50, 0.51, 0.52, 0.80]
    outcomes = tuple(
        _outcome(program, {seed: effect * value for seed, value in REFERENCE.items()})
        for program, effect in zip(programs, effects, strict=True)
    )
    known = Archive(ROUTING, from_json).known(History(REFERENCE, outcomes))
    parents = EvolveProposer(1)._parents(known)
    elite = _elite(parents)
    assert [parent.program for parent in parents[:4]] == programs
    assert [parent.program for parent in elite[:3]] == [*programs[:2], programs[3]]


def with_rank(program: Program, field: str) -> Program:
    return dataclasses.replace(program, choice=(Rank(Field(f"worker.{field}")),))


def _outcome(program: Program, scores: dict[int, float]) -> Outcome:
    return Outcome(Proposal(emit(program), "h.", None, program=to_json(program)), "scored", scores)


def test_a_candidate_scored_on_a_light_seed_is_judged_beside_the_incumbent_there() -> None:
    """On seed 0 there is little to win, so a small ratio to the reference there is as good as the incumbent's."""
    rng = random.Random(1)
    incumbent = _outcome(random_program(rng), {0: 49.0, 1: 20.0})
    light = _outcome(random_program(rng), {0: 49.0})
    history = History({0: 50.0, 1: 100.0}, (incumbent, light))
    assert history.incumbent() is incumbent
    assert history.effect(light) == history.effect(incumbent)
