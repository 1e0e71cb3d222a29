"""Ports that servers of the local system listen on."""

from __future__ import annotations

import subprocess
import sys

import pytest
from managed_session_devkit.system import ports

ASK = """
from managed_session_devkit.system import ports
ports._PORTS = range(%d, %d)
print(ports.free_port())
"""


def test_a_port_is_given_to_one_caller_although_nobody_listens_on_it_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = ports.free_port()
    monkeypatch.setattr(ports, "_PORTS", range(first, first + 1))
    with pytest.raises(OSError, match=f"no free TCP port from {first} to {first}"):
        ports.free_port()


def test_a_port_is_given_to_one_process() -> None:
    first = ports.free_port()
    asked = subprocess.run(
        [sys.executable, "-c", ASK % (first, first + 1)], capture_output=True, text=True, timeout=60
    )
    assert "no free TCP port" in asked.stderr
