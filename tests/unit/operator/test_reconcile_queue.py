"""The reconcile queue, on a real event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from managed_session_operator.controller.reconcile_queue import ReconcileQueue

Reconcile = Callable[[str], Awaitable[float | None]]


@asynccontextmanager
async def _running(queue: ReconcileQueue, reconcile: Reconcile) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(queue.run(reconcile))
    try:
        async with asyncio.timeout(20):
            yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Probe:
    """A reconcile function that counts its calls, and holds each until a test releases it."""

    def __init__(self) -> None:
        self.reconciles: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()
        self.most_at_once = 0
        self.gate = asyncio.Event()
        self.changed = asyncio.Condition()
        self.running = 0

    async def __call__(self, key: str) -> float | None:
        async with self.changed:
            self.reconciles[key] += 1
            self.at_once[key] += 1
            self.running += 1
            assert self.at_once[key] == 1, "two reconciles of one key"
            self.most_at_once = max(self.most_at_once, self.running)
            self.changed.notify_all()
        await self.gate.wait()
        async with self.changed:
            self.at_once[key] -= 1
            self.running -= 1
            self.changed.notify_all()
        return None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(condition)


async def test_a_waiting_key_is_reconciled_once() -> None:
    queue, probe = ReconcileQueue(concurrency=4), _Probe()
    for _ in range(5):
        queue.add("a")
    assert len(queue) == 1
    probe.gate.set()
    async with _running(queue, probe):
        queue.add("b")
        await probe.until(lambda: probe.reconciles["b"] == 1 and probe.running == 0)
    assert probe.reconciles == {"a": 1, "b": 1}


async def test_a_key_that_changes_during_its_reconcile_is_reconciled_once_more_afterwards() -> None:
    queue, probe = ReconcileQueue(concurrency=4), _Probe()
    async with _running(queue, probe):
        queue.add("a")
        await probe.until(lambda: probe.reconciles["a"] == 1)
        for _ in range(5):
            queue.add("a")
        probe.gate.set()
        await probe.until(lambda: probe.reconciles["a"] == 2 and probe.running == 0)
        queue.add("b")
        await probe.until(lambda: probe.reconciles["b"] == 1 and probe.running == 0)
    assert probe.reconciles["a"] == 2


async def test_concurrency_is_limited_and_no_key_is_forgotten() -> None:
    queue, probe = ReconcileQueue(concurrency=3), _Probe()
    keys = [f"key-{number}" for number in range(20)]
    async with _running(queue, probe):
        for key in keys:
            queue.add(key)
        await probe.until(lambda: probe.running == 3)
        assert queue.active == 3
        probe.gate.set()
        await probe.until(lambda: len(probe.reconciles) == 20 and probe.running == 0)
    assert probe.most_at_once == 3
    assert set(probe.reconciles.values()) == {1}


async def test_a_reconcile_may_request_another_one_later() -> None:
    queue, times = ReconcileQueue(concurrency=1), list[float]()
    done = asyncio.Event()

    async def reconcile(_: str) -> float | None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 2:
            done.set()
            return None
        return 0.05

    async with _running(queue, reconcile):
        queue.add("a")
        await done.wait()
    assert times[1] - times[0] >= 0.049


async def test_the_earlier_of_two_delays_counts() -> None:
    for delays in ([30.0, 0.01], [0.01, 30.0]):
        queue, reconciled = ReconcileQueue(concurrency=1), list[str]()
        done = asyncio.Event()

        async def reconcile(
            key: str, reconciled: list[str] = reconciled, done: asyncio.Event = done
        ) -> float | None:
            reconciled.append(key)
            done.set()
            return None

        async with _running(queue, reconcile):
            for delay in delays:
                queue.add_after("a", delay)
            await done.wait()
        assert reconciled == ["a"]


async def test_a_change_does_not_wait_for_the_timer_and_uses_it_up() -> None:
    queue, probe = ReconcileQueue(concurrency=1), _Probe()
    probe.gate.set()
    async with _running(queue, probe):
        queue.add_after("a", 0.05)
        queue.add("a")
        queue.add_after("later", 0.1)
        await probe.until(lambda: probe.reconciles["later"] == 1 and probe.running == 0)
    assert probe.reconciles["a"] == 1


async def test_what_changes_goes_before_what_is_only_looked_at_again() -> None:
    queue, order, done = ReconcileQueue(concurrency=1), list[str](), asyncio.Event()

    async def reconcile(key: str) -> None:
        order.append(key)
        if key == "rests-1":
            queue.add("changed")
            queue.add("rests-3")
        if not len(queue):
            done.set()

    for number in range(1, 5):
        queue.add_behind(f"rests-{number}")
    assert len(queue) == 4
    async with _running(queue, reconcile):
        await done.wait()
    assert order == ["rests-1", "changed", "rests-3", "rests-2", "rests-4"]


async def test_a_timer_is_not_put_off_by_what_is_only_looked_at_again() -> None:
    queue, order, done = ReconcileQueue(concurrency=1), list[str](), asyncio.Event()

    async def reconcile(key: str) -> None:
        order.append(key)
        # As long as the timer is not due, there is always something at rest to look at.
        if key != "timed" and len(order) < 500:
            queue.add_behind(f"rests-{len(order)}")
            await asyncio.sleep(0.01)
        else:
            done.set()

    queue.add_behind("rests-0")
    queue.add_after("timed", 0.05)
    queue.add_behind("rests-1")
    queue.add_behind("timed")
    for number in range(100):
        queue.add_behind(f"first-{number}")
    async with _running(queue, reconcile):
        await done.wait()
    assert order[-1] == "timed"
    assert len(order) < 100


async def test_a_flood_of_changes_lets_the_others_have_a_turn() -> None:
    queue, order, done = ReconcileQueue(concurrency=1), list[str](), asyncio.Event()

    async def reconcile(key: str) -> None:
        order.append(key)
        if not len(queue):
            done.set()

    queue.add_behind("rests")
    for number in range(100):
        queue.add(f"changed-{number}")
    async with _running(queue, reconcile):
        await done.wait()
    assert order.index("rests") < 20


async def test_an_unexpected_error_of_one_key_is_retried_and_stops_no_other() -> None:
    queue, reconciled = ReconcileQueue(concurrency=2), list[str]()
    done = asyncio.Event()

    async def reconcile(key: str) -> float | None:
        reconciled.append(key)
        if key == "bad":
            raise RuntimeError("boom")
        done.set()
        return None

    async with _running(queue, reconcile) as task:
        queue.add("bad")
        queue.add("good")
        await done.wait()
        assert not task.done()
    assert sorted(reconciled) == ["bad", "good"]


async def test_cancelling_the_queue_cancels_what_runs_and_it_can_be_run_again() -> None:
    queue, probe = ReconcileQueue(concurrency=2), _Probe()
    async with _running(queue, probe) as task:
        queue.add("a")
        await probe.until(lambda: probe.running == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert queue.active == 0
    again = _Probe()
    again.gate.set()
    async with _running(queue, again):
        queue.add("a")
        await again.until(lambda: again.reconciles["a"] == 1)


async def test_clearing_forgets_waiting_and_delayed_keys() -> None:
    queue, probe = ReconcileQueue(concurrency=1), _Probe()
    probe.gate.set()
    queue.add("waits")
    queue.add_after("later", 0.01)
    queue.clear()
    assert len(queue) == 0
    async with _running(queue, probe):
        queue.add_after("new", 0.05)
        await probe.until(lambda: probe.reconciles["new"] == 1)
    assert set(probe.reconciles) == {"new"}
