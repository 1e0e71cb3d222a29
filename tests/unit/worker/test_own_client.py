"""The worker's own connection to Anthropic does not depend on the sandbox's variables."""

import json
from pathlib import Path

from .worker_sandbox import FIRST, TOKEN, Sandbox
from .worker_wire import Wire

NOWHERE = "http://127.0.0.1:9"
VARIABLES = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), NOWHERE),
    "all_proxy": NOWHERE,
    "NO_PROXY": "example.com",
    "no_proxy": "example.com",
    **dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), "/nowhere.pem"),
    "SSL_CERT_DIR": "/nowhere",
    "SSLKEYLOGFILE": "/mnt/session/keys",
}
STEERING = {"ANTHROPIC_BASE_URL": NOWHERE, "ANTHROPIC_API_KEY": "x", "ANTHROPIC_CUSTOM_HEADERS": "a: b"}


def test_proxy_and_certificate_variables_reach_only_the_commands(sandbox: Sandbox, wire: Wire) -> None:
    inbox = Path(sandbox.paths.inbox, f"{FIRST}.json")
    inbox.write_text(json.dumps(sandbox.request()))
    client = sandbox.supervisorctl("start", FIRST, **VARIABLES, **STEERING)
    client.event("heartbeat")
    wire.say()
    output, _ = wire.run("env")
    for name, value in VARIABLES.items():
        assert f"{name}={value}" in output.splitlines()
    assert "ANTHROPIC_" not in output
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    assert {authorization for _, _, authorization in wire.calls} == {f"Bearer {TOKEN}"}


def test_proxy_variables_of_the_template_do_not_divert_the_workers_client(
    stopped_sandbox: Sandbox, wire: Wire
) -> None:
    """The supervisor has the variables of the template's build."""
    variables = {"HTTP_PROXY": NOWHERE, "ALL_PROXY": NOWHERE, "SSL_CERT_FILE": "/nowhere.pem"}
    supervisor = stopped_sandbox.begin_supervisor(**variables)
    client = stopped_sandbox.start()
    client.event("heartbeat")
    wire.say()
    assert wire.run("echo $HTTP_PROXY") == (NOWHERE, False)
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    supervisor.terminate()
    supervisor.wait()


def test_variables_of_the_request_reach_the_commands(sandbox: Sandbox, wire: Wire) -> None:
    """Variables that would affect what root runs come with the request, not with the sandbox."""
    sandbox.start(environment={"PATH": "/mnt/session/bin:/usr/bin:/bin", "LD_LIBRARY_PATH": "/mnt/session"})
    wire.say()
    assert wire.run("echo $PATH $LD_LIBRARY_PATH") == ("/mnt/session/bin:/usr/bin:/bin /mnt/session", False)
