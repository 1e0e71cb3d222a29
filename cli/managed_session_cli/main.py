"""Runs the command line `managed-sessions`."""

import os
import sys

from managed_session_cli.errors import CommandError
from managed_session_cli.proxies import proxy_bypass

_LIBRARIES = ("rich", "typer")


def main() -> None:
    """Run the command line. A failure is one line that says what to do, and an exit code above 0."""
    try:
        from managed_session_cli.app import app  # noqa: PLC0415 - a plain install lacks its libraries
    except ModuleNotFoundError as error:
        if error.name not in _LIBRARIES:
            raise
        sys.exit(
            f"error: the command line needs {error.name}, which is not installed. "
            "Run: pip install 'managed-sessions[cli]'"
        )
    os.environ.update(proxy_bypass(os.environ))
    try:
        app()
    except (CommandError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    # The threads of E2B's SDK may abort the process while the interpreter shuts down.
    os._exit(code)


if __name__ == "__main__":
    main()
