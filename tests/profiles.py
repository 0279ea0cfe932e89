"""Of the property tests: a few inputs, always the same ones; ``--hypothesis-profile thorough`` makes it a thousand new ones."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
settings.register_profile("small", max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=_CHECKS)
settings.register_profile("thorough", max_examples=1000, deadline=None, suppress_health_check=_CHECKS)
if settings.get_current_profile_name() in ("default", "ci"):
    settings.load_profile("small")
