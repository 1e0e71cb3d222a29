"""What the demo's third session reaches outside its sandbox: a git server, and an API that wants a token."""

import secrets
import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from managed_session_devkit.control_plane.certificates import issue_server
from managed_session_devkit.demo.demo_log import CheckFailedError
from managed_session_devkit.system.git_server import git_server

GIT_HOST = "git.example.com"
API_HOST = "prices.example.com"
PRICE = "3.20"
README = "A shop that sells tea."
_PROGRAMS = ("git", "curl")
"""Programs that sandboxes have from this machine, where E2B's have them from the template."""


@dataclass
class OutsideServices:
    """The services that run.

    Attributes:
        authority: certificate of the authority that signed the git server's, PEM.
        hosts: which name leads to which address, with ports.
        token: what the API wants.
        token_file: a file with the token.
        tokens_seen: the Authorization header of each request to the API.
    """

    authority: Path
    hosts: dict[str, str]
    token: str = field(repr=False)
    token_file: Path
    tokens_seen: list[str]


@contextmanager
def outside_services(folder: Path) -> Iterator[OutsideServices]:
    """Run both while the block lasts, with their files in `folder`.

    Raises:
        CheckFailedError: this machine lacks a program.
    """
    if lacks := [name for name in _PROGRAMS if not shutil.which(name, path="/usr/bin:/bin")]:
        raise CheckFailedError(f"this part of the demo needs {' and '.join(lacks)} in /usr/bin; install it")
    folder.mkdir(mode=0o700)
    issued = issue_server(folder, GIT_HOST)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    with git_server(folder / "git", context) as git, _Api() as api:
        git.add("shop", {"README.md": f"{README}\n"})
        addresses = {f"{GIT_HOST}:443": urlsplit(git.url).netloc, f"{API_HOST}:80": api.address}
        token_file = folder / "token"
        token_file.write_text(api.token)
        yield OutsideServices(issued.ca, addresses, api.token, token_file, api.seen)


class _Api(ThreadingHTTPServer):
    """Answers a request that has the token with a price, and any other one with 401."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.token = secrets.token_hex(16)
        self.seen: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def server_close(self) -> None:
        """Stop serving."""
        self.shutdown()
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    server: _Api

    def do_GET(self) -> None:
        """Answer."""
        given = self.headers.get("Authorization", "")
        self.server.seen.append(given)
        known = given == f"Bearer {self.server.token}"
        content = f"{PRICE}\n".encode() if known else b"a token is needed\n"
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""
