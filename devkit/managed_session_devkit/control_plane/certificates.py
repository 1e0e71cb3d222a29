"""Makes new keys and certificates for each control plane."""

import datetime as dt
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = dt.timedelta(days=365)
_CLOCK_SKEW = dt.timedelta(minutes=5)
_SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


@dataclass(frozen=True)
class CertificateFiles:
    """PEM files. Only the owner can read the private keys."""

    ca: Path
    server_certificate: Path
    server_key: Path
    admin_certificate: Path
    admin_key: Path
    service_account_key: Path
    service_account_public_key: Path


@dataclass(frozen=True)
class ServerFiles:
    """PEM files of a server. Only the owner can read the private key."""

    ca: Path
    certificate: Path
    key: Path


def issue_certificates(folder: Path) -> CertificateFiles:
    """Write a new authority's certificate, the certificates that it signs, and a service account key pair.

    The authority's own key is never written. The admin certificate belongs to the group `system:masters`,
    which RBAC lets do everything
    (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#user-facing-roles).
    """
    ca_key, ca = _authority("managed-sessions local control plane")
    server_key, server = _server("kube-apiserver", _SERVER_NAMES, ca_key, ca)
    admin_key = ec.generate_private_key(ec.SECP256R1())
    admin = _leaf(_name("admin", "system:masters"), admin_key, ca, ExtendedKeyUsageOID.CLIENT_AUTH).sign(
        ca_key, hashes.SHA256()
    )
    service_account_key = ec.generate_private_key(ec.SECP256R1())
    return CertificateFiles(
        ca=_write(folder / "ca.crt", _pem(ca)),
        server_certificate=_write(folder / "server.crt", _pem(server)),
        server_key=_write(folder / "server.key", _private_pem(server_key)),
        admin_certificate=_write(folder / "admin.crt", _pem(admin)),
        admin_key=_write(folder / "admin.key", _private_pem(admin_key)),
        service_account_key=_write(folder / "service-account.key", _private_pem(service_account_key)),
        service_account_public_key=_write(
            folder / "service-account.pub",
            service_account_key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
        ),
    )


def issue_server(folder: Path, name: str) -> ServerFiles:
    """Write a new authority's certificate, and the certificate of a server that it signs.

    Args:
        folder: where to write them.
        name: the server's DNS name. The certificate is also valid for 127.0.0.1.
    """
    ca_key, ca = _authority(f"the authority of {name}")
    key, certificate = _server(name, [name], ca_key, ca)
    return ServerFiles(
        ca=_write(folder / "ca.pem", _pem(ca)),
        certificate=_write(folder / "server.pem", _pem(certificate)),
        key=_write(folder / "server.key", _private_pem(key)),
    )


def _authority(common_name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key, name = ec.generate_private_key(ec.SECP256R1()), _name(common_name)
    builder = (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return key, builder.sign(key, hashes.SHA256())


def _server(
    common_name: str, names: Iterable[str], ca_key: ec.EllipticCurvePrivateKey, ca: x509.Certificate
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    builder = _leaf(_name(common_name), key, ca, ExtendedKeyUsageOID.SERVER_AUTH).add_extension(
        x509.SubjectAlternativeName(alternatives), critical=False
    )
    return key, builder.sign(ca_key, hashes.SHA256())


def _name(common_name: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def _leaf(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, usage: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    authority = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(subject, ca.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        # Python 3.13 verifies strictly by default, which requires this extension.
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority), critical=False
        )
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    # kube-apiserver reads an EC service account key in the traditional encoding or in PKCS #8.
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return path
