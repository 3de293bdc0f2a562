"""Of what policies may be shown, what those in place read: the rest need not be brought up to date."""

from __future__ import annotations

from gateway.core.policy_set import PolicySet


class Needs:
    """What must be brought up to date before a policy is called, from the names its set reads."""

    __slots__ = (
        "age",
        "anything",
        "cached",
        "estimates",
        "latency",
        "oldest",
        "output",
        "prefill",
        "queue",
        "rate",
        "scraped",
    )

    def __init__(self, policy_set: PolicySet) -> None:
        reads = policy_set.reads

        def needs(*names: str) -> bool:
            return not reads or any(name in reads for name in names)

        self.estimates = needs("expected_remaining_tokens", "kv_cache_usage")
        self.output = self.estimates or needs("num_inflight_tokens")
        self.prefill = needs("num_inflight_prefill_tokens")
        self.age = needs("metrics_age")
        self.latency = needs("ttft_ewma", "tpot_ewma")
        self.cached = needs("num_cached_tokens")
        self.scraped = needs("kv_cache_usage", "num_requests_running", "num_requests_waiting", "metrics_age")
        self.rate = needs(
            "arrival_rate",
            "mean_prompt_tokens",
            "mean_output_tokens",
            "num_arrived_requests",
            "num_arrived_prompt_tokens",
        )
        self.oldest = needs("oldest_queued_arrival")
        self.queue = self.oldest or needs("num_queued_requests", "num_queued_prompt_tokens")
        self.anything = self.output or self.prefill or self.age or self.latency or self.rate
