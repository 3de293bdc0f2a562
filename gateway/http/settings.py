"""Every limit and timeout of the data plane. Seconds and bytes; a timeout of 0 is off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Forwarded = Literal["pass", "replace", "append"]
"""What becomes of ``X-Forwarded-…``: passed on as it came; replaced by what the gateway sees; or trusted, and the
peer's address appended."""


@dataclass(slots=True, frozen=True)
class HttpSettings:
    """Defaults are for production behind any network; timeouts are noticed up to one ``sweep_seconds`` late."""

    max_header_bytes: int = 65_536
    """Request line and headers together; more is 431 (an over-long URL alone is 414)."""
    max_headers: int = 128
    max_url_bytes: int = 8_192
    max_body_bytes: int = 64 * 1024 * 1024
    """One request's body; more is 413. Bodies are held whole until an answer begins, so that they can be retried."""
    max_buffered_body_bytes: int = 2 * 1024 * 1024 * 1024
    """All request bodies held at once; a body that would go over is refused with 503 and Retry-After."""
    max_pipelined_requests: int = 16
    """Requests a client may send ahead on one connection; beyond, it is not read until its turn comes."""
    max_connections: int = 20_000
    """Client connections; one more is answered 503 and closed."""

    header_timeout_seconds: float = 30.0
    """From a request's first byte to the end of its headers: 408."""
    body_timeout_seconds: float = 60.0
    """Between two reads of a request's body: 408."""
    idle_timeout_seconds: float = 75.0
    """A keep-alive connection without a request; closed silently."""
    write_timeout_seconds: float = 120.0
    """A client that has read nothing of an answer that waits for it, for this long, has left."""
    min_upload_bytes_per_second: float = 100.0
    """Of a body, on average, looked at once it has been coming for ``body_timeout_seconds``: 408. 0: off."""
    total_timeout_seconds: float = 0.0
    """From a request's end to its answer's end: then 504, or an error event in a stream. 0: off."""
    linger_seconds: float = 2.0
    """After refusing a request whose body is still coming: how long the rest is read and thrown away."""

    connect_timeout_seconds: float = 5.0
    first_byte_timeout_seconds: float = 600.0
    """From the last byte sent to a worker to the first of its answer. An answer that is not streamed takes its whole
    generation until then."""
    retry_timeouts: bool = False
    """Whether a request that a worker did not answer in time is tried at another one. It may have been worked on all
    that time: where workers are slow because there is too much to do, that makes it more."""
    inter_token_timeout_seconds: float = 300.0
    """Between two reads of an answer that has begun."""
    worker_idle_seconds: float = 4.0
    """A pooled worker connection is closed after this long unused: below the 5 s of vLLM
    (``VLLM_HTTP_TIMEOUT_KEEP_ALIVE``)."""
    max_idle_connections_per_worker: int = 512
    max_held_response_bytes: int = 65_536
    """Of an answer held back while it is not known whether it is an error to be retried; beyond, it is passed on."""
    max_response_head_bytes: int = 65_536
    passthrough_attempts: int = 3
    """Workers tried for a path that no policy decides on, while none has been reached."""

    models_max_age_seconds: float = 5.0
    """How old the merged ``/v1/models`` may be."""
    models_timeout_seconds: float = 5.0
    """For one worker's ``/v1/models``; a worker that does not answer keeps what was last known of it."""
    sweep_seconds: float = 1.0
    """Every connection's timeout is looked at once in this time."""
    priority_range: tuple[int, int] = (-10, 10)
    """What a client without an API key may ask for, higher first; beyond is taken for the bound. With a key the lower
    bound is how far it may go below its key's."""
    administrative_paths: frozenset[str] = frozenset()
    """Of the worker paths that change its state (``/sleep``, ``/v1/load_lora_adapter`` …), those that clients of the
    data port may use; ``*`` is all of them."""
    forwarded: Forwarded = "pass"
    forward_authorization: bool = False
    """With API keys: the client's own is passed on to workers. Without, whatever it sends always is."""
    reuse_port: bool = False
    """SO_REUSEPORT: several processes, or the next one while this one drains, on the same port."""
    backlog: int = 4_096
