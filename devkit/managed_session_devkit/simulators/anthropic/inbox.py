"""Events that are sent to a session, and their effects (`POST /v1/sessions/{id}/events`)."""

from __future__ import annotations

from typing import Any

from managed_session_devkit.simulators.anthropic.agent import ScriptedAgent
from managed_session_devkit.simulators.anthropic.credentials import API_KEY, SESSIONS_TOKEN, Credential
from managed_session_devkit.simulators.anthropic.errors import APIError
from managed_session_devkit.simulators.anthropic.ledger import Ledger
from managed_session_devkit.simulators.anthropic.session import Session
from managed_session_devkit.simulators.anthropic.settings import EventSettings
from managed_session_devkit.simulators.anthropic.work_queue import WorkQueue
from managed_session_devkit.simulators.common.times import now

_RESULT_KEYS = {"user.tool_result": "tool_use_id", "user.custom_tool_result": "custom_tool_use_id"}
_ANSWERS = {"user.tool_confirmation", "user.custom_tool_result"}
_TYPES = {"user.message", "user.interrupt", "user.tool_confirmation", *_RESULT_KEYS}


class EventInbox:
    """Checks a batch of events as a whole, then applies it."""

    def __init__(self, agent: ScriptedAgent, ledger: Ledger) -> None:
        self._agent = agent
        self._ledger = ledger

    def send(
        self,
        session: Session,
        queue: WorkQueue,
        events: Any,
        sender: Credential,
        settings: EventSettings,
    ) -> list[dict[str, Any]]:
        """Accept events, and return them as recorded.

        Raises:
            APIError: 400 for an invalid event, or one sent at the wrong time; 403 for an event type that the
                credential may not send. No event of the batch is then applied.
        """
        if not isinstance(events, list) or not events:
            raise APIError(400, "events: must be a non-empty list")
        if session.archived_at is not None:
            raise APIError(400, "Cannot send events to archived session")
        if session.status == "terminated":
            raise APIError(400, "Cannot send events to terminated session")
        try:
            self._check(session, events, sender, settings)
            if settings.results_without_lease == "reject":
                _check_lease(session, queue, events, sender)
        except APIError:
            self._record_results(session, queue, events, sender, accepted=False)
            raise
        self._record_results(session, queue, events, sender, accepted=True)
        recorded = [self._apply(session, queue, event) for event in events]
        if settings.confirmations_run and any(call.confirmed for call in session.waiting.values()):
            session.run()
        if settings.answers_queue_work and any(event["type"] in _ANSWERS for event in events):
            queue.enqueue_session(session.id)
        return recorded

    def _check(
        self, session: Session, events: list[Any], sender: Credential, settings: EventSettings
    ) -> None:
        waiting = {name: call.confirmed for name, call in session.waiting.items()}
        for index, event in enumerate(events):
            kind = event.get("type") if isinstance(event, dict) else None
            if kind not in _TYPES:
                raise APIError(400, f"events[{index}].type: {kind!r} is not one of {sorted(_TYPES)}")
            if sender.kind != API_KEY and kind not in settings.worker_credentials_may_send:
                raise APIError(403, f"This credential may not send {kind} events")
            if kind == "user.message":
                _check_content(event, index, required=True)
                if waiting:
                    raise _wrong_time(index, list(waiting))
            elif kind == "user.interrupt":
                thread = event.get("session_thread_id")
                ended = {name for name, call in session.waiting.items() if call.is_of(thread)}
                waiting = {name: confirmed for name, confirmed in waiting.items() if name not in ended}
            elif kind == "user.tool_confirmation":
                _check_confirmation(waiting, event, index)
            else:
                _check_content(event, index, required=False)
                self._check_result(session, waiting, event, index, settings)

    def _check_result(
        self,
        session: Session,
        waiting: dict[str, bool],
        event: dict[str, Any],
        index: int,
        settings: EventSettings,
    ) -> None:
        kind, target = event["type"], event.get(_RESULT_KEYS[event["type"]])
        custom = kind == "user.custom_tool_result"
        wanted = "agent.custom_tool_use" if custom else "agent.tool_use"
        call = session.waiting.get(target) if isinstance(target, str) else None
        if call is not None and target in waiting and call.custom == custom:
            if not waiting[call.event_id]:
                raise APIError(
                    400, f"Invalid {kind} event at events[{index}]: {target} waits for a confirmation"
                )
            if call.thread is not None and (now() - call.made_at).total_seconds() * 1000 < (
                settings.thread_calls_settle_ms
            ):
                raise APIError(
                    400,
                    f"Invalid {kind} event at events[{index}]: {target} does not match any {wanted} event",
                )
            del waiting[call.event_id]
            return
        known = any(past["id"] == target and past["type"] == wanted for past in session.events)
        if not known or settings.unexpected_results == "reject":
            raise APIError(
                400, f"Invalid {kind} event at events[{index}]: not waiting on a response to event {target}"
            )

    def _record_results(
        self, session: Session, queue: WorkQueue, events: list[Any], sender: Credential, *, accepted: bool
    ) -> None:
        holds_lease = _holds_lease(session, queue, sender)
        for event in events:
            key = _RESULT_KEYS.get(str(event.get("type"))) if isinstance(event, dict) else None
            if key is not None:
                target = str(event.get(key))
                self._ledger.result_posted(session.id, target, accepted=accepted, holds_lease=holds_lease)

    def _apply(self, session: Session, queue: WorkQueue, event: dict[str, Any]) -> dict[str, Any]:
        kind = event["type"]
        if kind == "user.message":
            recorded = session.append(event, processed=False)
            item = queue.of_session(session.id)
            live = item is not None and item.lease_holder is not None
            self._ledger.message_sent(session.id, recorded["id"], worker_live=live)
            session.inbox.append(recorded)
            queue.enqueue_session(session.id)
            self._agent.wake(session)
            return recorded
        recorded = session.append(event)
        if kind == "user.interrupt":
            self._ledger.note(session.id, "interrupt")
            self._agent.interrupt(session, event.get("session_thread_id"))
            queue.enqueue_session(session.id)
        elif kind == "user.tool_confirmation":
            if event["result"] == "deny":
                self._answer(session, event["tool_use_id"], recorded)
            else:
                session.waiting[event["tool_use_id"]].confirmed = True
        else:
            self._answer(session, event[_RESULT_KEYS[kind]], recorded)
        return recorded

    def _answer(self, session: Session, tool_use_id: str, event: dict[str, Any]) -> None:
        call = session.waiting.pop(tool_use_id, None)
        if call is None:
            return
        if call.thread is not None:
            call.thread.answered()
        elif session.waiting:
            session.require_action()
        else:
            session.run()
        call.result.set_result(event)


def _holds_lease(session: Session, queue: WorkQueue, sender: Credential) -> bool:
    item = queue.of_session(session.id)
    return sender.kind != SESSIONS_TOKEN or (item is not None and item.lease_holder == sender.name)


def _check_lease(session: Session, queue: WorkQueue, events: list[Any], sender: Credential) -> None:
    if any(event["type"] in _RESULT_KEYS for event in events) and not _holds_lease(session, queue, sender):
        raise APIError(403, "The work item of this session is not held by this credential")


def _check_confirmation(waiting: dict[str, bool], event: dict[str, Any], index: int) -> None:
    target = event.get("tool_use_id")
    if event.get("result") not in ("allow", "deny"):
        raise APIError(400, f"events[{index}].result: must be allow or deny")
    if not isinstance(target, str) or waiting.get(target, True):
        raise APIError(400, f"events[{index}]: {target} is not waiting for a confirmation")
    if event["result"] == "deny":
        del waiting[target]
    else:
        waiting[target] = True


def _check_content(event: dict[str, Any], index: int, *, required: bool) -> None:
    content = event.get("content")
    if content is None and not required:
        return
    if not isinstance(content, list) or (required and not content):
        raise APIError(400, f"events[{index}].content: must be a non-empty list of content blocks")
    for position, block in enumerate(content):
        where = f"events[{index}].content[{position}]"
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise APIError(400, f"{where}: must be a content block")
        if block["type"] == "text" and not (isinstance(block.get("text"), str) and block["text"]):
            raise APIError(400, f"{where}.text: minimum string length is 1")


def _wrong_time(index: int, waiting: list[str]) -> APIError:
    return APIError(
        400,
        f"Invalid user.message event at events[{index}]: waiting on responses to events "
        f"[{', '.join(waiting)}]; only `user.tool_confirmation`, `user.custom_tool_result`, "
        "`user.tool_result`, or `user.interrupt` may be sent",
    )
