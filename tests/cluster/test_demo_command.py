"""`managed-sessions demo`, as somebody runs it who tries the project."""

from __future__ import annotations

import asyncio
import os
import re
import sys

from managed_session_devkit.control_plane import ControlPlane

DEMO_SECONDS = 300.0
COMMAND = (sys.executable, "-m", "managed_session_cli.main", "demo")


async def test_demo_passes_its_own_checks_and_shows_classes_a_secret_and_an_output(
    control_plane: ControlPlane,
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MANAGED_SESSIONS_")}
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        env=clean | {"KUBEBUILDER_ASSETS": str(control_plane.binaries.folder)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), DEMO_SECONDS)
    shown = output.decode()
    assert process.returncode == 0, shown
    assert re.search(r"All \d+ checks passed", shown)
    before, after = shown.split("$ kubectl apply --filename=gold.yaml")
    assert "CLASS" not in before
    # Lines of the log may follow at once.
    table = after.split("--output=wide\n")[1].split("\n  $ ")[0].splitlines()
    sessions = [row for row in table if row.startswith("  sesn-")]
    assert ["gold" in row.split() for row in sessions].count(True) == 1, "of two sessions, one has the class"
    assert len(sessions) == 2
    assert '"network":"class/gold@1"' in after
    third = after.partition("A third session")[2]
    for check in ("the repository was there", "no file of its sandbox", "after the pause, the shell goes on"):
        assert f"✓ {check}" in third
    assert "--download results\n" in third
