"""Signs that another installation shares the environment: a warning while they last."""

from __future__ import annotations

import pytest
from managed_session_operator.domain.shared_environment import SharedEnvironmentDetector
from managed_session_operator.metrics import Metrics

from .examples import ago


class Watched:
    """A `SharedEnvironmentDetector`, with its reports."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.metrics = Metrics()
        self.shared_environment = SharedEnvironmentDetector(
            self.metrics.environment_shared.set, self.warnings.append
        )

    @property
    def gauge(self) -> float | None:
        return self.metrics.registry.get_sample_value("managed_sessions_environment_shared")


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_lasting_second_poller_is_warned_about_once(watched: Watched) -> None:
    for count in (2, 2, 1, 2, 2):
        watched.shared_environment.polled(count)
    assert (watched.warnings, watched.gauge) == ([], 0)
    watched.shared_environment.polled(2)
    watched.shared_environment.polled(3)
    assert len(watched.warnings) == 1
    assert watched.gauge == 1


def test_warning_ends_with_its_cause_and_returns_with_the_next(watched: Watched) -> None:
    for count in (2, 2, 2, 1):
        watched.shared_environment.polled(count)
    assert watched.gauge == 0
    for _ in range(3):
        watched.shared_environment.polled(2)
    assert len(watched.warnings) == 2


def test_missing_count_changes_nothing(watched: Watched) -> None:
    for count in (2, 2, None, 2):
        watched.shared_environment.polled(count)
    assert watched.gauge == 1


def test_work_that_others_serve_counts_at_the_second_list(watched: Watched) -> None:
    watched.shared_environment.listed({"sesn_1"}, ago(60))
    assert watched.gauge == 0
    watched.shared_environment.listed({"sesn_1", "sesn_2"}, ago(30))
    assert watched.gauge == 1
    assert "sesn_1" in watched.warnings[0]
    assert "sesn_2" not in watched.warnings[0]
    watched.shared_environment.listed({"sesn_2"}, ago(29))
    watched.shared_environment.listed(set(), ago(1))
    assert watched.gauge == 0


def test_nothing_is_known_after_the_lead_is_lost(watched: Watched) -> None:
    for _ in range(3):
        watched.shared_environment.polled(2)
    watched.shared_environment.clear()
    assert watched.gauge == 0
    watched.shared_environment.polled(2)
    assert watched.gauge == 0
