"""A worker in virtual time that answers a calibration's probes: the step-by-step engine, on a profile that is known."""

from __future__ import annotations

from collections.abc import Sequence

from designer.worker_probe import Ask, Stream
from gateway.mockworker.engine import PS_PER_SECOND, EngineRequest
from gateway.mockworker.profile import WorkerProfile
from tests.support.reference_engine import ReferenceEngine


class VirtualWorker:
    """Every batch meets an idle engine."""

    def __init__(self, profile: WorkerProfile) -> None:
        self._profile = profile
        self.num_batches = 0

    def run(self, asks: Sequence[Ask]) -> list[Stream]:
        self.num_batches += 1
        engine = ReferenceEngine(self._profile.engine, self._profile)
        for index, ask in sorted(enumerate(asks), key=lambda pair: pair[1].delay):
            request = EngineRequest(str(index), ask.num_prompt_tokens, ask.num_output_tokens)
            engine.add(request, round(ask.delay * PS_PER_SECOND))
        times: list[list[float]] = [[] for _ in asks]
        for run in engine.advance(10**6 * PS_PER_SECOND):
            assert run.num_steps == 1
            for request_id in run.request_ids:
                times[int(request_id)].append(run.end / PS_PER_SECOND)
        return [
            Stream(ask, ask.delay, tuple(seen), tuple(range(1, len(seen) + 1)))
            for ask, seen in zip(asks, times, strict=True)
        ]
