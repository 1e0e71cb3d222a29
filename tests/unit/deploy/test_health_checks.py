"""The clouds' health checks in deploy/examples, which request paths that the webhook serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"


def example(name: str) -> dict[str, Any]:
    [document] = yaml.safe_load_all((DEPLOY / f"examples/health-check-{name}.yaml").read_text())
    assert isinstance(document, dict)
    return document


def webhook(kind: str) -> dict[str, Any]:
    [found] = [
        each
        for each in yaml.safe_load_all((DEPLOY / "40-webhook.yaml").read_text())
        if each["kind"] == kind and each["metadata"]["name"] == "managed-session-webhook"
    ]
    assert isinstance(found, dict)
    return found


def checked(name: str) -> tuple[int, str]:
    """Return the port and the path that the example requests."""
    spec = example(name)["spec"]
    match name:
        case "gke-ingress":
            return spec["healthCheck"]["port"], spec["healthCheck"]["requestPath"]
        case "gke-gateway":
            check = spec["default"]["config"]["httpHealthCheck"]
            return check["port"], check["requestPath"]
        case _:
            return spec["default"]["port"], spec["default"]["http"]["path"]


@pytest.mark.parametrize("name", ["gke-ingress", "gke-gateway", "azure"])
def test_a_clouds_health_check_asks_the_containers_serving_port_for_a_path_that_is_served(name: str) -> None:
    [container] = webhook("Deployment")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    port, path = checked(name)
    assert port == ports["http"]
    assert path in {"/", "/health"}


@pytest.mark.parametrize("name", ["gke-gateway", "azure"])
def test_a_health_check_policy_is_about_the_webhooks_service_in_its_namespace(name: str) -> None:
    policy, service = example(name), webhook("Service")["metadata"]
    assert policy["spec"]["targetRef"]["name"] == service["name"]
    assert policy["spec"]["targetRef"]["kind"] == "Service"
    assert policy["metadata"]["namespace"] == service["namespace"]
