"""The tests mirror the tree: every source file has a test file of its name, or one named here that covers it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("policies", "gateway", "designer", "loadgen")

COVERED_BY = {
    "policies/contract.py": "tests/policies/test_conformance.py",
    "gateway/admin/client.py": "tests/gateway/test_cli.py",
    "gateway/admin/view.py": "tests/gateway/admin/test_app.py",
    "gateway/check.py": "tests/gateway/test_cli.py",
    "gateway/config_file.py": "tests/gateway/test_config.py",
    "gateway/config_values.py": "tests/gateway/test_config.py",
    "gateway/core/commands.py": "tests/gateway/core/test_dispatcher.py",
    "gateway/core/events.py": "tests/gateway/core/test_dispatcher.py",
    "gateway/core/needs.py": "tests/gateway/core/test_pool.py",
    "gateway/core/pools.py": "tests/gateway/core/test_dispatcher.py",
    "gateway/core/rests.py": "tests/gateway/core/test_pool.py",
    "gateway/core/worker_events.py": "tests/gateway/core/test_dispatcher.py",
    "gateway/discovery/static.py": "tests/gateway/discovery/test_membership.py",
    "gateway/errors.py": "tests/gateway/test_cli.py",
    "gateway/inherited.py": "tests/gateway/test_supervisor.py",
    "gateway/http/exchange.py": "tests/gateway/http/test_data_plane.py",
    "gateway/http/head_checks.py": "tests/gateway/http/test_client_connection.py",
    "gateway/http/metrics.py": "tests/gateway/telemetry/test_metrics.py",
    "gateway/http/settings.py": "tests/gateway/test_settings.py",
    "gateway/http/slow_client.py": "tests/gateway/http/test_client_connection.py",
    "gateway/mockworker/engine_types.py": "tests/gateway/mockworker/test_engine.py",
    "gateway/mockworker/batch.py": "tests/gateway/mockworker/test_engine_reference.py",
    "gateway/mockworker/contention.py": "tests/gateway/mockworker/test_engine_reference.py",
    "gateway/mockworker/scheduler.py": "tests/gateway/mockworker/test_engine_reference.py",
    "gateway/mockworker/stretch.py": "tests/gateway/mockworker/test_engine_reference.py",
    "gateway/policy_check.py": "tests/gateway/test_policy_files.py",
    "gateway/policy_loading.py": "tests/gateway/test_policy_files.py",
    "gateway/replicas/leash.py": "tests/gateway/replicas/test_process.py",
    "gateway/replicas/mock_workers.py": "tests/e2e/test_swaps_under_load.py",
    "gateway/vllm_scheduler.py": "tests/twin/test_twin.py",
    "gateway/telemetry/sinks.py": "tests/gateway/telemetry/test_metrics.py",
    "gateway/telemetry/tallies.py": "tests/gateway/telemetry/test_metrics.py",
    "designer/cheats.py": "tests/designer/test_audit.py",
    "designer/evaluations.py": "tests/designer/test_sealed.py",
    "designer/findings.py": "tests/designer/test_report.py",
    "designer/proposers/behaviour.py": "tests/designer/proposers/test_expressible.py",
    "designer/proposers/founders.py": "tests/designer/proposers/test_expressible.py",
    "designer/proposers/interpret_batch.py": "tests/designer/proposers/test_emit_batch.py",
    "designer/proposers/interpret_scaling.py": "tests/designer/proposers/test_emit_scaling.py",
    "designer/proposers/known_rules.py": "tests/designer/proposers/test_joint.py",
    "designer/proposers/sections.py": "tests/designer/proposers/test_parts.py",
    "designer/proposers/interpret.py": "tests/designer/proposers/test_emit.py",
    "designer/proposers/protocol.py": "tests/designer/test_ledger.py",
    "designer/proposers/random.py": "tests/designer/proposers/test_evolve.py",
    "designer/proposers/sampling.py": "tests/designer/proposers/test_grammar.py",
    "designer/proposers/variation.py": "tests/designer/proposers/test_evolve.py",
    "designer/proposers/vocabulary.py": "tests/designer/proposers/test_emit.py",
    "designer/report_page.py": "tests/designer/test_report.py",
    "designer/simulator/actuator.py": "tests/designer/simulator/test_world.py",
    "designer/simulator/clients.py": "tests/designer/simulator/test_world.py",
    "designer/simulator/ending.py": "tests/designer/simulator/test_invariants.py",
    "designer/simulator/outages.py": "tests/designer/simulator/test_world.py",
    "designer/simulator/tokens_seen.py": "tests/designer/simulator/test_world.py",
    "designer/simulator/workload_tables.py": "tests/designer/simulator/test_scenario.py",
    "designer/subject.py": "tests/designer/test_sandbox.py",
    "designer/warm.py": "tests/designer/test_sandbox.py",
    "designer/lockstep_host.py": "tests/designer/test_lockstep.py",
    "designer/lockstep_messages.py": "tests/designer/test_lockstep.py",
    "designer/wire.py": "tests/designer/test_lockstep.py",
    "designer/work_policy.py": "tests/designer/test_lockstep.py",
    "designer/work_simulation.py": "tests/designer/test_lockstep.py",
}


def sources() -> list[str]:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in files if not path.name.startswith("__"))


def own_test(source: str) -> str:
    path = Path(source)
    return str("tests" / path.parent / f"test_{path.name}")


@pytest.mark.parametrize("source", sources())
def test_every_source_file_has_its_tests(source: str) -> None:
    assert (ROOT / COVERED_BY.get(source, own_test(source))).is_file()


def test_no_exception_is_out_of_date() -> None:
    assert [source for source in COVERED_BY if source not in sources() or (ROOT / own_test(source)).is_file()] == []
