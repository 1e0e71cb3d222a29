import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from e2b import AsyncTemplate
from managed_session_worker.paths import Paths
from managed_session_worker.template import PACKAGE, RUNTIME_FILES, template_name, worker_template


def test_the_template_starts_a_supervisor_and_waits_for_its_socket() -> None:
    template = json.loads(AsyncTemplate.to_json(worker_template()))
    assert template["startCmd"].endswith("managed_session_worker/supervisor.py")
    assert template["readyCmd"] == f"[ -S {Paths().socket} ]"
    commands = [step["args"][0] for step in template["steps"] if step["type"] == "RUN"]
    assert f"pip install anthropic=={metadata.version('anthropic')}" in commands
    assert not any("sudo" in command for command in commands)


def test_the_template_is_named_after_the_version_of_the_project() -> None:
    assert re.fullmatch(r"managed-session-worker:\d+\.\d+\.\d+\S*", template_name())


def test_the_copied_files_need_only_anthropic_and_nothing_that_builds(tmp_path: Path) -> None:
    library = tmp_path / "managed_session_worker"
    library.mkdir()
    for file in (PACKAGE / name for name in RUNTIME_FILES):
        (library / file.name).write_text(file.read_text())
    program = (
        "import sys; from managed_session_worker import supervisor, attach;"
        "assert 'e2b' not in sys.modules; print(supervisor.__file__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert run.stdout.strip() == str(library / "supervisor.py"), run.stderr
