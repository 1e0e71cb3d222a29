"""The sections `setup` and `hooks` of a plan."""

from __future__ import annotations

from managed_session_api.resource import EffectiveStatus, HookSpec, HooksSpec, SetupSpec
from managed_session_operator.domain.preparation import plan_of, preparation_key, references_of
from managed_session_operator.domain.setup_plan import MOST_FILE_BYTES, setup_content, setup_seconds
from managed_session_operator.domain.values import MissingValue, Reference

from .examples import session
from .test_session_setup import policy

TOKEN = Reference("Secret", "git", "token")
SETTINGS = Reference("ConfigMap", "settings", "app.json")
SETUP = SetupSpec.model_validate(
    {
        "repositories": [
            {
                "url": "https://git.example.com/acme/code.git",
                "credential": {"secretRef": {"name": "git", "key": "token"}},
            },
            {"url": "git@example.com:acme/other.git", "path": "/home/agent/other", "depth": 1, "ref": "v1"},
        ],
        "files": [
            {"path": "app.json", "configMap": {"name": "settings", "key": "app.json"}},
            {"path": "data", "url": "https://example.com/data", "sha256": "ab" * 32, "mode": "0755"},
        ],
        "script": "make",
        "timeoutSeconds": 100,
    }
)


def with_setup(setup: SetupSpec, hooks: HooksSpec | None = None) -> EffectiveStatus:
    return policy().model_copy(update={"setup": setup, "hooks": hooks})


def test_content_names_paths_steps_and_values() -> None:
    given = with_setup(SETUP)
    assert references_of(given) == {TOKEN: True, SETTINGS: True}
    content = setup_content(given, {TOKEN: "secret", SETTINGS: "{}"})
    first, second = content["repositories"]
    assert (first["step"], first["path"]) == ("setup.repositories[0]", "/mnt/session/code")
    assert first["credential"]["value"] == "secret"
    assert (second["path"], second["depth"], second["ref"]) == ("/home/agent/other", 1, "v1")
    text, data = content["files"]
    assert (text["path"], text["mode"], text["content"]) == ("/mnt/session/app.json", "0644", "e30=")
    assert (data["mode"], data["url"], data["seconds"]) == ("0755", "https://example.com/data", 100)
    assert content["script"] == {"step": "setup.script", "text": "make", "seconds": 100}
    assert content["refused"] == []
    assert setup_seconds(given) >= 400


def test_missing_values_are_told_to_the_sandbox_which_may_have_what_needs_them() -> None:
    why = MissingValue("The Secret git does not exist")
    content = setup_content(with_setup(SETUP), {TOKEN: why, SETTINGS: MissingValue("no key")})
    assert content["repositories"][0]["missing"] == "The Secret git does not exist"
    assert "credential" not in content["repositories"][0]
    assert content["files"][0]["missing"] == "no key"


def test_two_steps_for_one_place_and_too_large_files_are_refused() -> None:
    twice = SETUP.model_copy(update={"repositories": [SETUP.repositories[0]] * 2})
    content = setup_content(with_setup(twice), {TOKEN: "secret", SETTINGS: "x" * (MOST_FILE_BYTES + 1)})
    steps = [each["step"] for each in content["refused"]]
    assert steps == ["setup.repositories[1]", "setup.files"]


def test_nothing_but_after_resume_runs_under_a_worker() -> None:
    hooks = HooksSpec(on_create=HookSpec(command="a"), after_resume=HookSpec(command="b"))
    given = with_setup(SETUP, hooks)
    values = {TOKEN: "secret", SETTINGS: "{}"}
    sections = dict(plan_of(session(), given, values)["sections"])
    assert sections["hooks"].keys() == {"onCreate", "afterResume"}
    assert plan_of(session(), given, values, served=True)["sections"] == [
        ["hooks", {"afterResume": {"command": "b", "seconds": 30}}]
    ]


def test_key_changes_with_the_setup() -> None:
    other = SETUP.model_copy(update={"script": "make all"})
    keys = {preparation_key(with_setup(each)) for each in (SETUP, other)} | {preparation_key(policy())}
    assert len(keys) == 3
    assert None in keys
