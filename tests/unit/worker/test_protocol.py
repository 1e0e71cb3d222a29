"""The contract between the operator and the worker in a sandbox."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import managed_session_worker
import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_worker.paths import Paths
from managed_session_worker.protocol import (
    CallDeaths,
    ExitReason,
    RefusalCode,
    StartRequest,
    lease_given_back,
    refusal_code,
)
from managed_session_worker.wire import RequestRejectedError, refused

CLAIM = "20261123T165401.000001Z"
LIBRARY = Path(managed_session_worker.__file__).parent.parent
DEATHS: CallDeaths = {"sevt_1": {"tool": "bash", "deaths": 2, "cause": "killed (signal 9)"}}


def request(**changed: Any) -> StartRequest:
    known: dict[str, Any] = {
        "epoch": 3,
        "claim": CLAIM,
        "session_id": "sesn_1",
        "work_id": "work_1",
        "environment_id": "env_1",
        "work_secret": "token-of-the-session",
        "base_url": "https://api.example",
        "max_idle_seconds": 10,
        "attach_timeout_seconds": 60,
        "tool_call_attempts": 3,
        "call_deaths": DEATHS,
        "log_level": "INFO",
    }
    return StartRequest(**{**known, **changed})


def test_a_start_has_the_fields_that_workers_of_every_version_read() -> None:
    assert json.loads(request().to_line()) == {
        "command": "start",
        "epoch": 3,
        "claim": CLAIM,
        "sessionID": "sesn_1",
        "workID": "work_1",
        "environmentID": "env_1",
        "workSecret": "token-of-the-session",
        "environmentKey": None,
        "baseURL": "https://api.example",
        "maxIdleSeconds": 10,
        "attachTimeoutSeconds": 60,
        "toolCallAttempts": 3,
        "callDeaths": DEATHS,
        "maxParallelCalls": 8,
        "logLevel": "INFO",
        "environment": {},
        "proxy": None,
        "certificateAuthorities": None,
        "traceparent": None,
        "reportCalls": False,
    }


@given(
    st.builds(
        request,
        epoch=st.integers(0),
        session_id=st.text(min_size=1),
        max_idle_seconds=st.floats(0.1, 1e6),
        log_level=st.sampled_from(["DEBUG", "ERROR"]),
        environment=st.dictionaries(st.text("ABC", min_size=1), st.text("xyz=")),
    )
)
def test_a_start_is_read_as_it_was_written_and_is_one_line(written: StartRequest) -> None:
    assert "\n" not in written.to_line()
    assert StartRequest.parse(json.loads(written.to_line())) == written


def test_a_start_does_not_show_its_secrets() -> None:
    shown = repr(request(environment_key="key-of-the-environment"))
    assert "token-of-the-session" not in shown
    assert "key-of-the-environment" not in shown


@pytest.mark.parametrize("code", RefusalCode)
def test_a_refusal_is_understood_by_operators_of_this_and_of_the_first_version(code: RefusalCode) -> None:
    event = json.loads(json.dumps(refused(RequestRejectedError(code, "why"), epoch=3, claim=CLAIM)))
    assert refusal_code(event) is code
    assert (event["reason"], event["message"]) == (code.value, "why")


def test_a_refusal_of_the_first_version_is_understood() -> None:
    event = {"event": "refused", "reason": "StaleClaim", "message": "…", "epoch": 3, "claim": CLAIM}
    assert refusal_code(event) is RefusalCode.STALE_CLAIM


def test_a_refusal_of_a_later_version_has_no_code() -> None:
    assert refusal_code({"event": "refused", "code": "Later", "message": "Busy"}) is None
    assert refusal_code({"event": "refused", "message": "Busy"}) is None


def test_a_lease_is_given_back_if_the_work_item_was_stopped_cleanly() -> None:
    given_back = {"Idle", "NoMessage", "SessionEnded", "Stopped", "Released"}
    assert {reason.value for reason in ExitReason if lease_given_back(reason.value)} == given_back
    assert not lease_given_back("SomethingNew")
    assert not lease_given_back(None)


@pytest.mark.parametrize("reason", ExitReason)
def test_every_exit_reason_says_what_it_means_and_what_to_do(reason: ExitReason) -> None:
    assert ExitReason.named(reason.value) is reason
    assert reason.meaning.endswith(".")
    assert reason.remedy.endswith(".")


def modules_of(*imported: str) -> set[str]:
    """What a bare interpreter has loaded after these imports of the worker."""
    names = ", ".join(f"managed_session_worker.{name}" for name in imported)
    program = f"import sys; sys.path.append({str(LIBRARY)!r}); import {names}; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", program]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_the_protocol_loads_no_other_module_of_the_worker() -> None:
    ours = {name for name in modules_of("protocol", "paths") if name.startswith("managed_session_worker.")}
    assert ours == {f"managed_session_worker.{name}" for name in ("protocol", "paths", "exit_reason", "wire")}


def test_supervisorctl_loads_nothing_that_makes_it_slow() -> None:
    assert not modules_of("supervisorctl") & {"typing", "dataclasses", "pathlib", "datetime", "inspect"}


@pytest.mark.parametrize("has_own", [True, False], ids=["own", "image's"])
def test_our_own_python_runs_a_program_or_else_the_images(tmp_path: Path, has_own: bool) -> None:
    paths, images = Paths(str(tmp_path / "sandbox")), tmp_path / "bin"
    for python, name in ((Path(paths.own_interpreter), "own"), (images / "python3", "image")):
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        python.chmod(0o755 if has_own or name == "image" else 0o644)

    def ran(command: str) -> str:
        path = {"PATH": f"{images}:/usr/bin:/bin"}
        return subprocess.run(["/bin/sh", "-c", command], env=path, capture_output=True, text=True).stdout

    assert ran(paths.exec_python("program.py")) == (
        "own -I -S program.py\n" if has_own else "image program.py\n"
    )
    name = "own" if has_own else "image"
    assert ran(f"{paths.find_python}; exec $p -I -S supervisorctl.py") == f"{name} -I -S supervisorctl.py\n"
