"""Writes the reference pages that are made from the code: `python docs/generate.py`.

With `--check` nothing is written: the exit status says whether the committed pages are up to date.
"""
# ruff: noqa: INP001 - a script beside the pages it writes, not a package

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import click
import typer.main
import yaml
from managed_session_api import conditions
from managed_session_api.conditions import REASONS, ConditionType
from managed_session_cli.main import app
from managed_session_operator.settings import OperatorSettings
from managed_session_runtime.credentials import Credential
from managed_session_runtime.settings import describe_settings
from managed_session_webhook.settings import WebhookSettings
from managed_session_worker.protocol import ExitReason

DOCS = Path(__file__).parent
_HEADER = "<!-- Generated from the code by `python docs/generate.py`: change the code, not this page. -->"

_CREDENTIALS: dict[Credential, tuple[str, str]] = {
    Credential.ANTHROPIC_ENVIRONMENT_ID: (
        "operator",
        "The self-hosted environment that is served. Not a secret.",
    ),
    Credential.ANTHROPIC_ENVIRONMENT_KEY: (
        "operator",
        "The environment's key, made in the Claude Console: polls, acknowledges and stops its work.",
    ),
    Credential.E2B_API_KEY: ("operator", "API key of the E2B team that the sandboxes run in."),
    Credential.ANTHROPIC_API_KEY: (
        "operator, optional",
        "Interrupts stuck sessions, and lists sessions for the slow check. See docs/security.md.",
    ),
    Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY: (
        "webhook",
        "The signing key that the Claude Console shows once (`whsec_…`). Several lines are several keys.",
    ),
    Credential.WEBHOOK_ADMIN_TOKEN: (
        "webhook, optional",
        "Bearer token for `GET /sandboxes`, of your own choice; without it that path answers 404.",
    ),
}

WORKER_EXITS: dict[ExitReason, str] = {
    "Idle": "The turn ended and no further message came within maxIdleSeconds: the normal end.",
    "NoMessage": "The session had no message within attachTimeoutSeconds; its work was stopped.",
    "SessionEnded": "The session was terminated or deleted while the worker served it.",
    "Stopped": "The work item was stopped from outside.",
    "LeaseLost": "Another worker holds the lease, or it lapsed because heartbeats did not get through.",
    "CredentialRejected": "Anthropic refused the session token.",
    "ResultRefused": "Anthropic refused a tool result that the session waits for; the work is offered again.",
    "Superseded": "A newer claim took over; everything that this worker had started was killed first.",
    "Killed": "The worker was killed: by a signal, by the operator, or with its supervisor.",
    "Thawed": "The sandbox was frozen past the end of the lease; the worker left when it woke up.",
    "Error": "Something unexpected; the record's message and `worker.log` say what.",
    "StartFailed": "The process could not be prepared (disk full, user missing); see the message.",
}
"""What each reason in a worker's exit record means; the reasons themselves are the worker's `ExitReason`."""

OPERATOR_EXITS: dict[str, str] = {
    "NoMessage": "A session without any message was offered, and none came within attachTimeoutSeconds.",
    "NoSessionToken": "The work came without a session token; the environment key is not given to sandboxes.",
    "Released": "The worker had ended and given its work back before the operator could read how.",
    "SandboxPaused": "The sandbox was found paused after its lease had lapsed; the worker ends at the thaw.",
    "SandboxVanished": "E2B does not know the sandbox any more; the worker went with it.",
    "SessionEnded": "The session ended before its worker had started; the work was stopped.",
    "StartFailed": "No start of the worker reached a first heartbeat; the work was stopped.",
    "Suspended": "`spec.lifecycle.suspend` was set; the worker was killed.",
    "TokenMissing": "The session token's Secret was gone before the acknowledgement; offered again.",
    "TokenLost": "The session token's Secret was gone before the worker had started; the work was stopped.",
    "WorkLost": "The work was stopped or taken by someone else before it could be acknowledged.",
    "WorkerVanished": "The sandbox's supervisor does not know the claim.",
}
"""Ends of a claim that the operator writes itself, because no exit record tells them."""


def settings_page() -> str:
    """All settings and credentials of the two processes."""
    shared = [row for row in describe_settings(WebhookSettings) if row in describe_settings(OperatorSettings)]
    names = {row.variable for row in shared}
    sections = [
        "# Settings",
        _HEADER,
        """Settings are environment variables of the two processes, `managed-session-webhook` and
        `managed-session-operator`. An empty variable counts as not set. A wrong value stops the start with
        exit code 2 and a message that names the variable and what is allowed. A field of a resource's
        `spec` goes before the operator's setting where both exist; `status.effective` shows what is in
        force.""",
        "## Both processes",
        _settings_table(shared),
    ]
    for title, cls in (("Webhook", WebhookSettings), ("Operator", OperatorSettings)):
        rows = [row for row in describe_settings(cls) if row.variable not in names]
        sections += [f"## {title}", _settings_table(rows)]
    sections += [
        "## Credentials",
        """Each is a file of this name in `MANAGED_SESSIONS_CREDENTIALS_DIR`, which is where `deploy/` mounts
        the Secrets `managed-session-webhook` and `managed-session-operator`; or, where the file is absent,
        an environment variable. Files are read again when they change: no restart is needed.""",
        _table(
            ("File and Secret key", "Variable", "Needed by", "What it is"),
            (
                (f"`{credential.value}`", f"`{credential.variable}`", *_CREDENTIALS[credential])
                for credential in Credential
            ),
        ),
        """**Two keys at once.** A line of the file is a key, so that a new one and an old one may stand there
        together, the new one first, while you replace it at its cloud. The webhook accepts what any of its
        signing keys has signed. The operator uses the first line of `anthropic-environment-key`,
        `e2b-api-key` and `anthropic-api-key`; where that one is refused it goes on with the next line,
        and tries the first one again after a minute. So a key may be written down before it is valid, and
        an old one be revoked before its line is removed: no work is lost, and nothing is restarted. The
        metric `managed_sessions_credential_line{credential="…"}` is the number of the line in use, 0 while
        all are refused; the log says so too. Remove the old line once it is 1.""",
        "## Where the clouds are",
        """These are the SDKs' own variables; without them the vendors' usual addresses apply. The operator
        reads them all; the webhook calls neither cloud.""",
        _table(
            ("Variable", "Meaning"),
            (
                (
                    "`ANTHROPIC_BASE_URL`",
                    "Anthropic's API, for the operator and for the workers in the sandboxes.",
                ),
                ("`E2B_API_URL`", "E2B's API."),
                ("`E2B_SANDBOX_URL`", "One address for the traffic to all sandboxes."),
                ("`E2B_DOMAIN`", "E2B's domain, where it is not the usual one."),
                (
                    "`E2B_MAX_CONNECTIONS`",
                    "Connections to E2B; each running sandbox keeps one open. The operator's default: 2000.",
                ),
            ),
        ),
    ]
    return _page(sections)


def conditions_page() -> str:
    """Condition types, reasons, phases and exit reasons."""
    documented = member_docs(conditions, ConditionType.__name__)
    missing = set(get_args(ExitReason)) ^ set(WORKER_EXITS)
    if missing:
        raise RuntimeError(f"docs/generate.py and the worker disagree on the exit reasons {sorted(missing)}")
    return _page(
        [
            "# Conditions, reasons and exit reasons",
            _HEADER,
            """`kubectl get managedsessions` shows the condition `Ready` and its reason; `kubectl describe`
            shows all conditions with a message and the Events. `status.phase` is one word made from the
            same facts for people: programs should read conditions.""",
            "## Condition types",
            _table(
                ("Type", "True means"),
                ((f"`{type_.value}`", documented[type_.name]) for type_ in ConditionType),
            ),
            "## Reasons",
            "Reasons of conditions and of Events.",
            _table(
                ("Reason", "Meaning", "What to do"),
                ((f"`{reason.value}`", doc.meaning, doc.remedy) for reason, doc in REASONS.items()),
            ),
            "## Exit reasons of a worker",
            """In `status.work.exitReason`, in the Event `WorkerFinished`, and with counts and times in the
            exit record `/opt/anthropic-managed-agents/exits/CLAIM.json` in the sandbox. After `Idle`,
            `NoMessage`, `SessionEnded` and `Stopped` the work item is closed. After any other one it stays
            leased for up to five minutes (`AwaitingLease`), then the queue offers it again.""",
            _table(("Exit reason", "Meaning"), ((f"`{name}`", text) for name, text in WORKER_EXITS.items())),
            "The operator itself writes one of these where there is no exit record:",
            _table(
                ("Exit reason", "Meaning"), ((f"`{name}`", text) for name, text in OPERATOR_EXITS.items())
            ),
        ]
    )


def resource_fields_page() -> str:
    """Every field of the ManagedSession resource, as `kubectl explain` describes it."""
    definition = yaml.safe_load((DOCS.parent / "crds" / "managedsessions.yaml").read_text())
    version = definition["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    sections = [
        "# Fields of a ManagedSession",
        _HEADER,
        f"""`{definition["spec"]["group"]}/{version["name"]}`, kind `{definition["spec"]["names"]["kind"]}`.
        `kubectl explain managedsession.spec --recursive` shows the same on a cluster.""",
    ]
    for part in ("spec", "status"):
        sections += [
            f"## {part}",
            properties[part]["description"],
            _table(("Field", "Type", "Meaning"), _fields(properties[part], part)),
        ]
    return _page(sections)


def cli_page() -> str:
    """Every command of `managed-sessions` with its arguments and options."""
    sections = [
        "# Command line",
        _HEADER,
        """`managed-sessions` runs on your machine, from a checkout: `make setup` puts it into `.venv/bin`. A
        command that fails ends with an exit code above 0 and says on stderr what to do. Credentials are
        read from environment variables ([which](settings.md#credentials)) and are never options.""",
    ]
    for path, command in _commands("managed-sessions", typer.main.get_command(app)):
        name = path.removeprefix("managed-sessions ")
        sections += [f"## {name}", f"```text\n{_usage(path, command)}\n```"]
        sections += [*_paragraphs(command.help or ""), *_examples(command.epilog or "")]
        rows = list(_parameters(command))
        if rows:
            sections.append(_table(("Parameter", "Default", "Meaning"), rows))
    return _page(sections)


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """(full name, command) of each command that does something, in the order of `--help`."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        if not inner.hidden:
            yield from _commands(f"{path} {name}", inner)


def _usage(path: str, command: Any) -> str:
    context = click.Context(command, info_name=path)
    return " ".join([path, *command.collect_usage_pieces(context)])


def _parameters(command: Any) -> Iterator[tuple[str, str, str]]:
    for each in command.params:
        if getattr(each, "hidden", False):
            continue
        if each.param_type_name == "argument":
            name = f"`{each.metavar or each.name.upper()}`"
        else:
            name = ", ".join(f"`{option}`" for option in (*each.opts, *each.secondary_opts))
        default = each.default
        shown = "" if default in (None, False, ()) or callable(default) else f"`{default}`"
        yield name, "needed" if each.required else shown, each.help or ""


def _paragraphs(text: str) -> list[str]:
    return inspect.cleandoc(text).strip().split("\n\n")


def _examples(epilog: str) -> Iterator[str]:
    """The examples below a command's help, as a block."""
    lines = "\n".join(filter(None, epilog.removeprefix("Examples:").splitlines()))
    if lines:
        yield f"```text\n{lines}\n```"


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "conditions.md": conditions_page,
    "resource-fields.md": resource_fields_page,
    "cli.md": cli_page,
}


def member_docs(module: Any, enum: str) -> dict[str, str]:
    """The texts below an enum's members, which exist in the source only."""
    tree = ast.parse(inspect.getsource(module))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == enum)
    found = {}
    for statement, following in itertools.pairwise(body):
        if (
            isinstance(statement, ast.Assign)
            and isinstance(statement.targets[0], ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            found[statement.targets[0].id] = inspect.cleandoc(str(following.value.value))
    return found


def _settings_table(rows: Iterable[Any]) -> str:
    return _table(
        ("Variable", "Allowed", "Default", "Meaning"),
        ((f"`{row.variable}`", _kind(row.kind), _code(row.default), row.description) for row in rows),
    )


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    """(path, type, description) of each field below `schema`, depth first."""
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield f"`{here}`", _type(field), field.get("description", "")
        inner = field.get("items", field)
        yield from _fields(inner, f"{here}[]" if "items" in field else here)


def _type(field: dict[str, Any]) -> str:
    if field.get("format") == "date-time":
        return "time"
    if "enum" in field:
        kind = " or ".join(f"`{value}`" for value in field["enum"])
    elif "items" in field:
        kind = f"list of {_type(field['items'])}"
    elif isinstance(field.get("additionalProperties"), dict):
        kind = f"map of {_type(field['additionalProperties'])}"
    else:
        kind = str(field["type"])
    return kind + (f", default `{str(field['default']).lower()}`" if "default" in field else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _kind(text: str) -> str:
    kind, matching, pattern = text.partition(", matching ")
    return f"{kind}{matching}`{pattern}`" if matching else kind


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _page(sections: Iterable[str]) -> str:
    return "\n\n".join(part if _is_preformatted(part) else " ".join(part.split()) for part in sections) + "\n"


def _is_preformatted(part: str) -> bool:
    return "\n|" in part or part.startswith("```")


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` only compare them; returns the exit status."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python docs/generate.py [--check]\n")
        return 2
    stale = []
    for name, make in PAGES.items():
        path, content = DOCS / name, make()
        if path.is_file() and path.read_text() == content:
            continue
        stale.append(name)
        if not arguments:
            path.write_text(content)
            sys.stdout.write(f"wrote {path.relative_to(DOCS.parent)}\n")
    if arguments and stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}. Run: python docs/generate.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
