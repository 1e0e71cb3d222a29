"""The workflows are valid, pin what they use, and the release does what RELEASE.md says it does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ...support.go_programs import go_program

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RELEASE = ROOT / ".github/workflows/release.yml"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
DIGEST = f"sha256:{'0123456789abcdef' * 4}"


def steps() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(RELEASE.read_text())["jobs"]["release"]["steps"]
    return found


def using(action: str) -> list[dict[str, Any]]:
    return [each for each in steps() if each.get("uses", "").startswith(f"{action}@")]


def play(name: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the shell of the step whose name begins like this, as a runner does."""
    (script,) = (each["run"] for each in steps() if each.get("name", "").startswith(name))
    assert "${{" not in script, "values come in as variables, which no shell takes for code"
    paths = {name: str(folder / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_ENV")}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RUNNER_TEMP": str(folder),
            **paths,
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "deploy/helm", tmp_path / "deploy/helm")
    return tmp_path


def test_workflows_are_valid() -> None:
    checked = subprocess.run(
        [go_program("actionlint"), *map(str, WORKFLOWS)], capture_output=True, text=True, timeout=120
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: str(path.name))
def test_actions_are_pinned_by_commit_with_their_version_beside_it(workflow: Path) -> None:
    used = re.findall(r"^ *(?:- )?uses: (.*)$", workflow.read_text(), re.MULTILINE)
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: str(path.name))
def test_rights_are_named_and_only_the_release_may_write(workflow: Path) -> None:
    content = yaml.safe_load(workflow.read_text())
    given = [content["permissions"], *(job.get("permissions", {}) for job in content["jobs"].values())]
    may_write = {name for each in given for name, right in each.items() if right == "write"}
    release = {"contents", "packages", "id-token", "attestations"}
    assert may_write == (release if workflow == RELEASE else set())


def test_both_architectures_are_built_with_provenance_and_bill_of_materials() -> None:
    (build,) = using("docker/build-push-action")
    assert build["with"]["platforms"] == "linux/amd64,linux/arm64"
    assert build["with"]["provenance"] == "mode=max"
    assert build["with"]["sbom"] is True


def test_image_and_chart_are_attested_and_signed_by_digest() -> None:
    attested = {
        each["with"]["subject-name"]: each["with"] for each in using("actions/attest-build-provenance")
    }
    assert {name: each["subject-digest"] for name, each in attested.items()} == {
        "${{ env.IMAGE }}": "${{ steps.image.outputs.digest }}",
        "${{ env.CHARTS }}/managed-sessions": "${{ steps.chart.outputs.digest }}",
    }
    (bill,) = using("actions/attest-sbom")
    assert bill["with"]["subject-digest"] == "${{ steps.image.outputs.digest }}"
    (sign,) = (each for each in steps() if "cosign sign" in each.get("run", ""))
    assert set(sign["env"].values()) == {
        "${{ steps.image.outputs.digest }}",
        "${{ steps.chart.outputs.digest }}",
    }


def test_tag_has_to_be_the_version(checkout: Path) -> None:
    assert play("Check the version", checkout, GITHUB_REF_NAME=f"v{VERSION}").returncode == 0
    assert (checkout / "github_output").read_text() == f"version={VERSION}\n"
    wrong = play("Check the version", checkout, GITHUB_REF_NAME="v99.0.0")
    assert (wrong.returncode, wrong.stderr) == (1, f"the tag is v99.0.0, the version {VERSION}\n")


def test_notes_are_the_versions_part_of_the_changelog(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\nlater\n\n## 1.2.3 - 2026-12-01\n\n- this\n\n## 1.2.30\n\nother\n"
    )
    assert play("Write the notes", checkout, GITHUB_REF_NAME="v1.2.3").returncode == 0
    assert (checkout / "notes.md").read_text().split() == ["-", "this"]
    missing = play("Write the notes", checkout, GITHUB_REF_NAME="v1.2.4")
    assert (missing.returncode, missing.stderr) == (1, "CHANGELOG.md has nothing on v1.2.4\n")


def test_published_chart_uses_the_image_that_was_built(checkout: Path) -> None:
    values = checkout / "deploy/helm/managed-sessions/values.yaml"
    before = yaml.safe_load(values.read_text())
    image = {"repository": "ghcr.io/owner/managed-sessions", "digest": DIGEST}
    played = play("Let the chart use", checkout, IMAGE=image["repository"], DIGEST=DIGEST)
    assert played.returncode == 0, played.stderr
    assert yaml.safe_load(values.read_text()) == {**before, "image": {**before["image"], **image}}


def test_names_become_those_of_a_registry(checkout: Path) -> None:
    played = play(
        "Name image and charts", checkout, IMAGE="ghcr.io/Owner/Sessions", CHARTS="ghcr.io/Owner/charts"
    )
    assert played.returncode == 0
    lines = (checkout / "github_env").read_text().splitlines()
    assert lines == ["IMAGE=ghcr.io/owner/sessions", "CHARTS=ghcr.io/owner/charts"]


def test_verification_asks_for_what_the_workflow_publishes() -> None:
    """The commands themselves need a published release: here their names and identities are compared."""
    section = (ROOT / "RELEASE.md").read_text().partition("\n## How to verify a release\n")[2]
    variables = dict(re.findall(r"^export (\w+)=(.*)$", section, re.MULTILINE))
    workflow = yaml.safe_load(RELEASE.read_text())

    def named(text: str) -> str:
        owner = text.replace("${{ github.repository }}", "OWNER/managed-sessions")
        return owner.replace("${{ github.repository_owner }}", "OWNER")

    assert variables["IMAGE"] == named(workflow["env"]["IMAGE"]) + ":VERSION"
    assert variables["CHART"] == named(workflow["env"]["CHARTS"]) + "/managed-sessions:VERSION"
    file = RELEASE.relative_to(ROOT)
    assert variables["IDENTITY"] == f"https://github.com/OWNER/managed-sessions/{file}@refs/tags/vVERSION"
    assert section.count(f"--signer-workflow OWNER/managed-sessions/{file}") == 2
    assert yaml.safe_load(RELEASE.read_text())[True]["push"]["tags"] == ["v[0-9]+.[0-9]+.[0-9]+"]
    path = "/opt/managed-sessions/sbom.cdx.json"
    (taken,) = (each["run"] for each in steps() if "sbom.cdx.json >" in each.get("run", ""))
    assert f"cat {path}" in taken
    assert f'"$IMAGE" cat {path}' in section
    assert path in (ROOT / "Dockerfile").read_text()
    assert "cosign verify" in section
    assert "cosign sign --yes" in RELEASE.read_text()
