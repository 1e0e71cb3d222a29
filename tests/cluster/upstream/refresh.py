"""Takes the definitions of this folder from their Go modules anew. Needs Go and a module proxy.

Descriptions are left out: they are most of the text, and nothing validates by them.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SOURCES = {
    "sigs.k8s.io/gateway-api@v1.4.1": (
        "config/crd/standard/gateway.networking.k8s.io_gateways.yaml",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
}


def without_descriptions(schema: Any) -> Any:
    """The schema without the texts; a property of that name stays."""
    if isinstance(schema, list):
        return [without_descriptions(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: without_descriptions(value)
        for name, value in schema.items()
        if not (name == "description" and isinstance(value, str))
    }


def main() -> None:
    """Write every file."""
    for module, files in SOURCES.items():
        done = subprocess.run(
            ["go", "mod", "download", "-json", module], capture_output=True, check=True, timeout=600
        )
        folder = Path(json.loads(done.stdout)["Dir"])
        for file in files:
            definition = without_descriptions(yaml.safe_load((folder / file).read_text()))
            definition["metadata"].pop("labels", None)
            definition.pop("status", None)
            target = HERE / Path(file).with_suffix(".json").name
            target.write_text(json.dumps(definition, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
