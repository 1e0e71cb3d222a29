"""Leaves an Event wherever a person reaches into a session's sandbox: who, and what kind of access."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from enum import StrEnum

from managed_session_api.conditions import Reason
from managed_session_api.names import API_VERSION, KIND
from managed_session_api.resource import ManagedSession
from managed_session_api.times import to_wire

from managed_session_cli.cluster import Cluster
from managed_session_cli.errors import ClusterError, CommandError

REPORTER = "managed-sessions-cli"


class Access(StrEnum):
    """What a person does in a sandbox. The value completes the sentence "somebody …"."""

    SHELL = "opened a shell in"
    COMMAND = "ran a command in"
    LIST = "listed files of"
    READ = "copied files from"
    WRITE = "copied files to"


def announce(cluster: Cluster, session: ManagedSession, sandbox_id: str, access: Access) -> None:
    """Post the Event, before the access. It never has names of files, commands or other content.

    Raises:
        CommandError: the Event cannot be posted. Then there must be no access.
    """
    at, meta = to_wire(datetime.now(UTC)), session.metadata
    try:
        cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{meta.name}.{uuid.uuid4().hex[:16]}", "namespace": meta.namespace},
                "involvedObject": {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": meta.name,
                    "namespace": meta.namespace,
                    "uid": meta.uid,
                },
                "type": "Normal",
                "reason": str(Reason.SANDBOX_ACCESSED),
                "action": access.name.capitalize(),
                "message": f"{_user(cluster)} {access} the sandbox {sandbox_id}.",
                "source": {"component": REPORTER},
                "reportingComponent": REPORTER,
                "reportingInstance": REPORTER,
                "firstTimestamp": at,
                "lastTimestamp": at,
                "count": 1,
            }
        )
    except ClusterError as error:
        raise CommandError(
            f"{error}. Each access to a sandbox leaves an Event, so you need the right to create events in "
            f"{meta.namespace}: bind the ClusterRole managed-sessions-edit."
        ) from None


def _user(cluster: Cluster) -> str:
    """Return the name by which the API server knows the user."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = cluster.create_answered(review)
    return str(answer["status"]["userInfo"].get("username") or "an unknown user")
