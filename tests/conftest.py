"""For all tests. A busy machine makes an example slow, not wrong: hypothesis is told not to mind."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("ranvier", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ranvier")
