from __future__ import annotations

import pytest

from gateway.mockworker.config import MockConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("speed", 0.0),
        ("speed", float("nan")),
        ("max_num_queued_reqs", -1),
        ("output_median", 0.0),
        ("output_sigma", -0.1),
        ("sse_keep_alive_interval", -1.0),
        ("shutdown_timeout", -1.0),
    ],
)
def test_a_wrong_value_is_named(field: str, value: float) -> None:
    wrong: dict[str, float] = {field: value}
    with pytest.raises(ValueError, match=f"^{field} must"):
        MockConfig(**wrong)  # type: ignore[arg-type]


def test_the_defaults_are_a_vllm_without_flags() -> None:
    config = MockConfig()
    assert (config.speed, config.max_num_queued_reqs, config.shutdown_timeout) == (1.0, 0, 0.0)
    assert not config.enable_prompt_tokens_details and not config.enable_request_id_headers
