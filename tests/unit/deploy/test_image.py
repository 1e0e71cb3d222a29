"""Dockerfile and .dockerignore fit the manifests and the project."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STAGES = re.findall(r"^FROM (\S+)(?: AS (\S+))?\n", DOCKERFILE, flags=re.MULTILINE)
BUILD_STAGE, SIMULATORS_BUILD_STAGE, SIMULATORS_STAGE, FINAL_STAGE = re.split(
    r"^FROM .*\n", DOCKERFILE, flags=re.MULTILINE
)[1:]


def test_what_runs_starts_from_the_one_base_image_that_can_be_chosen() -> None:
    assert STAGES == [
        ("${BASE_IMAGE}", "build"),
        ("build", "build-simulators"),
        ("${BASE_IMAGE}", "simulators"),
        ("${BASE_IMAGE}", ""),
    ]
    assert "\nARG BASE_IMAGE=python:3.13-slim\n" in DOCKERFILE


def test_build_without_a_target_makes_the_product() -> None:
    assert "build-simulators" not in FINAL_STAGE
    assert "COPY --from=build /opt/managed-sessions /opt/managed-sessions" in FINAL_STAGE


def test_image_runs_as_the_user_of_the_pods() -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", FINAL_STAGE, flags=re.MULTILINE)
    for name in ("40-webhook", "50-operator"):
        deployment = next(yaml.safe_load_all((ROOT / f"deploy/{name}.yaml").read_text()))
        assert deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(user)


def test_final_stage_installs_nothing() -> None:
    assert re.findall(r"^RUN (\S+ \S+)", FINAL_STAGE, flags=re.MULTILINE) == ["rm -rf"]
    assert "ENTRYPOINT" not in FINAL_STAGE
    assert 'CMD ["managed-session-operator"]' in FINAL_STAGE


def test_everything_installed_is_checked_against_a_lock_file() -> None:
    installs = re.findall(r"pip (?:--python \S+ )?install\b[^&]*", BUILD_STAGE + SIMULATORS_BUILD_STAGE)
    assert len(installs) == 5
    for install in installs:
        assert "--require-hashes" in install or "--no-index --no-deps" in install


def test_bytecode_holds_no_time() -> None:
    installs = re.findall(r"pip --python \S+ install\b[^&]*", BUILD_STAGE + SIMULATORS_BUILD_STAGE)
    assert len(installs) == 3
    assert all("--no-compile" in install for install in installs)
    assert "compileall -q -j 1 --invalidation-mode unchecked-hash" in BUILD_STAGE


def test_build_tools_of_the_lock_file_are_those_that_the_project_names() -> None:
    locked = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements-build.lock").read_text(), re.MULTILINE)
    for requirement in PROJECT["build-system"]["requires"]:
        assert re.split(r"[<>=~!\[ ]", requirement)[0] in locked


def test_simulators_run_with_the_products_own_libraries() -> None:
    pins = {
        name: set(re.findall(r"^([a-z0-9-]+==\S+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-local.lock")
    }
    assert pins["requirements.lock"] <= pins["requirements-local.lock"]


def test_lock_of_the_command_line_and_the_simulators_has_all_that_the_project_names() -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements-local.lock").read_text(), re.MULTILINE))
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["local"]]
    assert {re.split(r"[<>=~!\[ ]", each)[0] for each in wanted} <= locked


def test_what_the_wheel_is_built_from_reaches_the_build() -> None:
    sent = {
        line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {path.split("/")[0] for path in [*wheel["packages"], *wheel["force-include"]]}
    needed |= {"pyproject.toml", PROJECT["project"]["readme"], *(path.name for path in ROOT.glob("*.lock"))}
    needed -= {"requirements-dev.lock"}
    assert needed <= sent
