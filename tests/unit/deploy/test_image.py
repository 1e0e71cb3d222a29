"""The sources of the image fit the project. (`tests/kind` inspects the image itself.)"""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEVKIT = tomllib.loads((ROOT / "devkit/pyproject.toml").read_text())


def names_of(requirements: Iterable[str]) -> set[str]:
    return {re.split(r"[<>=~!\[ ]", each)[0] for each in requirements}


def locked(lock: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", (ROOT / lock).read_text(), re.MULTILINE))


def test_build_tools_of_the_lock_file_are_those_of_the_distributions() -> None:
    for distribution in (PROJECT, DEVKIT):
        assert names_of(distribution["build-system"]["requires"]) <= locked("requirements-build.lock")


def test_devkit_uses_the_products_versions_of_libraries() -> None:
    pins = {
        name: set(re.findall(r"^([a-z0-9-]+==\S+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-devkit.lock")
    }
    assert pins["requirements.lock"] <= pins["requirements-devkit.lock"]


def test_lock_of_the_devkit_has_all_dependencies_of_product_command_line_and_devkit() -> None:
    product, devkit = PROJECT["project"], DEVKIT["project"]
    wanted = [*product["dependencies"], *product["optional-dependencies"]["cli"], *devkit["dependencies"]]
    assert names_of(wanted) - {product["name"]} <= locked("requirements-devkit.lock")


def test_image_has_no_library_that_only_command_line_or_devkit_needs() -> None:
    only_there = {"typer", "filelock", "platformdirs", "cryptography", "python-multipart"}
    assert only_there <= locked("requirements-devkit.lock")
    assert not only_there & locked("requirements.lock")


def test_devkit_has_the_version_of_the_product() -> None:
    assert DEVKIT["project"]["version"] == PROJECT["project"]["version"]


def test_sources_of_the_wheel_reach_the_image_build() -> None:
    sent = {
        line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {path.split("/")[0] for path in [*wheel["packages"], *wheel["force-include"]]}
    needed |= {
        "pyproject.toml",
        "devkit",
        PROJECT["project"]["readme"],
        *(path.name for path in ROOT.glob("*.lock")),
    }
    needed -= {"requirements-dev.lock", "requirements-bench.lock"}
    assert needed <= sent
