"""One simulated worker: an engine, how far it has come, and which of its tokens the gateway cannot have seen."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from designer.simulator.fleet import WorkerPlan
from designer.simulator.records import NEVER, RequestRecord
from gateway.core.events import WorkerMetrics
from gateway.mockworker.engine import BatchPolicy, TokenRun


class SimulatedWorker:
    __slots__ = (
        "_batch_policy",
        "_most_tokens",
        "_scrape_rng",
        "_unseen",
        "clock",
        "engine",
        "gone",
        "hangs",
        "index",
        "num_made_before",
        "plan",
        "unstreamed",
        "up_at",
        "wake",
    )

    def __init__(self, index: int, plan: WorkerPlan, batch_policy: BatchPolicy | None, seed: int = 0) -> None:
        self.index = index
        self.plan = plan
        self._most_tokens = plan.config.max_request_tokens
        self._batch_policy = batch_policy
        self._scrape_rng = Random(f"{seed}/scrapes/{plan.worker_id}")
        self.engine = plan.engine(batch_policy)
        self.num_made_before = 0
        """Tokens that engines made which broke down."""
        self.up_at = 0
        """It is down before that time ..."""
        self.hangs = False
        """... and takes requests none the less."""
        self.gone = False
        """Taken away by the autoscaler."""
        self.clock = 0
        """How far the engine has been advanced."""
        self.wake = NEVER
        """When the engine is next looked at."""
        self._unseen = 0
        """Tokens that never reach the gateway: their clients had left."""
        self.unstreamed: dict[str, RequestRecord] = {}
        """Requests of whose tokens none reaches the gateway before the end: while there is one, counts are exact
        only as of the engine's own clock."""

    def accepts(self, record: RequestRecord) -> bool:
        """Whether the prompt leaves room for a token in the KV cache; a vLLM server answers 400 to others."""
        return record.truth.num_prompt_tokens < self._most_tokens

    def add(self, record: RequestRecord, now: int) -> None:
        record.landed = True
        self.clock = now
        self.engine.add(record.truth, now)
        if not record.stream:
            self.unstreamed[record.request_id] = record

    def advance(self, now: int) -> list[TokenRun]:
        self.clock = now
        return self.engine.advance(now)

    def answered(self, record: RequestRecord) -> None:
        """The whole answer is at the gateway."""
        self.unstreamed.pop(record.request_id, None)

    def num_made(self, record: RequestRecord) -> int:
        """Tokens of the answer at the worker, as of ``clock``."""
        stats = record.stats or self.engine.stats(record.request_id)
        return stats.num_output_tokens if stats else 0

    def client_left(self, record: RequestRecord) -> int:
        """Tokens of the answer that the gateway has seen, as of ``clock``; it sees no more of them."""
        made = record.made_at_leaving = self.num_made(record)
        seen = made if record.stream else 0
        self._unseen += made - seen
        self.unstreamed.pop(record.request_id, None)
        return seen

    def abort(self, record: RequestRecord, now: int) -> None:
        """The gateway closed its connection: its client had left."""
        self._forget(record)
        self.engine.cancel(record.request_id, now)

    def break_down(self, records: Iterable[RequestRecord], up_at: int, *, hangs: bool) -> None:
        """As of ``clock``, these requests come to nothing; at ``up_at`` it is back, with an empty engine.

        Args:
            records: all that the engine has, those included whose clients left and whose abort has not come.
        """
        for record in records:
            record.broken = True
            if record.made_at_leaving == NEVER:
                record.made_at_leaving = self.num_made(record) if record.stream else 0
                self.unstreamed.pop(record.request_id, None)
            self._forget(record)
        self.num_made_before += self.engine.num_output_tokens_at(self.clock)
        self.engine = self.plan.engine(self._batch_policy)
        self.wake = NEVER
        self.up_at, self.hangs = up_at, hangs

    def _forget(self, record: RequestRecord) -> None:
        """The engine is through with it: what it made that was not seen never will be."""
        record.stats = record.stats or self.engine.stats(record.request_id)
        self._unseen += self.num_made(record) - record.made_at_leaving
        record.made_at_leaving = NEVER

    def num_tokens_seen(self, now: int) -> int:
        """Tokens that the gateway has seen of all answers together; ``now`` is not before ``clock``."""
        hidden = self._unseen
        if self.unstreamed:
            hidden += sum(map(self.num_made, self.unstreamed.values()))
        return self.num_made_before + self.engine.num_output_tokens_at(now) - hidden

    def until_next_scrape(self, interval_ps: int) -> int:
        """The gateway waits up to a tenth less or more than the interval, so that many workers spread over it."""
        return round(interval_ps * self._scrape_rng.uniform(0.9, 1.1))

    def metrics(self) -> WorkerMetrics:
        """What a scrape finds, as of ``clock``."""
        engine = self.engine
        return WorkerMetrics(engine.num_running, engine.num_waiting, engine.kv_cache_usage)
