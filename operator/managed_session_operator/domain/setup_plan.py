"""Makes the sections `setup` and `hooks` of a preparation's plan from the policy. Pure."""

from __future__ import annotations

import base64
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from managed_session_api.resource import (
    EffectiveStatus,
    HookSpec,
    HooksSpec,
    SetupFile,
    SetupSpec,
)
from managed_session_worker.paths import Paths

from managed_session_operator.domain.values import MissingValue, Reference, secret_key

DEFAULT_STEP_SECONDS = 600
DEFAULT_HOOK_SECONDS = 30
MOST_FILE_BYTES = 2 * 1024 * 1024
"""Greatest size of all files from Secrets and ConfigMaps together."""
_QUICK_SECONDS = 60
"""What each step may take beside what `timeoutSeconds` limits."""
_WORKDIR = Paths().workdir
_LAST_PART = re.compile(r"([^/:]+?)(\.git)?/*$")


def setup_references(policy: EffectiveStatus) -> Iterator[Reference]:
    """Yield the values that the setup needs."""
    setup = policy.setup or SetupSpec()
    for repository in setup.repositories:
        if repository.credential is not None:
            yield secret_key(repository.credential.secret_ref)
    for file in setup.files:
        if (reference := _source(file)) is not None:
            yield reference


def setup_content(policy: EffectiveStatus, values: Mapping[Reference, str]) -> dict[str, Any]:
    """Return the section `setup`, as `managed_session_worker.preparation.setup` reads it."""
    setup = policy.setup or SetupSpec()
    seconds = setup.timeout_seconds or DEFAULT_STEP_SECONDS
    section: dict[str, Any] = {
        "rerunOnChange": bool(setup.rerun_on_change),
        "refused": [*_refused(setup, values)],
        "repositories": [*_repositories(setup, values, seconds)],
        "files": [*_files(setup, values, seconds)],
    }
    if setup.script is not None:
        section["script"] = {"step": "setup.script", "text": setup.script, "seconds": seconds}
    return section


def setup_seconds(policy: EffectiveStatus) -> float:
    """Return how long the setup may take."""
    setup = policy.setup or SetupSpec()
    seconds = setup.timeout_seconds or DEFAULT_STEP_SECONDS
    long_steps = len(setup.repositories) + sum(file.url is not None for file in setup.files)
    steps = len(setup.repositories) + len(setup.files)
    return (long_steps + (setup.script is not None)) * seconds + steps * _QUICK_SECONDS


def hooks_content(policy: EffectiveStatus, _: Mapping[Reference, str]) -> dict[str, Any]:
    """Return the section `hooks` of a preparation: the hooks whose moment may have come."""
    hooks = policy.hooks or HooksSpec()
    return _hooks({"onCreate": hooks.on_create, "afterResume": hooks.after_resume})


def hooks_seconds(policy: EffectiveStatus) -> float:
    """Return how long the hooks of a preparation may take."""
    hooks = policy.hooks or HooksSpec()
    return float(sum(hook_seconds(each) for each in (hooks.on_create, hooks.after_resume)))


def hook_seconds(hook: HookSpec | None) -> int:
    """Return how long a hook may take."""
    return (hook.timeout_seconds or DEFAULT_HOOK_SECONDS) if hook is not None else 0


def single_hook_plan(
    name: str, hook: HookSpec, environment: Mapping[str, str], seconds_beside: float
) -> dict[str, Any]:
    """Return the plan that runs one hook now."""
    return {
        "seconds": hook_seconds(hook) + seconds_beside,
        "pause": "",
        "environment": dict(environment),
        "sections": [["hooks", _hooks({name: hook})]],
    }


def _hooks(hooks: Mapping[str, HookSpec | None]) -> dict[str, Any]:
    return {
        name: {"command": hook.command, "seconds": hook_seconds(hook)}
        for name, hook in hooks.items()
        if hook is not None
    }


def _source(file: SetupFile) -> Reference | None:
    if file.secret is not None:
        return secret_key(file.secret)
    if file.config_map is not None:
        return Reference("ConfigMap", file.config_map.name, file.config_map.key)
    return None


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"{_WORKDIR}/{path}"


def _repository_path(url: str, path: str | None) -> str:
    if path:
        return _absolute(path)
    found = _LAST_PART.search(url)
    name = found[1] if found is not None else ""
    return _absolute(name if name.strip(".") else "repository")


def _repositories(
    setup: SetupSpec, values: Mapping[Reference, str], seconds: int
) -> Iterator[dict[str, Any]]:
    for number, repository in enumerate(setup.repositories):
        entry: dict[str, Any] = {
            "step": f"setup.repositories[{number}]",
            "url": repository.url,
            "path": _repository_path(repository.url, repository.path),
            "ref": repository.ref or "",
            "depth": repository.depth or 0,
            "seconds": seconds,
        }
        if (credential := repository.credential) is not None:
            value = values[secret_key(credential.secret_ref)]
            if isinstance(value, MissingValue):
                entry["missing"] = str(value)
            else:
                entry["credential"] = {
                    "value": str(value),
                    "username": credential.username or "",
                    "knownHosts": credential.known_hosts or "",
                }
        yield entry


def _files(setup: SetupSpec, values: Mapping[Reference, str], seconds: int) -> Iterator[dict[str, Any]]:
    for number, file in enumerate(setup.files):
        entry: dict[str, Any] = {
            "step": f"setup.files[{number}]",
            "path": _absolute(file.path),
            "mode": file.mode or ("0600" if file.secret is not None else "0644"),
        }
        reference = _source(file)
        if reference is None:
            yield entry | {"url": file.url, "sha256": file.sha256, "seconds": seconds}
        elif isinstance(value := values[reference], MissingValue):
            yield entry | {"missing": str(value)}
        else:
            yield entry | {"content": base64.b64encode(value.encode()).decode()}


def _refused(setup: SetupSpec, values: Mapping[Reference, str]) -> Iterator[dict[str, str]]:
    """Yield what cannot be done, whatever the sandbox holds."""
    taken: dict[str, str] = {}
    places: Iterable[tuple[str, str]] = [
        *(
            (f"setup.repositories[{n}]", _repository_path(r.url, r.path))
            for n, r in enumerate(setup.repositories)
        ),
        *((f"setup.files[{n}]", _absolute(f.path)) for n, f in enumerate(setup.files)),
    ]
    for step, given in places:
        path = posixpath.normpath(given)
        if path in taken:
            yield {"step": step, "why": f"its path {path} is that of {taken[path]} too; give it another"}
        taken.setdefault(path, step)
    sources = [reference for file in setup.files if (reference := _source(file)) is not None]
    found = [values[each] for each in sources]
    size = sum(len(each.encode()) for each in found if not isinstance(each, MissingValue))
    if size > MOST_FILE_BYTES:
        why = f"the files from Secrets and ConfigMaps have {size} bytes together, more than {MOST_FILE_BYTES}"
        yield {"step": "setup.files", "why": f"{why}; download some of them with url"}
