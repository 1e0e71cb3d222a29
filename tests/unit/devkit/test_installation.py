"""The installation ID of local systems."""

from pathlib import Path

from managed_session_devkit.system.installation import installation_id


def test_identity_is_the_same_at_every_start(tmp_path: Path) -> None:
    with installation_id(tmp_path) as first:
        pass
    with installation_id(tmp_path) as second:
        assert second == first


def test_concurrent_systems_have_different_identities_which_are_kept(tmp_path: Path) -> None:
    for _ in range(2):
        with installation_id(tmp_path) as first, installation_id(tmp_path) as second:
            identities = {first, second}
            assert len(identities) == 2
    with installation_id(tmp_path) as first:
        assert first in identities
