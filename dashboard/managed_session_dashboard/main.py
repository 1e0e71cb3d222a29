"""Runs the process `managed-session-dashboard`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from managed_session_api import names
from managed_session_runtime.credentials import CredentialDirectory
from managed_session_runtime.kubernetes_client import ApiServerSession, open_session
from managed_session_runtime.log import configure_logging
from managed_session_runtime.probes import probe_app, publish_build_info, serve
from managed_session_runtime.process import run_process
from managed_session_runtime.settings import load_settings

from managed_session_dashboard.access import Access
from managed_session_dashboard.app import Parts, dashboard_app
from managed_session_dashboard.board import Board, Table
from managed_session_dashboard.feeds import Rows, SessionRows
from managed_session_dashboard.kind_watch import Kind, KindWatch
from managed_session_dashboard.metrics import DashboardMetrics
from managed_session_dashboard.rows import class_row, session_row, shared_row
from managed_session_dashboard.settings import DashboardSettings
from managed_session_dashboard.stream import Snapshots, Stream
from managed_session_dashboard.viewers import FailedSignIns, Viewers
from managed_session_dashboard.watch_state import WatchState

logger = logging.getLogger("managed_session_dashboard")

_COMPONENT = "managed-session-dashboard"
_OURS = f"/apis/{names.API_VERSION}"
_DRAIN_SECONDS = 5.0


async def run(settings: DashboardSettings, stop: asyncio.Event) -> None:
    """Serve until `stop`. Then end the streams, and let other requests finish.

    Raises:
        KubernetesConfigurationError: no API server is configured.
        OSError: a port is not available.
    """
    api = await open_session(proxy_url=settings.kubernetes_proxy_url)
    async with api.session:
        metrics = DashboardMetrics()
        board = Board()
        sessions = SessionRows(
            board,
            session_row,
            events_per_session=settings.dashboard_events_per_session,
            events=settings.dashboard_events,
        )
        state = WatchState(metrics, board.wake)
        watches = _watches(settings, api, board, sessions, state)
        state.watches = watches
        publish_build_info("dashboard")
        app = dashboard_app(_parts(settings, api, board, sessions, state, metrics, stop))
        async with (
            _running(watches),
            serve(
                app,
                host=settings.dashboard_host,
                port=settings.dashboard_port,
                drain_seconds=_DRAIN_SECONDS,
                limit_concurrency=settings.dashboard_max_connections,
            ) as server,
            serve(
                probe_app(ready=partial(state.check, stop)),
                host=settings.probe_host,
                port=settings.probe_port,
            ) as probes,
        ):
            logger.info("listening", extra={"port": server.port, "probePort": probes.port})
            await stop.wait()
            logger.info("stopping")


def _watches(
    settings: DashboardSettings, api: ApiServerSession, board: Board, sessions: SessionRows, state: WatchState
) -> Sequence[KindWatch]:
    followed: list[tuple[Kind, Any]] = [
        (Kind(_OURS, names.PLURAL), sessions),
        (Kind(_OURS, names.CLASS_PLURAL), Rows(board, Table.CLASSES, class_row)),
        (Kind(_OURS, names.SHARED_PLURAL), Rows(board, Table.SHARED, shared_row)),
        (Kind("/api/v1", "events"), sessions.events),
    ]
    return [
        KindWatch(
            api,
            settings.namespace,
            kind,
            sink,
            timeout_seconds=settings.kubernetes_timeout_seconds,
            observer=state,
            user_agent=_COMPONENT,
        )
        for kind, sink in followed
    ]


def _parts(
    settings: DashboardSettings,
    api: ApiServerSession,
    board: Board,
    sessions: SessionRows,
    state: WatchState,
    metrics: DashboardMetrics,
    stop: asyncio.Event,
) -> Parts:
    access = Access(
        api,
        settings.namespace,
        CredentialDirectory(settings.credentials_dir),
        timeout_seconds=settings.kubernetes_timeout_seconds,
        concurrent=settings.dashboard_concurrent_reviews,
        user_agent=_COMPONENT,
    )
    return Parts(
        access=access,
        viewers=Viewers(
            access,
            seconds=settings.dashboard_sign_in_seconds,
            recheck_seconds=settings.dashboard_recheck_seconds,
        ),
        failed=FailedSignIns(settings.dashboard_failed_sign_ins),
        snapshots=Snapshots(
            board,
            {
                "namespace": settings.namespace,
                "slots": settings.max_active_sandboxes,
                "traceURL": settings.dashboard_trace_url,
            },
        ),
        sessions=sessions,
        stream=partial(
            Stream,
            board,
            sessions,
            state=state.to_json,
            update_seconds=settings.dashboard_update_seconds,
            check_seconds=settings.dashboard_recheck_seconds,
            stop=stop,
        ),
        metrics=metrics,
        namespace=settings.namespace,
        system_namespace=settings.system_namespace,
    )


@contextlib.asynccontextmanager
async def _running(watches: Sequence[KindWatch]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(watch.run(), name=f"watch {watch.plural}") for watch in watches]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Run the dashboard. Exit code 2: invalid settings; 1: it cannot start."""
    settings = load_settings(DashboardSettings)
    configure_logging(settings.log_format, settings.log_level)
    run_process(partial(run, settings), logger)


if __name__ == "__main__":
    main()
