"""Certificate authorities in the sandbox's store, and in the worker's own connection."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from managed_session_worker.connections import trusting
from managed_session_worker.paths import Paths
from managed_session_worker.preparation import trust
from managed_session_worker.preparation.sandbox import Sandbox
from managed_session_worker.privileges import Account

from ...support.certificates import issue_bare

BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def pem(name: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----"


IMAGES, OF_E2B, FIRST, SECOND = (pem(name) for name in ("aW1hZ2U=", "ZTJi", "Zmlyc3Q=", "c2Vjb25k"))


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """A sandbox of an image with a store."""
    paths = Paths(str(tmp_path))
    for folder in (paths.run, Path(tmp_path, BUNDLE).parent):
        Path(folder).mkdir(parents=True)
    Path(tmp_path, BUNDLE).write_text(f"# of the image\n{IMAGES}\n{OF_E2B}\n")
    return Sandbox(paths, Account.find(str(os.geteuid())))


def store(sandbox: Sandbox) -> list[str]:
    """What the variables of the agent's commands lead to."""
    return trust.certificates(Path(sandbox.paths.trust_bundle).read_text())


def test_authorities_come_and_go_and_all_others_stay(sandbox: Sandbox) -> None:
    bundle = Path(sandbox.paths.root, BUNDLE)
    for _ in range(2):
        trust.run({"certificates": f"{FIRST}\n{SECOND}"}, sandbox)
        assert store(sandbox) == [IMAGES, OF_E2B, FIRST, SECOND]
    assert Path(sandbox.paths.trust_bundle).resolve() == bundle
    trust.run({"certificates": SECOND}, sandbox)
    assert store(sandbox) == [IMAGES, OF_E2B, SECOND]
    trust.run({"certificates": ""}, sandbox)
    assert store(sandbox) == [IMAGES, OF_E2B]


def test_what_e2b_adds_later_is_kept(sandbox: Sandbox) -> None:
    bundle = Path(sandbox.paths.root, BUNDLE)
    bundle.write_text(f"{IMAGES}\n")
    trust.run({"certificates": FIRST}, sandbox)
    with bundle.open("a") as file:
        file.write(f"{OF_E2B}\n")
    trust.run({"certificates": SECOND}, sandbox)
    assert store(sandbox) == [IMAGES, OF_E2B, SECOND]


def test_without_changes_the_store_is_not_written(sandbox: Sandbox) -> None:
    bundle = Path(sandbox.paths.root, BUNDLE)
    before = bundle.stat()
    trust.run({"certificates": ""}, sandbox)
    assert (bundle.stat().st_ino, bundle.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert store(sandbox) == [IMAGES, OF_E2B]


def test_an_image_without_a_store_gets_one(sandbox: Sandbox) -> None:
    Path(sandbox.paths.root, BUNDLE).unlink()
    trust.run({"certificates": FIRST}, sandbox)
    assert store(sandbox) == [FIRST]


def test_the_worker_trusts_these_and_the_usual_authorities(tmp_path: Path) -> None:
    usual = ssl.create_default_context().cert_store_stats()["x509_ca"]
    context = trusting(issue_bare(tmp_path).ca.read_text())
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.cert_store_stats()["x509_ca"] > min(usual, 100)
