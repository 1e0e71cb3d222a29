"""What the CustomResourceDefinition refuses: at which field, and how it says what is allowed."""

from typing import Any

import pytest
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane, KubectlError

from ..support.resources import Refused, Resources, refused

SESSION = "sesn_01AbCdEf"
NAME = names.resource_name(SESSION)


def sandbox(**fields: Any) -> dict[str, Any]:
    return {"sessionID": SESSION, "sandbox": fields}


def worker(**fields: Any) -> dict[str, Any]:
    return {"sessionID": SESSION, "worker": fields}


def lifecycle(**fields: Any) -> dict[str, Any]:
    return {"sessionID": SESSION, "lifecycle": fields}


def network(*, allow: list[str] | None = None, deny: list[str] | None = None) -> dict[str, Any]:
    return sandbox(network={"allow": allow or [], "deny": deny or []})


def setup(**fields: Any) -> dict[str, Any]:
    return sandbox(setup=fields)


def bucket(path: str = "/mnt/data", **more: Any) -> dict[str, Any]:
    return {"type": "S3", "bucket": "reports", "path": path, **more}


def requests(**fields: Any) -> dict[str, Any]:
    return {"sessionID": SESSION, "requests": fields}


def secret(host: str = "api.example.com", header: str = "Authorization", **more: Any) -> dict[str, Any]:
    return {"host": host, "header": header, "secretRef": {"name": "github", "key": "token"}, **more}


def authority(**source: Any) -> dict[str, Any]:
    return {"certificateAuthorities": [source]}


def variable(name: str) -> dict[str, Any]:
    return {"name": name, "secretRef": {"name": "github", "key": "token"}}


PEM = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----"
CONDITION = {
    "type": "Ready",
    "status": "True",
    "reason": "Idle",
    "lastTransitionTime": "2026-11-23T12:00:00Z",
}

BAD_RESOURCES = [
    Refused("no session", "spec.sessionID", "Required value", {}),
    Refused("empty session", "spec.sessionID", "at least 1 chars", {"sessionID": ""}),
    Refused("session with a space", "spec.sessionID", "should match '^[A-Za-z0-9]", {"sessionID": "a b"}),
    Refused("session with a slash", "spec.sessionID", "should match", {"sessionID": "../sesn_1"}),
    Refused("long session", "spec.sessionID", "more than 120", {"sessionID": "a" * 121}),
    Refused("number for a session", "spec.sessionID", "must be of type string", {"sessionID": 7}),
    Refused("environment", "spec.environmentID", "should match", {"sessionID": "a", "environmentID": "e/1"}),
    Refused("agent", "spec.agentID", "more than 120", {"sessionID": "a", "agentID": "a" * 121}),
    Refused(
        "scope",
        "spec.routing.scope",
        'supported values: "session", "agent", "environment"',
        {"sessionID": "a", "routing": {"scope": "user"}},
    ),
    Refused(
        "shared sandbox with a template",
        "spec.routing.scope",
        "sets nothing of the sandbox itself",
        {"sessionID": "a", "routing": {"scope": "agent"}, "sandbox": {"template": "worker"}},
    ),
    Refused(
        "shared sandbox whose files are kept",
        "spec.routing.scope",
        "a shared sandbox has no snapshots",
        {"sessionID": "a", "routing": {"scope": "agent"}, "lifecycle": {"deletionPolicy": "Retain"}},
    ),
    Refused("unknown field", "spec.lifecycle.idleTTL", "unknown field", lifecycle(idleTTL=60)),
    Refused("empty template", "spec.sandbox.template", "at least 1 chars", sandbox(template="")),
    Refused("template", "spec.sandbox.template", "should match", sandbox(template="worker:1.0:2")),
    Refused(
        "short time", "spec.sandbox.timeoutSeconds", "greater than or equal to 60", sandbox(timeoutSeconds=59)
    ),
    Refused(
        "long time",
        "spec.sandbox.timeoutSeconds",
        "less than or equal to 86400",
        sandbox(timeoutSeconds=86401),
    ),
    Refused(
        "time with a unit",
        "spec.sandbox.timeoutSeconds",
        "must be of type integer",
        sandbox(timeoutSeconds="15m"),
    ),
    Refused(
        "network preset",
        "spec.sandbox.network.preset",
        'supported values: "open", "allowlist", "closed"',
        sandbox(network={"preset": "none"}),
    ),
    Refused(
        "closed network with a host",
        "spec.sandbox.network.allow",
        'the preset "closed" allows nothing but Anthropic',
        sandbox(network={"preset": "closed", "allow": ["pypi.org"]}),
    ),
    Refused(
        "allowlist with a denied range",
        "spec.sandbox.network.deny",
        "deny everything already",
        sandbox(network={"preset": "allowlist", "deny": ["10.0.0.0/8"]}),
    ),
    Refused(
        "proxy without a URL",
        "spec.sandbox.proxy",
        "set httpProxy, httpsProxy or both",
        sandbox(proxy={"noProxy": ["a.example"]}),
    ),
    Refused(
        "proxy's credential in its URL",
        "spec.sandbox.proxy.httpsProxy",
        "should match",
        sandbox(proxy={"httpsProxy": "http://user:password@proxy.example:3128"}),
    ),
    Refused(
        "two sources of an authority",
        "spec.sandbox.trust.certificateAuthorities[0]",
        "exactly one of pem, configMapRef and secretRef",
        sandbox(trust=authority(pem=PEM, secretRef={"name": "ca", "key": "ca.pem"})),
    ),
    Refused(
        "no certificate",
        "spec.sandbox.trust.certificateAuthorities[0].pem",
        "must have certificates in PEM",
        sandbox(trust=authority(pem="ca.pem")),
    ),
    Refused(
        "private key of an authority",
        "spec.sandbox.trust.certificateAuthorities[0].pem",
        "no private key",
        sandbox(trust=authority(pem=f"{PEM}\n-----BEGIN PRIVATE KEY-----")),
    ),
    Refused(
        "secret in a closed network",
        "spec.sandbox.secrets",
        'use the preset "allowlist"',
        sandbox(network={"preset": "closed"}, secrets=[secret()]),
    ),
    Refused(
        "secret's host with a port",
        "spec.sandbox.secrets[0].host",
        "should match",
        sandbox(secrets=[secret("a.example:443")]),
    ),
    Refused(
        "long host", "spec.sandbox.secrets[0].host", "more than 128", sandbox(secrets=[secret("a" * 129)])
    ),
    Refused(
        "long header",
        "spec.sandbox.secrets[0].header",
        "more than 64",
        sandbox(secrets=[secret(header="a" * 65)]),
    ),
    Refused(
        "header with a colon",
        "spec.sandbox.secrets[0].header",
        "should match",
        sandbox(secrets=[secret(header="a:")]),
    ),
    Refused(
        "header of the connection",
        "spec.sandbox.secrets[0].header",
        'the header "Host" belongs to',
        sandbox(secrets=[secret(header="Host")]),
    ),
    Refused(
        "placeholder",
        "spec.sandbox.secrets[0].prefix",
        "placeholders",
        sandbox(secrets=[secret(prefix="${e2b.secrets.a}")]),
    ),
    Refused(
        "eleven hosts",
        "spec.sandbox.secrets",
        "for at most 10 hosts",
        sandbox(secrets=[secret(f"h{number}.example") for number in range(11)]),
    ),
    Refused(
        "one header twice",
        "spec.sandbox.secrets",
        "the same header twice",
        sandbox(secrets=[secret(), secret(header="authorization")]),
    ),
    Refused(
        "variable from a Secret with a reserved name",
        "spec.sandbox.envFrom[0].name",
        'the name "E2B_API_KEY" is not allowed',
        sandbox(envFrom=[variable("E2B_API_KEY")]),
    ),
    Refused(
        "variable in both",
        "spec.sandbox.envFrom",
        "remove it from one of the two",
        sandbox(env={"A": "1"}, envFrom=[variable("A")]),
    ),
    Refused(
        "operator's metadata",
        "spec.sandbox.metadata",
        'the key "managedagents.dev/session" is not allowed',
        sandbox(metadata={"team": "red", "managedagents.dev/session": "x"}),
    ),
    Refused(
        "metadata below the operator's domain",
        "spec.sandbox.metadata",
        "use a key of another domain or none",
        sandbox(metadata={"x.managedagents.dev/y": "x"}),
    ),
    Refused("empty key", "spec.sandbox.metadata", "1 to 128 characters", sandbox(metadata={"": "x"})),
    Refused("long value", "spec.sandbox.metadata.k", "more than 512", sandbox(metadata={"k": "x" * 513})),
    Refused(
        "much metadata",
        "spec.sandbox.metadata",
        "at most 32 items",
        sandbox(metadata={f"k{n}": "x" for n in range(33)}),
    ),
    Refused("variable's name", "spec.sandbox.env", 'letters, digits and "_"', sandbox(env={"1ST": "x"})),
    Refused("empty variable's name", "spec.sandbox.env", "1 to 128 characters", sandbox(env={"": "x"})),
    Refused(
        "variable with a hyphen", "spec.sandbox.env", "not begin with a digit", sandbox(env={"A-B": "x"})
    ),
    Refused(
        "Anthropic's credential",
        "spec.sandbox.env",
        'the name "ANTHROPIC_API_KEY" is not allowed',
        sandbox(env={"ANTHROPIC_API_KEY": "secret-value"}),
    ),
    Refused(
        "E2B's credential",
        "spec.sandbox.env",
        "credentials must not enter a sandbox",
        sandbox(env={"E2B_API_KEY": "secret-value"}),
    ),
    Refused(
        "long variable", "spec.sandbox.env.A", "more than 4096", sandbox(env={"A": "secret-value" * 400})
    ),
    Refused("number for a variable", "spec.sandbox.env.A", "must be of type string", sandbox(env={"A": 1})),
    Refused(
        "host without denying the rest",
        "spec.sandbox.network.allow",
        'the host name "api.example.com" requires the preset "allowlist", or "0.0.0.0/0" in',
        network(allow=["192.0.2.1", "api.example.com"], deny=["10.0.0.0/8"]),
    ),
    Refused(
        "denied host",
        "spec.sandbox.network.deny[0]",
        '"example.com" must be an IP address',
        network(deny=["example.com"]),
    ),
    Refused(
        "address out of range",
        "spec.sandbox.network.allow[0]",
        '"192.0.2.999" must be an IP address',
        network(allow=["192.0.2.999"], deny=["0.0.0.0/0"]),
    ),
    Refused(
        "URL for a host",
        "spec.sandbox.network.allow[0]",
        "a host name (api.example.com)",
        network(allow=["https://example.com"], deny=["0.0.0.0/0"]),
    ),
    Refused(
        "range that is none", "spec.sandbox.network.deny[0]", "a CIDR range", network(deny=["10.0.0.0/33"])
    ),
    Refused(
        "the same twice",
        "spec.sandbox.network.deny[1]",
        "Duplicate value",
        network(deny=["10.0.0.1", "10.0.0.1"]),
    ),
    Refused(
        "many rules",
        "spec.sandbox.network.deny",
        "at most 64 items",
        network(deny=[f"10.0.0.{n}" for n in range(65)]),
    ),
    Refused(
        "password in a repository's URL",
        "spec.sandbox.setup.repositories[0].url",
        "name a Secret in credential instead",
        setup(repositories=[{"url": "https://me:password@example.com/code"}]),
    ),
    Refused(
        "SSH without a key",
        "spec.sandbox.setup.repositories[0].credential",
        "needs a credential",
        setup(repositories=[{"url": "git@example.com:code.git"}]),
    ),
    Refused(
        "path that leads upwards",
        "spec.sandbox.setup.files[0].path",
        "must be relative to /mnt/session",
        setup(files=[{"path": "a/../../etc/x", "configMap": {"name": "a", "key": "b"}}]),
    ),
    Refused(
        "file without a source",
        "spec.sandbox.setup.files[0]",
        "exactly one of configMap, secret and url",
        setup(files=[{"path": "a"}]),
    ),
    Refused(
        "download without a checksum",
        "spec.sandbox.setup.files[0].sha256",
        "sha256 belongs to url",
        setup(files=[{"path": "a", "url": "https://example.com/a"}]),
    ),
    Refused(
        "prefix that ends in a name",
        "spec.sandbox.setup.fromSessionMetadata.urlPrefixes[0]",
        'end with "/"',
        setup(fromSessionMetadata={"urlPrefixes": ["https://example.com/acme"]}),
    ),
    Refused(
        "long hook",
        "spec.sandbox.hooks.beforePause.timeoutSeconds",
        "less than or equal to 300",
        sandbox(hooks={"beforePause": {"command": "true", "timeoutSeconds": 301}}),
    ),
    Refused(
        "volume outside /mnt",
        "spec.sandbox.volumes[0].path",
        '"/home/user/data" must be below /mnt',
        sandbox(volumes=[{"name": "shared", "path": "/home/user/data"}]),
    ),
    Refused(
        "volume's name",
        "spec.sandbox.volumes[0].name",
        "should match",
        sandbox(volumes=[{"name": "my data", "path": "/mnt/data"}]),
    ),
    Refused(
        "bucket over the session's files",
        "spec.sandbox.buckets[0].path",
        "not in /mnt/session or /mnt/memory; choose a path such as /mnt/data",
        sandbox(buckets=[bucket("/mnt/session/data")]),
    ),
    Refused(
        "bucket's path that leads upwards",
        "spec.sandbox.buckets[0].path",
        "must be below /mnt",
        sandbox(buckets=[bucket("/mnt/../etc/data")]),
    ),
    Refused(
        "bucket's type",
        "spec.sandbox.buckets[0].type",
        'supported values: "S3", "GCS", "R2"',
        sandbox(buckets=[bucket(type="Azure")]),
    ),
    Refused(
        "R2 without an endpoint",
        "spec.sandbox.buckets[0].endpoint",
        "needs its endpoint, https://ACCOUNT.r2.cloudflarestorage.com",
        sandbox(buckets=[bucket(type="R2")]),
    ),
    Refused(
        "key in an endpoint",
        "spec.sandbox.buckets[0].endpoint",
        "put keys into the Secret",
        sandbox(buckets=[bucket(endpoint="https://key:secret-value@minio.example.com")]),
    ),
    Refused(
        "option in a bucket's name",
        "spec.sandbox.buckets[0].bucket",
        "should match",
        sandbox(buckets=[bucket(bucket="reports,allow_root")]),
    ),
    Refused(
        "option in a bucket's prefix",
        "spec.sandbox.buckets[0].prefix",
        "should match",
        sandbox(buckets=[bucket(prefix="a,suid")]),
    ),
    Refused(
        "disk without a Secret",
        "spec.sandbox.archil[0].secretRef",
        "Required value",
        sandbox(archil=[{"disk": "org/disk", "region": "aws-us-east-1", "path": "/mnt/disk"}]),
    ),
    Refused(
        "one path twice",
        "spec.sandbox.buckets[1]",
        "Duplicate value",
        sandbox(buckets=[bucket(), bucket()]),
    ),
    Refused(
        "storage inside other storage",
        "spec.sandbox",
        "must not overlap; give each one a directory of its own",
        sandbox(volumes=[{"name": "a", "path": "/mnt/data"}], buckets=[bucket("/mnt/data/reports")]),
    ),
    Refused(
        "nine buckets",
        "spec.sandbox.buckets",
        "at most 8 items",
        sandbox(buckets=[bucket(f"/mnt/data{number}") for number in range(9)]),
    ),
    Refused(
        "snapshot to start from",
        "spec.sandbox.fromSnapshot",
        "should match",
        sandbox(fromSnapshot="team/a b"),
    ),
    Refused("yes for true", "spec.sandbox.autoResume", "must be of type boolean", sandbox(autoResume="yes")),
    Refused(
        "no idle time", "spec.worker.maxIdleSeconds", "greater than or equal to 1", worker(maxIdleSeconds=0)
    ),
    Refused(
        "no parallel call",
        "spec.worker.maxParallelCalls",
        "greater than or equal to 1",
        worker(maxParallelCalls=0),
    ),
    Refused(
        "too many parallel calls",
        "spec.worker.maxParallelCalls",
        "less than or equal to 20",
        worker(maxParallelCalls=21),
    ),
    Refused(
        "no time to attach",
        "spec.worker.attachTimeoutSeconds",
        "greater than or equal to 1",
        worker(attachTimeoutSeconds=0),
    ),
    Refused(
        "log level", "spec.worker.logLevel", '"DEBUG", "INFO", "WARNING", "ERROR"', worker(logLevel="info")
    ),
    Refused(
        "worker outlives its sandbox",
        "spec.worker.maxIdleSeconds",
        "must be at most spec.sandbox.timeoutSeconds",
        sandbox(timeoutSeconds=60) | worker(maxIdleSeconds=61),
    ),
    Refused(
        "a short wait that is the longer one",
        "spec.worker.minIdleSeconds",
        "must be at most spec.worker.maxIdleSeconds",
        worker(minIdleSeconds=11, maxIdleSeconds=10),
    ),
    Refused(
        "no short wait", "spec.worker.minIdleSeconds", "greater than or equal to 1", worker(minIdleSeconds=0)
    ),
    Refused(
        "attaching outlives the sandbox",
        "spec.worker.attachTimeoutSeconds",
        "must be at most spec.sandbox.timeoutSeconds",
        sandbox(timeoutSeconds=60) | worker(attachTimeoutSeconds=61),
    ),
    Refused("TTL", "spec.lifecycle.idleTTLSeconds", "0 (never) or at least 60", lifecycle(idleTTLSeconds=59)),
    Refused(
        "negative TTL",
        "spec.lifecycle.ttlSecondsAfterEnd",
        "greater than or equal to 0",
        lifecycle(ttlSecondsAfterEnd=-1),
    ),
    Refused("lost", "spec.lifecycle.onSandboxLost", '"Recreate", "Fail"', lifecycle(onSandboxLost="Ignore")),
    Refused(
        "deletion policy",
        "spec.lifecycle.deletionPolicy",
        'supported values: "Delete", "Retain"',
        lifecycle(deletionPolicy="Orphan"),
    ),
    Refused(
        "no snapshot to keep",
        "spec.lifecycle.snapshots.keepLast",
        "greater than or equal to 1",
        lifecycle(snapshots={"keepLast": 0}),
    ),
    Refused(
        "many snapshots to keep",
        "spec.lifecycle.snapshots.keepLast",
        "less than or equal to 20",
        lifecycle(snapshots={"keepLast": 21}),
    ),
    Refused(
        "requested snapshot's name", "spec.requests.snapshot", "should match", requests(snapshot="My state")
    ),
    Refused(
        "restore of nothing",
        "spec.requests.restore.snapshotID",
        "Required value",
        requests(restore={"id": "1"}),
    ),
    Refused(
        "restore without an ID",
        "spec.requests.restore.id",
        "Required value",
        requests(restore={"snapshotID": "team/a:default"}),
    ),
]

BAD_UPDATES = [
    Refused(
        "another session",
        "spec.sessionID",
        f'is immutable and stays "{SESSION}"',
        {"sessionID": "sesn_2"},
        {"sessionID": SESSION},
    ),
    Refused(
        "another environment",
        "spec.environmentID",
        "is set once: it may be added where it is absent",
        {"environmentID": "env_2"},
        {"sessionID": SESSION, "environmentID": "env_1"},
    ),
    Refused(
        "no environment any more",
        "spec.environmentID",
        "neither changed nor removed",
        {"environmentID": None},
        {"sessionID": SESSION, "environmentID": "env_1"},
    ),
    Refused(
        "another agent",
        "spec.agentID",
        "is set once",
        {"agentID": "agent_2"},
        {"sessionID": SESSION, "agentID": "agent_1"},
    ),
    Refused(
        "no agent any more",
        "spec.agentID",
        "neither changed nor removed",
        {"agentID": None},
        {"sessionID": SESSION, "agentID": "agent_1"},
    ),
    Refused(
        "shorter time than the worker's",
        "spec.worker.maxIdleSeconds",
        "must be at most spec.sandbox.timeoutSeconds",
        {"sandbox": {"timeoutSeconds": 60}},
        worker(maxIdleSeconds=300),
    ),
    Refused(
        "the rest is no longer denied",
        "spec.sandbox.network.allow",
        'requires the preset "allowlist"',
        {"sandbox": {"network": {"deny": []}}},
        network(allow=["*.example.com"], deny=["0.0.0.0/0"]),
    ),
]

BAD_STATUSES = [
    Refused("phase", "status.phase", '"Pending", "Provisioning", "Running", "Idle"', {"phase": "Ready"}),
    Refused(
        "state",
        "status.sandbox.state",
        '"Creating", "Running", "Paused", "Lost"',
        {"sandbox": {"state": "Up"}},
    ),
    Refused("turns", "status.turns", "must be of type integer", {"turns": "3"}),
    Refused("negative turns", "status.turns", "greater than or equal to 0", {"turns": -1}),
    Refused("time", "status.lastActiveTime", "must be of type date-time", {"lastActiveTime": "yesterday"}),
    Refused(
        "half an event",
        "status.lastEvent.createdAt",
        "Required value",
        {"lastEvent": {"id": "1", "type": "x"}},
    ),
    Refused(
        "unnamed snapshot",
        "status.snapshots[0].name",
        "Required value",
        {"snapshots": [{"sandboxID": "isandbox"}]},
    ),
    Refused("half a policy", "status.effective.logLevel", "Required value", {"effective": {"template": "x"}}),
    Refused(
        "condition's type",
        "status.conditions[0].type",
        '"Ready", "SandboxReady", "WorkerRunning", "WorkspaceLost", "WorkspaceRestarted"',
        {"conditions": [CONDITION | {"type": "Synced"}]},
    ),
    Refused(
        "condition's status",
        "status.conditions[0].status",
        '"True", "False", "Unknown"',
        {"conditions": [CONDITION | {"status": "Yes"}]},
    ),
    Refused(
        "condition's reason",
        "status.conditions[0].reason",
        "should match",
        {"conditions": [CONDITION | {"reason": "not ready"}]},
    ),
    Refused(
        "condition twice", "status.conditions[1]", "Duplicate value", {"conditions": [CONDITION, CONDITION]}
    ),
]


@pytest.fixture
def sessions(control_plane: ControlPlane, namespace: str) -> Resources:
    return Resources(control_plane, namespace, NAME)


@pytest.fixture
def in_default(control_plane: ControlPlane, definition: None) -> Resources:  # noqa: ARG001 - wanted for its effect
    """Those of the default namespace: it need not be new, because nothing is made in it."""
    return Resources(control_plane, "default", NAME)


@pytest.mark.parametrize("case", BAD_RESOURCES, ids=lambda case: case.what)
async def test_bad_resource_is_refused(in_default: Resources, case: Refused) -> None:
    with refused(case):
        await in_default.create(case.body)


async def test_name_that_is_too_long_to_derive_others_from_is_refused(in_default: Resources) -> None:
    with pytest.raises(KubectlError, match=r"metadata\.name: Too long: may not be more than 63"):
        await in_default.create({"sessionID": SESSION}, name="a" * 64)


@pytest.mark.parametrize("case", BAD_UPDATES, ids=lambda case: case.what)
async def test_bad_update_is_refused(sessions: Resources, case: Refused) -> None:
    await sessions.create(case.before)
    with refused(case):
        await sessions.patch({"spec": case.body})


@pytest.mark.parametrize("case", BAD_STATUSES, ids=lambda case: case.what)
async def test_bad_status_is_refused(sessions: Resources, case: Refused) -> None:
    await sessions.create({"sessionID": SESSION})
    with refused(case):
        await sessions.patch_status(case.body)
