"""What `make manifests` makes without a cluster's programs is up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEVKIT = Path(__file__).parents[3] / "devkit"


@pytest.mark.parametrize("script", ["render_chart.py", "render_dashboard.py"])
def test_rendered_files_are_up_to_date(script: str) -> None:
    command = [sys.executable, str(DEVKIT / script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
