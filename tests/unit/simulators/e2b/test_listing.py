import pytest
from e2b import E2B, SandboxQuery, SandboxState
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient

ODD = {"managedagents.dev/uid": "a b=c&d/ü+%25", "plus+key": "x%20y", "empty": ""}


async def listed(e2b: E2B, query: SandboxQuery | None = None, limit: int | None = None) -> list[str]:
    found = []
    pages = e2b.AsyncSandbox.list(query=query, limit=limit)
    while pages.has_next:
        found += [entry.sandbox_id for entry in await pages.next_items()]
    return found


@pytest.mark.parametrize("wanted", [*({key: value} for key, value in ODD.items()), ODD])
async def test_metadata_filter_is_exact_with_odd_characters(e2b: E2B, wanted: dict[str, str]) -> None:
    one = await e2b.AsyncSandbox.create("base", metadata=ODD)
    await e2b.AsyncSandbox.create("base", metadata={key: value + "x" for key, value in ODD.items()})
    assert await listed(e2b, SandboxQuery(metadata=wanted)) == [one.sandbox_id]


async def test_paused_sandboxes_are_listed_by_default_and_states_can_be_chosen(e2b: E2B) -> None:
    paused = await e2b.AsyncSandbox.create("base")
    await paused.pause()
    running = await e2b.AsyncSandbox.create("base")
    assert set(await listed(e2b)) == {paused.sandbox_id, running.sandbox_id}
    assert await listed(e2b, SandboxQuery(state=[SandboxState.PAUSED])) == [paused.sandbox_id]
    assert await listed(e2b, SandboxQuery(state=[SandboxState.RUNNING])) == [running.sandbox_id]


async def test_pages_cover_everything_once_newest_first(e2b: E2B) -> None:
    made = [(await e2b.AsyncSandbox.create("base")).sandbox_id for _ in range(7)]
    assert await listed(e2b, limit=3) == made[::-1]
    first = await e2b.AsyncSandbox.list(limit=3).next_items()
    assert [entry.sandbox_id for entry in first] == made[:3:-1]


async def test_list_can_lag_hide_and_duplicate_sandboxes(e2b: E2B, control: E2BSimulatorClient) -> None:
    await control.change_settings(list_lag_seconds=3600)
    sandbox = await e2b.AsyncSandbox.create("base")
    assert await listed(e2b) == []
    assert (await sandbox.get_info()).sandbox_id == sandbox.sandbox_id
    await control.change_settings(list_lag_seconds=0)
    assert await listed(e2b) == [sandbox.sandbox_id]
    await control.duplicate(sandbox.sandbox_id)
    assert await listed(e2b) == [sandbox.sandbox_id] * 2
    await control.hide(sandbox.sandbox_id, 3600)
    assert await listed(e2b) == []


async def test_list_can_lack_a_page_or_end_early(e2b: E2B, control: E2BSimulatorClient) -> None:
    made = [(await e2b.AsyncSandbox.create("base")).sandbox_id for _ in range(5)][::-1]
    await control.change_settings(list_page_size=2)
    assert await listed(e2b) == made
    await control.add_fault("list", "page_missing", skip=1)
    assert await listed(e2b) == made[:2] + made[4:]
    await control.clear_faults()
    await control.add_fault("list", "page_token_lost")
    assert await listed(e2b) == made[:2]
