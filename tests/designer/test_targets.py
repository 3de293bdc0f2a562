"""What a winner must beat: in every target policies that fill its slots, in every scenario those that fit it."""

import pytest

from designer.proposers.roster import TargetError
from designer.simulator.scenario import load_scenario
from designer.subject import load_subject, subject_of_specs
from designer.targets import BASELINES, REFERENCES, baselines_of, references_of

GLIA = load_scenario("glia")


@pytest.mark.parametrize("target", ["routing", "scheduling", "autoscaling", "batch", "routing,autoscaling,batch"])
def test_baselines_fill_the_slots_of_their_target(target: str) -> None:
    found = baselines_of(target, GLIA)
    assert 2 <= len(found) <= 8
    assert len(set(found)) == len(found)
    filled = [{slot for part in load_subject(subject_of_specs(text), 1) for slot in part.slots} for text in found]
    for part in target.split(","):
        missing = [slots for slots in filled if part not in slots]
        assert part == "batch" or not missing, "vLLM's own order in the engine is no policy"
        assert len(missing) < len(found)


def test_routing_is_measured_as_ever() -> None:
    assert baselines_of("routing", GLIA) == BASELINES
    assert references_of("routing,scheduling") == REFERENCES
    assert references_of("autoscaling") == ()


def test_a_prefix_cache_and_unlike_workers_have_rules_of_their_own() -> None:
    assert baselines_of("routing", load_scenario("mooncake"))[-1] == "prefix_affinity+fcfs"
    assert baselines_of("routing", load_scenario("mixed-variants"))[-1] == "latency_weighted+fcfs"
    for name in ("bursty", "multi-tenant", "azure-conv"):
        assert baselines_of("routing", load_scenario(name)) == BASELINES


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(TargetError, match="no target 'moon'"):
        baselines_of("moon", GLIA)
