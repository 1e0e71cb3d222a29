"""What a tool learns about the call that it serves."""

import asyncio

from managed_session_worker.call_context import calling_thread, calling_tool_use


async def test_each_task_has_its_own_call_and_outside_of_calls_there_is_none() -> None:
    async def serve(thread: str, call: str) -> tuple[str, str | None]:
        calling_thread.set(thread)
        calling_tool_use.set(call)
        await asyncio.sleep(0)
        return calling_thread.get(), calling_tool_use.get()

    served = await asyncio.gather(serve("sthr_1", "sevt_1"), serve("", "sevt_2"))
    assert list(served) == [("sthr_1", "sevt_1"), ("", "sevt_2")]
    assert (calling_thread.get(), calling_tool_use.get()) == ("", None)
