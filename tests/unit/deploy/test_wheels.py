"""The wheels of the two distributions: the product has no simulators, and the devkit adds its commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from managed_session_devkit.control_plane.releases import DEFAULT

ROOT = Path(__file__).parents[3]
PRODUCT = {"api", "runtime", "webhook", "dashboard", "operator", "worker", "cli"}
SECONDS = 120

RUN = "from managed_session_cli.main import main; main()"
IMPORT_WHAT_PODS_RUN = """
import importlib, pkgutil, managed_session_worker.template
for name in ("api", "runtime", "webhook", "dashboard", "operator"):
    package = importlib.import_module(f"managed_session_{name}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
"""
SHOW_MANIFESTS = """
from managed_session_cli import manifests
print(manifests.deploy_folder(), *(each["kind"] for each in manifests.load_manifests()))
"""


def wheel(distribution: Path, folder: Path) -> Path:
    """Build the wheel of a distribution, and unpack it as an installation does."""
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target=wheel",
        f"--directory={folder / 'built'}",
    ]
    subprocess.run(command, cwd=distribution, check=True, capture_output=True, timeout=SECONDS)
    (built,) = (folder / "built").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel(ROOT, tmp_path_factory.mktemp("product"))


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel(ROOT / "devkit", tmp_path_factory.mktemp("devkit"))


def linked(names: Iterable[str], folder: Path) -> Path:
    """Make a folder with only these libraries of this environment. Absent ones are for other systems."""
    for name in names:
        try:
            files = metadata.distribution(name).files or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            entry = folder / file.parts[0]
            if file.parts[0] not in {"..", "__pycache__"} and not entry.exists():
                entry.symlink_to(Path(str(file.locate())).parents[len(file.parts) - 1] / file.parts[0])
    return folder


def locked(lock: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", (ROOT / lock).read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def image_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The libraries in the image."""
    return linked(locked("requirements.lock"), tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def command_line_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The libraries that the extra `cli` adds."""
    needs = [re.split(r"[^A-Za-z0-9-]", each)[0] for each in metadata.requires("typer") or []]
    return linked(["typer", *needs], tmp_path_factory.mktemp("cli"))


def python(code: str, *arguments: str, path: Iterable[Path]) -> subprocess.CompletedProcess[str]:
    """Run code that can only import from `path` and the standard library."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments],
        env={**kept, "PYTHONPATH": os.pathsep.join(map(str, path)), "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def commands_in(help_text: str) -> set[str]:
    return set(re.findall(r"^\W*([a-z]+) ", help_text, re.MULTILINE))


def test_wheel_of_the_product_holds_the_product_and_no_simulator(product: Path) -> None:
    packages = {each.name for each in product.iterdir() if not each.name.endswith(".dist-info")}
    assert packages == {f"managed_session_{name}" for name in PRODUCT}
    (entry_points,) = product.glob("*.dist-info/entry_points.txt")
    for program in ("managed-sessions", "kubectl-managedsessions", "kubectl_complete-managedsessions"):
        assert f"\n{program} = managed_session_cli.main:" in entry_points.read_text()
    files = [each for each in product.rglob("*") if each.is_file()]
    assert not [each for each in files if re.search("simulat|devkit", str(each.relative_to(product)))]
    assert not [each for each in files if b"managed_session_devkit" in each.read_bytes()]


def test_wheel_of_the_devkit_holds_only_the_devkit(devkit: Path) -> None:
    packages = {each.name for each in devkit.iterdir() if not each.name.endswith(".dist-info")}
    assert packages == {"managed_session_devkit"}
    pinned = (
        f"control_plane/go/kubernetes/{DEFAULT.kubernetes}/go.mod",
        f"control_plane/go/etcd/{DEFAULT.etcd}/go.sum",
    )
    for name in ("simulators/anthropic/app.py", "simulators/e2b/app.py", *pinned):
        assert (devkit / "managed_session_devkit" / name).is_file()


def test_pods_run_with_the_libraries_of_the_image(product: Path, image_libraries: Path) -> None:
    done = python(IMPORT_WHAT_PODS_RUN, path=(product, image_libraries))
    assert done.returncode == 0, done.stderr
    for absent in ("typer", "managed_session_devkit"):
        assert python(f"import {absent}", path=(product, image_libraries)).returncode == 1


def test_command_line_without_its_extra_says_what_is_missing(product: Path, image_libraries: Path) -> None:
    ended = python(RUN, "--help", path=(product, image_libraries))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: the command line needs typer")
    assert "pip install 'managed-sessions[cli]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_installed_command_line_has_the_commands_on_a_cluster_and_the_manifests(
    product: Path, image_libraries: Path, command_line_libraries: Path
) -> None:
    path = (product, image_libraries, command_line_libraries)
    shown = python(RUN, "--help", path=path)
    assert (shown.returncode, shown.stderr) == (0, "")
    commands = commands_in(shown.stdout)
    assert {"install", "uninstall", "smoke", "logs", "doctor", "template", "version"} <= commands
    assert not commands & {"demo", "local"}
    for command in ("install", "uninstall", "smoke", "logs", "doctor"):
        imported = python(f"import managed_session_cli.{command}", path=path)
        assert imported.returncode == 0, imported.stderr
    folder, *kinds = python(SHOW_MANIFESTS, path=path).stdout.split()
    assert Path(folder).is_relative_to(product)
    assert {"CustomResourceDefinition", "Deployment"} <= set(kinds)


def test_devkit_adds_its_commands(
    product: Path, devkit: Path, image_libraries: Path, command_line_libraries: Path
) -> None:
    shown = python(RUN, "--help", path=(product, devkit, image_libraries, command_line_libraries))
    assert shown.returncode == 0, shown.stderr
    assert {"install", "demo", "local"} <= commands_in(shown.stdout)


def test_package_with_broken_commands_does_not_stop_the_others(
    product: Path, image_libraries: Path, command_line_libraries: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (broken / "entry_points.txt").write_text("[managed_sessions.commands]\nbroken = not_there:register\n")
    path = (product, tmp_path, image_libraries, command_line_libraries)
    ended = python(RUN, "version", path=path)
    assert (ended.returncode, ended.stdout) == (0, f"{metadata.version('managed-sessions')}\n")
    assert ended.stderr.startswith("warning: cannot load the commands of not_there:register")
