"""The probe over HTTP, against mock workers in a process of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from designer.processes import free_port, running_mock_workers
from designer.worker_probe import Ask, HttpProber, ProbeError


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_mock_workers(["--profile", "demo", "--speed", "20", "--max-model-len", "500"]) as urls:
        yield urls[0]


def test_answers_have_the_lengths_asked_for(url: str) -> None:
    asks = [Ask(0.0, 40, 12), Ask(0.05, 100, 3)]
    with HttpProber(url) as prober:
        streams = prober.run(asks)
    assert [stream.ask for stream in streams] == asks
    assert [stream.counts[-1] for stream in streams] == [12, 3]
    assert all(len(stream.times) == len(stream.counts) for stream in streams)
    assert all(list(stream.times) == sorted(stream.times) for stream in streams)
    assert all(0 < stream.ttft <= stream.response_time for stream in streams)
    assert streams[1].sent > streams[0].sent


def test_what_the_worker_tells_of_itself(url: str) -> None:
    with HttpProber(url) as prober:
        told = prober.cache_config()
        assert told["block_size"] == "16"
        assert int(told["num_gpu_blocks"]) == 240
        assert prober.max_model_len() == 500


def test_a_refusal_is_an_error(url: str) -> None:
    with HttpProber(url) as prober, pytest.raises(ProbeError, match="HTTP 400"):
        prober.run([Ask(0.0, 600, 5)])


def test_a_wrong_model_is_an_error(url: str) -> None:
    with HttpProber(url, "another") as prober, pytest.raises(ProbeError, match="HTTP 404"):
        prober.run([Ask(0.0, 6, 5)])


def test_nobody_there_is_an_error() -> None:
    with HttpProber(f"http://127.0.0.1:{free_port()}") as prober, pytest.raises(ProbeError, match=r"127\.0\.0\.1"):
        prober.run([Ask(0.0, 6, 5)])
