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
from typing import Any

import click
import typer.main
import yaml
from managed_session_api import conditions
from managed_session_api.conditions import ConditionType
from managed_session_api.credentials import Credential
from managed_session_api.reasons import REASONS
from managed_session_cli.app import app
from managed_session_dashboard.settings import DashboardSettings
from managed_session_operator.settings import OperatorSettings
from managed_session_runtime.settings import describe_settings
from managed_session_webhook.settings import WebhookSettings
from managed_session_worker.paths import Paths
from managed_session_worker.protocol import ExitReason

DOCS = Path(__file__).parent
_HEADER = "<!-- Generated from the code by `python docs/generate.py`: change the code, not this page. -->"

_CREDENTIALS: dict[Credential, tuple[str, str]] = {
    Credential.ANTHROPIC_ENVIRONMENT_ID: (
        "operator",
        "ID of the self-hosted environment whose sessions are served. Not a secret.",
    ),
    Credential.ANTHROPIC_ENVIRONMENT_KEY: (
        "operator",
        "The environment's key, from the Claude Console. For polling, acknowledging and stopping its work.",
    ),
    Credential.E2B_API_KEY: ("operator", "API key of the E2B team in which the sandboxes run."),
    Credential.ANTHROPIC_API_KEY: (
        "operator, optional",
        "A Claude API key. For interrupting stuck sessions and listing sessions. See docs/security.md.",
    ),
    Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY: (
        "webhook",
        "The signing key that the Claude Console shows once (`whsec_…`).",
    ),
    Credential.WEBHOOK_ADMIN_TOKEN: (
        "webhook, optional",
        "A bearer token of your choice for `GET /sandboxes`. Without it that path answers 404.",
    ),
    Credential.DASHBOARD_TOKEN: (
        "dashboard, optional",
        "A token of your choice, with which viewers can sign in to the [dashboard](dashboard.md).",
    ),
}


_SETTINGS = {"Webhook": WebhookSettings, "Operator": OperatorSettings, "Dashboard": DashboardSettings}


def settings_page() -> str:
    """All settings and credentials of the processes."""
    described = [describe_settings(cls) for cls in _SETTINGS.values()]
    shared = [row for row in described[0] if all(row in rows for rows in described)]
    names = {row.variable for row in shared}
    sections = [
        "# Settings",
        _HEADER,
        """Settings are environment variables of the processes `managed-session-webhook`,
        `managed-session-operator` and `managed-session-dashboard` (which is [optional](dashboard.md)). An
        empty variable counts as not set. If a value is wrong, the process exits with code 2 and a message
        that names the variable and what is allowed. If a field of a resource's `spec`, or of its
        [class](classes.md), means the same as a setting, the field takes precedence; `status.effective` shows
        the values in force. [Operate](operate.md#change-a-setting) shows how to change a setting, and the
        [glossary](glossary.md) explains the terms.""",
        "## All processes",
        _settings_table(shared),
    ]
    for title, rows_of_process in zip(_SETTINGS, described, strict=True):
        rows = [row for row in rows_of_process if row.variable not in names]
        sections += [f"## {title}", _settings_table(rows)]
    sections += [
        "## Credentials",
        """Each credential is a file of this name in `MANAGED_SESSIONS_CREDENTIALS_DIR`, where `deploy/`
        mounts the Secret with the name of the process. If the file is absent, the environment variable
        counts. The processes read a file again when it changes; no restart is
        needed.""",
        _table(
            ("File and Secret key", "Variable", "Needed by", "What it is"),
            (
                (f"`{credential.value}`", f"`{credential.variable}`", *_CREDENTIALS[credential])
                for credential in Credential
            ),
        ),
        """**Two keys at once.** Each line of a file is a key. While you replace a key, put the new one on the
        first line and the old one on the second. The webhook accepts what any of its signing keys has
        signed. The operator uses the first line of `anthropic-environment-key`, `e2b-api-key` and
        `anthropic-api-key`. If that key is refused, it uses the next line, and tries the first one again
        after a minute. So you can add a key before it is valid, and revoke the old one before you remove
        its line: no work is lost, and nothing restarts. The metric
        `managed_sessions_credential_line{credential="…"}` is the number of the line in use, or 0 while all
        keys are refused; the log reports each change. Remove the old line once the number is 1.
        [Credentials](credentials.md) has the commands.""",
        "## Addresses of Anthropic and E2B",
        """These are the SDKs' own variables. Without them the vendors' usual addresses apply. The operator
        reads all of them. The webhook calls neither Anthropic nor E2B.""",
        _table(
            ("Variable", "Meaning"),
            (
                (
                    "`ANTHROPIC_BASE_URL`",
                    "Anthropic's API, for the operator and for the workers in the sandboxes.",
                ),
                ("`E2B_API_URL`", "E2B's API."),
                ("`E2B_SANDBOX_URL`", "One address for the traffic to all sandboxes."),
                ("`E2B_DOMAIN`", "E2B's domain, if it is not the usual one."),
                (
                    "`E2B_MAX_CONNECTIONS`",
                    "Maximum number of connections to E2B. Each running sandbox uses one. Default: 2000.",
                ),
            ),
        ),
    ]
    return _page(sections)


def conditions_page() -> str:
    """Condition types, reasons, phases and exit reasons."""
    documented = member_docs(conditions, ConditionType.__name__)
    return _page(
        [
            "# Conditions, reasons and exit reasons",
            _HEADER,
            """`kubectl get managedsessions` shows the reason of the condition `Ready`, and so does
            `kubectl get managedsessionclasses` for [classes](classes.md). `kubectl describe`
            shows all conditions, with a message each, and the Events. `status.phase` sums the conditions up
            in one word for people; programs should read the conditions. The [glossary](glossary.md) explains
            the terms, and [troubleshooting](troubleshooting.md) goes from symptoms to reasons.""",
            "## Condition types",
            _table(
                ("Type", "True means"),
                ((f"`{type_.value}`", documented[type_.name]) for type_ in ConditionType),
            ),
            "## Reasons",
            "These are the reasons of conditions and of Events.",
            _table(
                ("Reason", "Meaning", "What to do"),
                ((f"`{reason.value}`", doc.meaning, doc.remedy) for reason, doc in REASONS.items()),
            ),
            "## Exit reasons of a worker",
            f"""`status.work.exitReason` and the Event `WorkerFinished` say why a worker ended. If the worker
            itself gave the reason, the exit record `{Paths().exits}/CLAIM.json` in the sandbox has it too,
            with counts and times. After {_listed(reason for reason in ExitReason if reason.gives_lease_back)}
            the work item is closed. After any other reason, a lease that the worker held lapses within
            five minutes (`AwaitingLease`), and the queue offers the work again.""",
            _table(
                ("Exit reason", "Written by", "Meaning", "What to do"),
                (
                    (f"`{reason.value}`", reason.writer.value, reason.meaning, reason.remedy)
                    for reason in ExitReason
                ),
            ),
        ]
    )


def _listed(names: Iterable[str]) -> str:
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}"


def resource_fields_page() -> str:
    """Every field of the ManagedSession resource, as `kubectl explain` describes it."""
    return _fields_page("managedsessions.yaml")


def class_fields_page() -> str:
    """Every field of the ManagedSessionClass resource, as `kubectl explain` describes it."""
    return _fields_page("managedsessionclasses.yaml")


def shared_fields_page() -> str:
    """Every field of the ManagedSandbox resource, as `kubectl explain` describes it."""
    return _fields_page("managedsandboxes.yaml")


def _fields_page(file: str) -> str:
    definition = yaml.safe_load((DOCS.parent / "crds" / file).read_text())
    version = definition["spec"]["versions"][0]
    names = definition["spec"]["names"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    sections = [
        f"# Fields of a {names['kind']}",
        _HEADER,
        f"""`{definition["spec"]["group"]}/{version["name"]}`, kind `{names["kind"]}`.
        `kubectl explain {names["singular"]}.spec --recursive` shows the same on a cluster.""",
    ]
    for part in ("spec", "status"):
        sections += [
            f"## {part}",
            properties[part]["description"],
            _table(("Field", "Type", "Meaning"), _fields(properties[part], part)),
        ]
    return _page(sections)


_EXIT_CODES = (
    ("0", "Done."),
    ("1", "Something failed, or a check of `doctor` or a step of `smoke` did. The message says what to do."),
    ("2", "The arguments are wrong."),
    ("130", "Interrupted with Ctrl-C."),
    ("any", "`shell` passes on the exit status of the shell or the command; 255 if a signal ended it."),
)


def cli_page() -> str:
    """Every command of `managed-sessions` with its arguments and options."""
    sections = [
        "# Command line",
        _HEADER,
        """`managed-sessions` runs on your machine, from a checkout; `make setup` puts it into `.venv/bin`. It
        reads credentials from [environment variables](settings.md#credentials), never from options. The
        commands `demo` and `local` come with the devkit, so a checkout has them and the image does not.""",
        """[Day to day](day-to-day.md) shows the commands at work.""",
        """**As kubectl's plugin.** With `.venv/bin` on your PATH, `kubectl managedsessions` is the same:
        kubectl finds `kubectl-managedsessions` there, and `kubectl_complete-managedsessions` for its
        completion.""",
        """**SESSION** is the ID of a session, the name of its ManagedSession, or the beginning of either, if
        only one session has it. Colours appear only on a terminal, and not if `NO_COLOR` is set.""",
        """A command that fails says on stderr what to do.""",
        _table(("Exit code", "Meaning"), _EXIT_CODES),
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
        yield name, "required" if each.required else shown, each.help or ""


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
    "class-fields.md": class_fields_page,
    "shared-sandbox-fields.md": shared_fields_page,
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
