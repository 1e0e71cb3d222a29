"""A sandbox in which somebody works is not paused for lack of work, as long as that is renewed."""

from __future__ import annotations

import pytest
from managed_session_api.names import ANNOTATION_ATTENDED
from managed_session_operator.domain.decide import decide
from managed_session_operator.domain.step import Step

from .examples import ago, observation, offer, session

AWAKE = {"sandbox": {"id": "i1", "state": "Running"}}


@pytest.mark.parametrize(
    ("until", "step"),
    [
        (ago(-90).isoformat(), Step.WAIT),
        (ago(-900).isoformat(), Step.WAIT),
        (ago(-901).isoformat(), Step.PAUSE),  # nobody renews that
        (ago(0).isoformat(), Step.PAUSE),
        (ago(10).isoformat(), Step.PAUSE),
        ("soon", Step.PAUSE),
        ("", Step.PAUSE),
    ],
)
def test_sandbox_is_paused_unless_it_is_attended(until: str, step: Step) -> None:
    decision = decide(session(AWAKE, annotations={ANNOTATION_ATTENDED: until}), observation())
    assert decision.step is step
    if step is Step.WAIT:
        assert decision.again_after is not None
        assert decision.again_after > 0


def test_work_and_suspension_go_before_attendance() -> None:
    annotations = {ANNOTATION_ATTENDED: ago(-90).isoformat()}
    at_work = session(AWAKE, annotations=annotations)
    assert decide(at_work, observation(offer=offer(), message_known=True)).step is Step.CLAIM
    suspended = session(AWAKE, annotations=annotations, spec={"lifecycle": {"suspend": True}})
    assert decide(suspended, observation()).step is Step.SUSPEND
