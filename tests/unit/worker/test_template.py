import asyncio
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from e2b import E2B, AsyncTemplate
from managed_session_worker.paths import Paths
from managed_session_worker.template import (
    PACKAGE,
    RUNTIME_FILES,
    build_template,
    template_name,
    worker_template,
)

from .simulated_e2b import options_of


def test_the_template_starts_a_supervisor_and_waits_for_its_socket() -> None:
    template = json.loads(AsyncTemplate.to_json(worker_template()))
    supervisor = f"{Paths().library}/managed_session_worker/supervisor.py"
    assert template["startCmd"] == Paths().exec_python(supervisor)
    assert [step["type"] for step in template["steps"]].count("COPY") == 1
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
        "import sys; from managed_session_worker import supervisor, supervisorctl;"
        "assert 'e2b' not in sys.modules; print(supervisor.__file__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert run.stdout.strip() == str(library / "supervisor.py"), run.stderr


async def test_two_builds_of_the_template_at_once_get_the_same_template(e2b: E2B) -> None:
    """E2B cancels the first build if a second one starts."""
    lines: list[str] = []
    first, second = await asyncio.gather(
        *(build_template(name="both:1", on_log=lines.append, **options_of(e2b)) for _ in range(2))
    )
    assert first == second
    assert any("waiting for it" in line for line in lines)
