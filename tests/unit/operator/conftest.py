"""Property tests judge what comes out, not how long a busy machine takes for one example."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("properties", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("properties")
