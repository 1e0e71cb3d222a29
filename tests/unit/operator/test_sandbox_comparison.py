"""What a list of sandboxes shows about resources that have changed since it was requested."""

from __future__ import annotations

import pytest
from managed_session_operator.domain.resource_cache import ResourceCache
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.resync.ownership import Owners
from managed_session_operator.resync.sandbox_comparison import SandboxComparison
from managed_session_operator.resync.sandbox_list import Listing

from .examples import NAME, PAUSED, ago, body, work


@pytest.mark.parametrize(
    ("finished", "found"), [(5, set()), (60, {NAME})], ids=["after the list was requested", "before"]
)
def test_a_sandbox_that_was_paused_after_the_list_was_requested_does_not_run_for_nothing(
    finished: float, found: set[str]
) -> None:
    cache = ResourceCache()
    cache.observe(body(status={"sandbox": PAUSED, "work": work(finished=finished)}))
    running = SandboxView(str(PAUSED["id"]), False, "template", {}, ago(100), ago(-100))
    comparison = SandboxComparison(connected=lambda _: False)
    for _ in range(2):
        listing = Listing([running], asked_at=ago(10), whole=True)
        compared = comparison.compare(listing, listing.views, Owners(cache), cache)
    assert compared.running_unneeded == found
