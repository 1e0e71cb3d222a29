"""Runs the command line: `managed-sessions`, and `kubectl managedsessions`, which is the same."""

import os
import sys
from collections.abc import Callable
from typing import Any

from managed_session_cli.errors import CommandError
from managed_session_cli.proxies import proxy_bypass

_LIBRARIES = ("rich", "typer")
_INTERRUPTED = 130


def main() -> None:
    """Run the command line. A failure is one line that says what to do, and an exit code above 0."""
    _run("managed-sessions")


def kubectl_plugin() -> None:
    """Run the command line as kubectl's plugin."""
    _run("kubectl managedsessions")


def kubectl_completion() -> None:
    """Print what kubectl may offer after `kubectl managedsessions`."""
    from managed_session_cli.completion_command import complete_for_kubectl  # noqa: PLC0415 - as in `_run`

    print(complete_for_kubectl(_application(), sys.argv[1:]))


def _application() -> Any:
    try:
        from managed_session_cli.app import app  # noqa: PLC0415 - a plain install lacks its libraries
    except ModuleNotFoundError as error:
        if error.name not in _LIBRARIES:
            raise
        sys.exit(
            f"error: the command line needs {error.name}, which is not installed. "
            "Run: pip install 'managed-sessions[cli]'"
        )
    return app


def _run(program: str) -> None:
    app = _application()
    from managed_session_cli.completion_command import complete_from_environment  # noqa: PLC0415

    os.environ.update(proxy_bypass(os.environ))

    def run() -> None:
        complete_from_environment(app)
        app(prog_name=program)

    code = _exit_code(run)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        # What reads the output has ended, such as `head`.
        code = code or 1
    # The threads of E2B's SDK may abort the process while the interpreter shuts down.
    os._exit(code)


def _exit_code(run: Callable[[], object]) -> int:
    try:
        run()
    except (CommandError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


if __name__ == "__main__":
    main()
