"""Section `trust`: adds certificate authorities to the system's store. `{"certificates": PEM}`.

It is run after each create and resume. It adds what is missing, and removes only what it has added itself:
E2B puts an authority of its own into the same store, without which no header of `secrets` could be added.
The commands' variables name `Paths.trust_bundle`, a link to whichever file is the store of this image.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from managed_session_worker.preparation.sandbox import Sandbox

_BUNDLES = ("etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt", "etc/ssl/cert.pem")
"""The store as one file: on Debian and Alpine, on Red Hat, on others."""
_ANCHORS = (
    ("usr/local/share/ca-certificates", "/usr/sbin/update-ca-certificates"),
    ("etc/pki/ca-trust/source/anchors", "/usr/bin/update-ca-trust"),
)
"""Where a distribution keeps added authorities, and the program that makes the store of them."""
_OURS = "managed-sessions-"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SECONDS = 60


def run(section: dict[str, Any], sandbox: Sandbox) -> None:
    """Make the store trust these authorities, and no others that an earlier policy had."""
    paths = sandbox.paths
    wanted = certificates(str(section.get("certificates") or ""))
    earlier = certificates(_text(Path(paths.added_authorities)))
    bundle = next((each for name in _BUNDLES if (each := Path(paths.root, name)).is_file()), None)
    before = certificates(_text(bundle)) if bundle is not None else []
    if set(wanted) != set(earlier):
        # Written first: what is removed later has to be known even if this is cut short.
        _write(Path(paths.added_authorities), [*earlier, *wanted])
        _update_anchors(wanted, sandbox)
    removed = set(earlier) - set(wanted)
    now = certificates(_text(bundle)) if bundle is not None else []
    store = _unique(each for each in [*now, *before, *wanted] if each not in removed)
    if bundle is None or not _replaced(bundle, now, store):
        bundle = Path(paths.own_trust_bundle)
        _write(bundle, store)
    _write(Path(paths.added_authorities), wanted)
    link = Path(paths.trust_bundle)
    if not link.is_symlink() or link.readlink() != bundle:
        new = link.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.symlink_to(bundle)
        new.replace(link)


def certificates(text: str) -> list[str]:
    """Return the certificates of a PEM file, each once."""
    return _unique(match.group() for match in _CERTIFICATE.finditer(text))


def _unique(found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(found))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _write(path: Path, found: list[str]) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text("".join(f"{each}\n" for each in _unique(found)))
    new.chmod(0o644)
    new.replace(path)


def _replaced(bundle: Path, now: list[str], store: list[str]) -> bool:
    """Bring the bundle up to date. Return False if it cannot be written."""
    if now == store:
        return True
    try:
        _write(bundle.resolve(), store)
    except OSError:
        return False
    return True


def _update_anchors(wanted: list[str], sandbox: Sandbox) -> None:
    """Let the distribution's own program know them, so that it keeps them when a package runs it."""
    for folder, program in _ANCHORS:
        anchors = Path(sandbox.paths.root, folder)
        if not anchors.is_dir() or not os.access(program, os.X_OK):
            continue
        with contextlib.suppress(OSError):
            for left in anchors.glob(f"{_OURS}*.crt"):
                left.unlink()
            for number, each in enumerate(wanted):
                _write(anchors / f"{_OURS}{number}.crt", [each])
        sandbox.run_as_root([program], seconds=_SECONDS)
