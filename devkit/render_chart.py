"""Writes the Helm chart `deploy/helm/managed-sessions`: `make manifests`.

Its templates for the objects of `deploy/` are the texts of `deploy/kustomize/base` and `crds/`, in which the
places that values change are replaced. What a place looks like and how often it occurs is said here: a base
that no longer has it is refused. Everything else of the chart is copied from `devkit/chart`.

With `--check` it writes nothing; the exit status says whether the committed chart is up to date.
"""
# ruff: noqa: INP001 - a script, not a part of the package

from __future__ import annotations

import json
import re
import sys
import textwrap
import tomllib
from pathlib import Path

import yaml
from chart_schema import schema

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "deploy" / "kustomize" / "base"
DASHBOARD = BASE.parent / "dashboard"
MONITORING = ROOT / "deploy" / "monitoring"
SOURCES = ROOT / "devkit" / "chart"
CHART = ROOT / "deploy" / "helm" / "managed-sessions"
RESOURCES, SYSTEM = "managed-sessions", "managed-sessions-system"
CONDITIONS = {
    "35-user-roles.yaml": "userRoles",
    "60-network-policies.yaml": "networkPolicies",
    "70-webhook-policy.yaml": "admissionPolicies",
    "80-class-policies.yaml": "admissionPolicies",
    "90-deletion-guard.yaml": "deletionGuard",
}
"""The value that each file's objects depend on; the others are always there."""
BLOCKS = {"resources": "          resources:", "podSecurityContext": "      securityContext:"}
"""The values of a process whose defaults are blocks of the base, each with the line that begins its block."""
FILES = {"podMonitor": "pod-monitor", "alerts": "alerts", "grafanaDashboard": "dashboard"}
"""The values of `monitoring`, each with its file in deploy/monitoring."""


class ChartError(Exception):
    """The chart cannot be made from the base. The text says why."""


def replaced(text: str, pattern: str, new: str, *, times: int | None = None) -> str:
    """Return the text with `new` for each match of a pattern, whose lines begin and end with `^` and `$`.

    Args:
        text: what to change.
        pattern: a regular expression.
        new: what to put in its place; may refer to groups.
        times: how often the pattern has to match. Default: at least once.

    Raises:
        ChartError: it matches another number of times.
    """
    changed, count = re.subn(pattern, new, text, flags=re.MULTILINE)
    if count != times if times is not None else not count:
        raise ChartError(f"{pattern} is {count} times in the base: {text[:200]}")
    return changed


def moved(text: str) -> str:
    """Return the text with values for the two namespaces."""
    text = re.sub(rf"^( *namespace: ){SYSTEM}$", r"\1{{ .Release.Namespace }}", text, flags=re.MULTILINE)
    return re.sub(
        rf"^( *namespace: ){RESOURCES}$", r"\1{{ .Values.resourceNamespace }}", text, flags=re.MULTILINE
    )


def when(condition: str, text: str) -> str:
    """Return the text inside an `if`."""
    return f"{{{{- if .Values.{condition} }}}}\n{text.rstrip()}\n{{{{- end }}}}\n"


def namespaces(text: str) -> str:
    """Return the template of the two namespaces, each with a condition of its own."""
    system, resources = text.split("\n---\n")
    system = replaced(system, rf"^  name: {SYSTEM}( #.*)?$", r"  name: {{ .Release.Namespace }}\1", times=1)
    resources = replaced(
        resources,
        rf"^  name: {RESOURCES}( #.*)?$",
        r"  name: {{ .Values.resourceNamespace }}\1\n  annotations:\n    helm.sh/resource-policy: keep",
        times=1,
    )
    return when("namespaces.system", system) + "---\n" + when("namespaces.resources", resources)


def roles(text: str) -> str:
    """Return the template of the Roles."""
    return replaced(
        text,
        rf"^    resourceNames: \[{SYSTEM}\]$",
        r"    resourceNames: ['{{ .Release.Namespace }}']",
        times=1,
    )


def deployment(text: str, process: str) -> str:
    """Return the template of a process's Deployment and what belongs to it."""
    pods = f'(dict "root" . "pods" .Values.{process})'
    name = f"managed-session-{process}"
    if process != "dashboard":  # of which there may be one only
        replicas = f"  replicas: {{{{ .Values.{process}.replicas }}}}"
        text = replaced(text, r"^  replicas: \d+$", replicas, times=1)
    text = replaced(
        text,
        r"^      labels: \*labels$",
        "      labels:\n"
        f"        app.kubernetes.io/name: {name}\n"
        "        app.kubernetes.io/part-of: managed-sessions\n"
        f"        {{{{- with .Values.{process}.podLabels }}}}\n"
        "        {{- toYaml . | nindent 8 }}\n"
        "        {{- end }}\n"
        f'      {{{{- with include "managed-sessions.podAnnotations" {pods} | trim }}}}\n'
        "      {{- . | nindent 6 }}\n"
        "      {{- end }}",
        times=1,
    )
    text = replaced(text, r"^  labels: &labels$", "  labels:", times=1)
    text = replaced(
        text,
        r"^      enableServiceLinks: false$",
        "      enableServiceLinks: false\n"
        f'      {{{{- with include "managed-sessions.scheduling" {pods} | trim }}}}\n'
        "      {{- . | nindent 6 }}\n"
        "      {{- end }}",
        times=1,
    )
    text = replaced(
        text,
        r"^          image: managed-sessions$",
        '          image: {{ include "managed-sessions.image" . }}',
        times=1,
    )
    text = replaced(
        text,
        r"^          imagePullPolicy: \w+$",
        "          imagePullPolicy: {{ .Values.image.pullPolicy }}",
        times=1,
    )
    text = replaced(
        text,
        rf"^            secretName: {name}$",
        f"            secretName: {{{{ .Values.{process}.credentialsSecret }}}}",
        times=1,
    )
    for line, value in (("          volumeMounts:", "extraVolumeMounts"), ("      volumes:", "extraVolumes")):
        indent = len(line) - len(line.lstrip()) + 2
        more = (
            f"{' ' * indent}{{{{- with .Values.{process}.{value} }}}}\n"
            f"{' ' * indent}{{{{- toYaml . | nindent {indent} }}}}\n"
            f"{' ' * indent}{{{{- end }}}}"
        )
        text = replaced(text, rf"^{line}$", f"{line}\n{more}", times=1)
    for key, line in BLOCKS.items():
        text = overridable(text, line, f".Values.{process}.{key}")
    return text


def block_of(text: str, line: str) -> str:
    """Return the block that this line begins, without the line.

    Raises:
        ChartError: there is not one such block.
    """
    indent = len(line) - len(line.lstrip())
    found: list[str] = re.findall(rf"^{re.escape(line)}\n((?: {{{indent + 1},}}.*\n)+)", text, re.MULTILINE)
    if len(found) != 1:
        raise ChartError(f"{line.strip()} is {len(found)} times in the base")
    return found[0]


def overridable(text: str, line: str, value: str) -> str:
    """Return the text with a value instead of the block that this line begins."""
    indent = len(line) - len(line.lstrip()) + 2
    new = f"{line}\n{' ' * indent}{{{{- toYaml {value} | nindent {indent} }}}}\n"
    return text.replace(f"{line}\n{block_of(text, line)}", new)


def with_defaults(values: str) -> str:
    """Return the values with those blocks of the base that are their defaults, comments included."""
    for process, path in (
        ("operator", BASE / "50-operator.yaml"),
        ("webhook", BASE / "40-webhook.yaml"),
        ("dashboard", DASHBOARD / "40-dashboard.yaml"),
    ):
        base = path.read_text()
        for key, line in BLOCKS.items():
            block = textwrap.indent(textwrap.dedent(block_of(base, line)), " " * 4)
            values = replaced(values, rf"^  {key}: {process}$\n", f"  {key}:\n{block}", times=1)
    return values


def service(text: str) -> str:
    """Return the webhook's template with values for its Service."""
    annotations = (
        "  {{- with .Values.webhook.service.annotations }}\n"
        "  annotations:\n"
        "    {{- toYaml . | nindent 4 }}\n"
        "  {{- end }}\n"
    )
    of_type = "  {{- with .Values.webhook.service.type }}\n  type: {{ . }}\n  {{- end }}\n"
    pattern = r"^(kind: Service\nmetadata:\n(?:  .*\n)+?)(spec:\n)"
    return replaced(text, pattern, rf"\1{annotations}\2{of_type}", times=1)


def deletion_guard(text: str) -> str:
    """Return the template of the guard, with its names and namespaces."""
    text = replaced(
        text,
        r"^(.*ame: )managed-sessions-deletion-guard$",
        r'\1{{ include "managed-sessions.deletionGuard" . }}',
        times=3,
    )
    text = replaced(
        text,
        rf"\[{RESOURCES}, {SYSTEM}\]$",
        "[{{ .Values.resourceNamespace }}, {{ .Release.Namespace }}]",
        times=1,
    )
    text = replaced(
        text,
        rf"\['{RESOURCES}', '{SYSTEM}'\]\"$",
        "['{{ .Values.resourceNamespace }}', '{{ .Release.Namespace }}']\"",
        times=1,
    )
    text = replaced(
        text,
        r"in the namespace managed-sessions, such",
        "in the namespace {{ .Values.resourceNamespace }}, such",
        times=1,
    )
    return replaced(
        text, r"^(        .*--namespace=)managed-sessions`", r"\1{{ .Values.resourceNamespace }}`", times=1
    )


def crd(text: str) -> str:
    """Return the template of a CRD, which Helm keeps: its deletion would delete every session."""
    annotation = "  annotations:\n    helm.sh/resource-policy: keep\n"
    return when("crds", replaced(text, r"^metadata:\n", f"metadata:\n{annotation}", times=1))


def from_base(name: str) -> str:
    """Return the template for a file of the base."""
    text = moved((BASE / name).read_text())
    if name == "00-namespaces.yaml":
        return namespaces(text)
    if name == "30-roles.yaml":
        return roles(text)
    if name == "40-webhook.yaml":
        return service(deployment(text, "webhook"))
    if name == "50-operator.yaml":
        return deployment(text, "operator")
    if name == "90-deletion-guard.yaml":
        text = deletion_guard(text)
    return when(CONDITIONS[name], text) if name in CONDITIONS else text


def of_dashboard(name: str) -> str:
    """Return the template for a file of the dashboard, which is there if its value says so."""
    text = moved((DASHBOARD / name).read_text())
    if name == "40-dashboard.yaml":
        text = deployment(text, "dashboard")
    if "NetworkPolicy" in text:
        text = when("networkPolicies", text)
    return when("dashboard.enabled", text)


def resources_of(folder: Path) -> list[Path]:
    """Return the files of a kustomization, without folders."""
    names = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [folder / name for name in names if (folder / name).is_file()]


def rendered() -> dict[Path, str]:
    """Return each file of the chart with the text that it should have.

    Raises:
        ChartError: the base lacks something that values change.
    """
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    files = {
        CHART / path.relative_to(SOURCES): path.read_text()
        for path in sorted(SOURCES.rglob("*"))
        if path.is_file()
    }
    chart = CHART / "Chart.yaml"
    files[chart] = files[chart].replace("VERSION", version)
    for path in resources_of(BASE):
        files[CHART / "templates" / path.name] = _header(path) + from_base(path.name)
    for path in resources_of(DASHBOARD):
        files[CHART / "templates" / f"dashboard-{path.name}"] = _header(path) + of_dashboard(path.name)
    for path in sorted((ROOT / "crds").glob("managed*.yaml")):
        files[CHART / "templates" / f"10-{path.name}"] = _header(path) + crd(path.read_text())
    for kind, source in FILES.items():
        text = (MONITORING / f"{source}.yaml").read_text()
        files[CHART / "files" / f"{kind}.yaml"] = re.split(r"^(?=spec:|data:)", text, flags=re.MULTILINE)[1]
    values = with_defaults(files[CHART / "values.yaml"])
    files[CHART / "values.yaml"] = values
    files[CHART / "values.schema.json"] = json.dumps(schema(yaml.safe_load(values)), indent=2) + "\n"
    return files


def _header(source: Path) -> str:
    made = f"Made from {source.relative_to(ROOT)} by `make manifests`: change that file, not this one."
    return f"{{{{- /* {made} */ -}}}}\n"


def main(arguments: list[str]) -> int:
    """Write the files, or compare them (`--check`). Return the exit status."""
    try:
        files = rendered()
    except ChartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    stale += [path for path in CHART.rglob("*") if path.is_file() and path not in files]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is not what `make manifests` makes", file=sys.stderr)
        elif path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path])
        else:
            path.unlink()
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
