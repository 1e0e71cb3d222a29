"""Property tests have no deadline, because a busy machine may take long for an example."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("properties", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("properties")
