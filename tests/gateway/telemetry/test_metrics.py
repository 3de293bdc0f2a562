"""The gateway's own numbers: right, and bounded in labels."""

from __future__ import annotations

from gateway.core.commands import Cancel, Dispatch, Reject
from gateway.core.events import Ticked
from gateway.telemetry.metrics import GatewayMetrics, counter, gauge
from gateway.telemetry.sinks import sink_of
from gateway.telemetry.tallies import MAX_SERIES, Tally


def finish(metrics: GatewayMetrics, **changes: object) -> None:
    values: dict[str, object] = {
        "path": "/v1/completions",
        "model": "m",
        "tenant": "t",
        "worker_id": "w",
        "status": 200,
        "ending": "completed",
        "queue_seconds": 0.1,
        "ttft_seconds": 0.5,
        "e2e_seconds": 2.5,
        "num_prompt_tokens": 7,
        "num_output_tokens": 5,
    }
    metrics.request_finished(**{**values, **changes})  # type: ignore[arg-type]


def value(metrics: GatewayMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_completed_request() -> None:
    metrics = GatewayMetrics(lambda worker_id: "p")
    finish(metrics)
    assert value(metrics, "ranvier_requests_total", pool="p", code="2xx", ending="completed") == 1
    assert value(metrics, "ranvier_request_ttft_seconds_sum", pool="p") == 0.5
    assert value(metrics, "ranvier_request_tpot_seconds_sum", pool="p") == 0.5
    assert value(metrics, "ranvier_request_e2e_seconds_sum", pool="p") == 2.5
    assert value(metrics, "ranvier_request_queue_seconds_sum", pool="p") == 0.1
    assert value(metrics, "ranvier_request_queue_seconds_bucket", pool="p", le="0.05") == 0
    assert value(metrics, "ranvier_request_queue_seconds_bucket", pool="p", le="0.1") == 1
    assert value(metrics, "ranvier_request_queue_seconds_bucket", pool="p", le="+Inf") == 1
    assert value(metrics, "ranvier_tokens_total", pool="p", kind="prompt") == 7
    assert value(metrics, "ranvier_tokens_total", pool="p", kind="output") == 5


def test_a_request_that_no_worker_had_counts_for_the_pool_of_its_model() -> None:
    metrics = GatewayMetrics(lambda worker_id: "", lambda model: "q" if model == "m" else "")
    finish(metrics, worker_id="", model="m", status=429, ending="rejected", ttft_seconds=None)
    finish(metrics, worker_id="gone", model="m")
    assert value(metrics, "ranvier_requests_total", pool="q", code="4xx", ending="rejected") == 1
    assert value(metrics, "ranvier_requests_total", pool="q", code="2xx", ending="completed") == 1


def test_a_request_that_no_worker_had() -> None:
    metrics = GatewayMetrics(lambda worker_id: "p")
    finish(metrics, worker_id="", status=503, ending="rejected", ttft_seconds=None)
    finish(metrics, worker_id="", status=0, ending="cancelled", ttft_seconds=None)
    assert value(metrics, "ranvier_requests_total", pool="", code="5xx", ending="rejected") == 1
    assert value(metrics, "ranvier_requests_total", pool="", code="none", ending="cancelled") == 1
    assert value(metrics, "ranvier_request_e2e_seconds_count", pool="") == 0


def test_a_client_cannot_make_labels() -> None:
    metrics = GatewayMetrics(lambda worker_id: "p")
    finish(metrics)
    before = metrics.page().count(b"\n")
    for number in range(100):
        finish(metrics, model=f"m{number}", tenant=f"t{number}", path=f"/v1/{number}")
    assert metrics.page().count(b"\n") == before


def test_a_worker_cannot_make_labels() -> None:
    metrics = GatewayMetrics()
    for number in range(600, 900):
        metrics.request_retried("w", f"first_event_{number}")
        metrics.request_retried("w", f"status_{number}")
    metrics.request_retried("w", "status_503")
    assert value(metrics, "ranvier_retries_total", worker="w", reason="first_event_other") == 300
    assert value(metrics, "ranvier_retries_total", worker="w", reason="status_other") == 300
    assert value(metrics, "ranvier_retries_total", worker="w", reason="status_503") == 1


def test_labels_are_bounded_whoever_makes_them() -> None:
    tally = Tally("t", "T.", ["a", "b"])
    for number in range(MAX_SERIES + 50):
        tally.add((str(number), "x"))
        tally.add(("0", "x"))
    assert len(tally.counts) == MAX_SERIES + 1
    assert (tally.counts["other", "other"], tally.counts["0", "x"]) == (50, MAX_SERIES + 51)


def test_decisions_are_counted() -> None:
    metrics = GatewayMetrics()
    hear = sink_of([metrics.event_handled, metrics.event_handled])
    hear(Ticked(0.0), {}, [Dispatch("r", "w"), Reject("s", "shed"), Cancel("t", "w")])
    assert value(metrics, "ranvier_dispatches_total", worker="w") == 2
    assert value(metrics, "ranvier_rejects_total", reason="shed") == 2


def test_a_worker_that_left_leaves_no_labels() -> None:
    metrics = GatewayMetrics()
    metrics.event_handled(Ticked(0.0), {}, [Dispatch("r", "w"), Dispatch("r", "stays")])
    metrics.scraped("w", True)
    metrics.health_changed("w", False)
    metrics.request_retried("w", "connect")
    metrics.worker_left("w")
    assert b'worker="w"' not in metrics.page()
    assert b'worker="stays"' in metrics.page()
    metrics.event_handled(Ticked(0.0), {}, [Dispatch("r", "w")])
    assert value(metrics, "ranvier_dispatches_total", worker="w") == 1


def test_refusals_and_swaps() -> None:
    metrics = GatewayMetrics()
    metrics.request_refused(413)
    metrics.policy_swapped("p", "file", False)
    assert value(metrics, "ranvier_refused_requests_total", code="413") == 1
    assert value(metrics, "ranvier_policy_swaps_total", pool="p", origin="file", outcome="refused") == 1


def test_what_is_read_when_asked() -> None:
    metrics = GatewayMetrics()
    now = [1.0]
    metrics.add_collector(lambda: [gauge("g", "", ["x"], [(["a"], now[0])]), counter("c", "", [], [([], 3)])])
    now[0] = 2.0
    assert value(metrics, "g", x="a") == 2.0
    assert value(metrics, "c_total") == 3
