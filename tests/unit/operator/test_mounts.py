"""What a policy's volumes, buckets and disks become in the plan of a sandbox's preparation."""

from __future__ import annotations

from managed_session_api.resource import EffectiveStatus
from managed_session_operator.domain import policy_record
from managed_session_operator.domain.mounts import release_plan
from managed_session_operator.domain.policy import policy_of, sandbox_request
from managed_session_operator.domain.preparation import plan_of, preparation_key, references_of
from managed_session_operator.domain.values import Reference

from .examples import session, settings

REFERENCE = {"secretRef": {"name": "key"}}
BUCKET = {"type": "S3", "bucket": "files", "path": "/mnt/data", "readOnly": True, **REFERENCE}
DISK = {"disk": "org/disk", "region": "aws-us-east-1", "path": "/mnt/disk", **REFERENCE}
VOLUME = {"name": "shared", "path": "/mnt/shared", "create": True}
VALUES = {
    Reference("Secret", "key", "access-key-id"): "ID",
    Reference("Secret", "key", "secret-access-key"): "s3cret",
    Reference("Secret", "key", "mount-token"): "token",
}


def policy(**sandbox: object) -> EffectiveStatus:
    return policy_of(session(spec={"sandbox": sandbox}), settings()).values


def test_the_plan_has_each_mount_with_the_values_of_its_secret() -> None:
    wanted = policy(volumes=[VOLUME], buckets=[BUCKET], archil=[DISK])
    assert set(references_of(wanted)) == set(VALUES)
    [[name, content]] = plan_of(session(), wanted, VALUES)["sections"]
    assert name == "mounts"
    assert [(each["step"], each["type"], each["path"]) for each in content["mounts"]] == [
        ("sandbox.volumes[0]", "Volume", "/mnt/shared"),
        ("sandbox.buckets[0]", "S3", "/mnt/data"),
        ("sandbox.archil[0]", "Archil", "/mnt/disk"),
    ]
    assert content["mounts"][1]["credentials"] == {"access-key-id": "ID", "secret-access-key": "s3cret"}
    assert content["mounts"][2]["credentials"] == {"mount-token": "token"}
    assert content["mounts"][1]["readOnly"] is True


def test_a_public_bucket_needs_no_secret() -> None:
    wanted = policy(buckets=[{"type": "GCS", "bucket": "files", "path": "/mnt/data"}])
    assert not references_of(wanted)
    [[_, content]] = plan_of(session(), wanted, {})["sections"]
    assert "credentials" not in content["mounts"][0]


def test_a_changed_bucket_is_prepared_again_and_nothing_without_mounts() -> None:
    assert preparation_key(policy()) is None
    assert preparation_key(policy(buckets=[BUCKET])) != preparation_key(
        policy(buckets=[{**BUCKET, "path": "/mnt/other"}])
    )


def test_only_what_a_program_serves_is_stored_before_a_kill() -> None:
    assert release_plan(policy(volumes=[VOLUME])) is None
    plan = release_plan(policy(volumes=[VOLUME], buckets=[BUCKET], archil=[DISK]))
    assert plan is not None
    [[name, content]] = plan["sections"]
    assert (name, content["paths"]) == ("release", ["/mnt/data", "/mnt/disk"])


def test_a_sandbox_is_created_with_its_volumes() -> None:
    resource = session(spec={"sandbox": {"volumes": [VOLUME]}})
    request = sandbox_request(
        resource, policy_of(resource, settings()), 1, "installation", "https://api.anthropic.com"
    )
    assert [(each.name, each.path, each.create) for each in request.volumes] == [
        ("shared", "/mnt/shared", True)
    ]


def test_a_sandbox_of_a_version_without_volumes_counts_as_created_without_any() -> None:
    resource = session(status={"sandbox": {"id": "i1", "state": "Paused"}})
    without = policy_of(resource, settings())
    known = {name: value for name, value in without.fingerprints().items() if name != "volumes"}
    assert policy_record.older_fields(resource, without, known) == []
    changed = policy_of(session(spec={"sandbox": {"volumes": [VOLUME]}}), settings())
    assert policy_record.older_fields(resource, changed, known) == ["volumes"]
