"""`template build --from`, by the real SDK against E2B's simulator: what serves, and what is said if not."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from e2b import E2B, AsyncTemplate, SandboxException
from managed_session_cli.errors import TemplateError
from managed_session_cli.python_archives import archive_for, fetched, parse_archive, staged
from managed_session_cli.template_build import Built, Request, build_from, full_name, resolve_base
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient
from managed_session_worker.template import TEMPLATE_NAME, build_of, template_exists
from managed_session_worker.template.base import Base, BaseKind, Customisation

from ..worker.simulated_e2b import options_of, simulated_e2b

HOME = "/opt/anthropic-managed-agents"


@pytest.fixture(scope="module")
async def e2b(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[E2B]:
    with simulated_e2b(tmp_path_factory.mktemp("e2b")) as client:
        yield client


async def built(e2b: E2B, source: str, lines: list[str] | None = None, **request: Any) -> Built:
    log = [] if lines is None else lines
    customisation = request.pop("customisation", Customisation())
    return await build_from(Request(source, customisation, **request), log.append, **options_of(e2b))


async def steps_of(e2b: E2B, name: str) -> list[dict[str, Any]]:
    """The steps of the newest build, as E2B got them."""
    async with E2BSimulatorClient(options_of(e2b)["api_url"]) as control:
        template = next(each for each in await control.templates() if each["name"] == name.partition(":")[0])
    return list(template["builds"][-1]["request"]["steps"])


async def test_an_image_is_built_checked_in_a_sandbox_and_then_tagged(e2b: E2B) -> None:
    options = Customisation(packages=("jq", "a'b"), commands=("touch /made",), cpu_count=4, memory_mb=2048)
    result = await built(e2b, "node:22", customisation=options)
    name, _, tag = result.name.partition(":")
    assert name == f"{TEMPLATE_NAME}-node-22"
    assert result.found is not None
    assert result.found["the supervisor"] == "answers"
    assert int(result.found["the user agent"]) >= 0
    steps = await steps_of(e2b, name)
    runs = [step["args"][0] for step in steps if step["type"] == "RUN"]
    assert "jq 'a'\"'\"'b'" in runs[0]
    assert runs[1] == "touch /made"
    assert runs[2].startswith("sh ")
    assert "pip install" in runs[3]
    assert runs[4].endswith("prepare.py")
    assert [each.tag for each in await e2b.AsyncTemplate.get_tags(name)] == [tag]
    sandbox = await e2b.AsyncSandbox.create(result.name)
    info = await sandbox.get_info()
    assert (info.cpu_count, info.memory_mb) == (4, 2048)
    assert not await sandbox.files.exists(f"{HOME}/build")
    listed = await e2b.AsyncSandbox.list().next_items()
    assert [each.sandbox_id for each in listed] == [sandbox.sandbox_id]  # that of the check is gone
    await sandbox.kill()
    again = await built(e2b, "node:22", customisation=options)
    assert (again.name, again.build_id, again.found) == (result.name, result.build_id, None)


async def test_an_image_without_python_gets_one_from_an_archive(
    e2b: E2B, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # so that nothing is fetched
    with pytest.raises(TemplateError, match="cannot be fetched") as caught:
        await built(e2b, "simulated/no-python", lines)
    assert "--python-archive" in str(caught.value)
    assert any("needs an interpreter: libc=" in line for line in lines)
    result = await built(e2b, "simulated/no-python", archive=parse_archive(str(own_python(tmp_path))))
    assert result.found is not None
    assert result.found["the worker's own Python"] == sys.version.split()[0]


async def test_an_image_without_bash_is_refused_and_says_so(e2b: E2B) -> None:
    with pytest.raises(TemplateError, match=r"image simulated/no-bash cannot be a base: it has no /bin/bash"):
        await built(e2b, "simulated/no-bash")


async def test_a_build_whose_check_was_cut_has_no_tag_and_the_next_run_completes_it(e2b: E2B) -> None:
    options = options_of(e2b)
    async with E2BSimulatorClient(options["api_url"]) as control:
        await control.add_fault("create", {"status": 400}, times=1)
        with pytest.raises(SandboxException):
            await built(e2b, "node:20", name="cut:1")
    assert not await template_exists("cut:1", **options)
    assert (await built(e2b, "node:20", name="cut:1")).found is not None
    assert [each.tag for each in await e2b.AsyncTemplate.get_tags("cut")] == ["1"]


async def test_a_dockerfile_is_built_first_and_a_changed_file_gives_a_new_name(
    e2b: E2B, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian:bookworm\nCOPY data.txt /srv/data.txt\n")
    (tmp_path / "data.txt").write_text("one")
    first = await built(e2b, str(tmp_path), name="mine")
    sandbox = await e2b.AsyncSandbox.create(first.name)
    assert await sandbox.files.read("/srv/data.txt") == "one"
    await sandbox.kill()
    assert (await built(e2b, str(tmp_path), name="mine")).build_id == first.build_id
    (tmp_path / "data.txt").write_text("two")
    assert (await built(e2b, str(tmp_path), name="mine")).name != first.name
    (tmp_path / "Dockerfile").write_text("FROM debian AS one\nFROM one\n")
    with pytest.raises(TemplateError, match="does not support"):
        await built(e2b, str(tmp_path))


async def test_a_template_of_the_team_is_found_by_its_exact_tag(e2b: E2B) -> None:
    await e2b.AsyncTemplate.build(AsyncTemplate().from_base_image(), "team-base:v1")
    options = options_of(e2b)
    base = await resolve_base("team-base:v1", **options)
    assert base.kind is BaseKind.TEMPLATE
    before = full_name(None, base, Customisation())
    await e2b.AsyncTemplate.build(AsyncTemplate().from_base_image(), "team-base:v1")
    assert full_name(None, await resolve_base("team-base:v1", **options), Customisation()) != before
    assert (await resolve_base("team-base:v2", **options)).kind is BaseKind.IMAGE
    assert (await resolve_base("image:team-base:v1", **options)).kind is BaseKind.IMAGE
    with pytest.raises(TemplateError, match="no such template"):
        await resolve_base("template:team-base:v2", **options)


async def test_another_tag_of_a_template_does_not_count(e2b: E2B) -> None:
    await e2b.AsyncTemplate.build(AsyncTemplate().from_base_image(), "tagged:v1")
    options = options_of(e2b)
    assert await template_exists("tagged:v1", **options)
    assert not await template_exists("tagged:v2", **options)
    assert not await template_exists("tagged", **options)
    assert await build_of("nobody-built-this:v1", **options) is None


def test_names_depend_on_base_and_options_alone() -> None:
    base, plain = Base(BaseKind.IMAGE, "registry.example.com/team/ml@sha256:00ff"), Customisation()
    assert full_name(None, base, plain).startswith(f"{TEMPLATE_NAME}-registry-example-com-team-ml:")
    assert full_name("ml", base, plain) == full_name("ml", base, Customisation())
    others = (Customisation(cpu_count=2), Customisation(packages=("jq",)), Customisation(commands=("x",)))
    assert len({full_name("ml", base, each) for each in (plain, *others)}) == 4
    assert full_name("ml:1", base, plain) == "ml:1"
    with pytest.raises(TemplateError, match="E2B accepts"):
        full_name("M L", base, plain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://example.com/python.tar.gz#sha256=" + "0" * 64, "only https"),
        ("https://example.com/python.tar.gz", "add the checksum"),
        ("python.tar.gz#sha256=12", "64 hexadecimal digits"),
    ],
)
def test_an_archive_needs_tls_and_a_checksum(text: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        parse_archive(text)


def test_an_archive_with_another_checksum_or_without_python_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "python.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(Path(__file__), "readme")
    with (
        pytest.raises(TemplateError, match="do not use it"),
        fetched(parse_archive(f"{file}#sha256={'0' * 64}")),
    ):
        pass
    with pytest.raises(TemplateError, match="no bin/python3"), staged(file):
        pass
    with pytest.raises(TemplateError, match="knows no archive"):
        archive_for("musl", "x86_64")


def own_python(folder: Path) -> Path:
    """An archive of the Python that runs this test, without its packages."""
    version = f"python3.{sys.version_info.minor}"

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = set(Path(entry.name).parts)
        return None if parts & {"site-packages", "dist-packages", "test", "__pycache__"} else entry

    import os

    archive = folder / "python.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(os.path.realpath(sys.executable), f"python/bin/{version}")
        tar.add(Path(os.__file__).parent, f"python/lib/{version}", filter=kept)
    return archive
