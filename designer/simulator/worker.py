"""One simulated worker: an engine, how far it has come, and which of its tokens the gateway cannot have seen."""

from __future__ import annotations

from designer.simulator.fleet import WorkerPlan
from designer.simulator.records import NEVER, RequestRecord
from gateway.core.events import WorkerMetrics
from gateway.mockworker.engine import BatchPolicy, TokenRun


class SimulatedWorker:
    __slots__ = ("_unseen", "_unstreamed", "clock", "engine", "index", "plan", "wake")

    def __init__(self, index: int, plan: WorkerPlan, batch_policy: BatchPolicy | None) -> None:
        self.index = index
        self.plan = plan
        self.engine = plan.engine(batch_policy)
        self.clock = 0
        """How far the engine has been advanced."""
        self.wake = NEVER
        """When the engine is next looked at."""
        self._unseen = 0
        """Tokens that never reach the gateway: their clients had left."""
        self._unstreamed: dict[str, RequestRecord] = {}
        """Requests of whose tokens none reaches the gateway before the end."""

    def accepts(self, record: RequestRecord) -> bool:
        """Whether the prompt leaves room for a token in the KV cache; a vLLM server answers 400 to others."""
        return record.truth.num_prompt_tokens < self.plan.config.max_request_tokens

    def add(self, record: RequestRecord, now: int) -> None:
        record.landed = True
        self.clock = now
        self.engine.add(record.truth, now)
        if not record.stream:
            self._unstreamed[record.request_id] = record

    def advance(self, now: int) -> list[TokenRun]:
        self.clock = now
        return self.engine.advance(now)

    def answered(self, record: RequestRecord) -> None:
        """The whole answer is at the gateway."""
        self._unstreamed.pop(record.request_id, None)

    def num_made(self, record: RequestRecord) -> int:
        """Tokens of the answer at the worker, as of ``clock``."""
        stats = record.stats or self.engine.stats(record.request_id)
        return stats.num_output_tokens if stats else 0

    def client_left(self, record: RequestRecord) -> int:
        """Tokens of the answer that the gateway has seen, as of ``clock``; it sees no more of them."""
        made = self.num_made(record)
        seen = made if record.stream else 0
        self._unseen += made - seen
        self._unstreamed.pop(record.request_id, None)
        return seen

    def abort(self, record: RequestRecord, num_made_before: int, now: int) -> None:
        """The gateway closed its connection, with so many tokens made when the client left."""
        self._unseen += self.num_made(record) - num_made_before
        record.stats = record.stats or self.engine.stats(record.request_id)
        self.engine.cancel(record.request_id, now)

    @property
    def hides_tokens(self) -> bool:
        """Some answer is not streamed: counts are exact only as of the engine's own clock."""
        return bool(self._unstreamed)

    def num_tokens_seen(self, now: int) -> int:
        """Tokens that the gateway has seen of all answers together; ``now`` is not before ``clock``."""
        hidden = self._unseen
        for record in self._unstreamed.values():
            hidden += self.num_made(record)
        return self.engine.num_output_tokens_at(now) - hidden

    def metrics(self) -> WorkerMetrics:
        """What a scrape finds, as of ``clock``."""
        return WorkerMetrics(
            num_requests_running=self.engine.num_running,
            num_requests_waiting=self.engine.num_waiting,
            kv_cache_usage=self.engine.kv_cache_usage,
        )
