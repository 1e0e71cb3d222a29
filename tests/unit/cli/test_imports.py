"""A command imports no SDK that it does not need: each takes a second."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = "import sys; import managed_session_cli.{}; print('anthropic' in sys.modules)"


def test_commands_about_a_sandboxs_files_do_without_anthropics_sdk() -> None:
    for command in ("outputs", "logs"):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(command)], capture_output=True, text=True, timeout=120
        )
        assert ended.stdout == "False\n", command
