"""A real git server: `git http-backend` behind basic authentication, over HTTP or HTTPS."""

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

_NO_CONFIG = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "HOME": "/nonexistent"}


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, with no configuration of the host."""
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "safe.directory=*"]
    done = subprocess.run(  # noqa: S603 - what the caller names
        ["git", *identity, *arguments],  # noqa: S607 - the first one in PATH
        cwd=folder,
        env={"PATH": os.environ["PATH"], **_NO_CONFIG},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@dataclass
class GitServer:
    """Serves the bare repositories in a folder.

    Attributes:
        url: the server's URL.
        folder: the repositories.
        passwords: who may read: by repository, user and password. Other repositories are public.
        requests: (path, Authorization header) of each request.
        files: what is served besides, by path.
        redirects: by path prefix, the URL to which requests are sent on.
    """

    url: str
    folder: Path
    passwords: dict[str, tuple[str, str]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, files: dict[str, str], *, password: tuple[str, str] | None = None) -> str:
        """Make a repository with one commit on `main`, and return its URL."""
        work, bare = self.folder / f"{name}.work", self.folder / f"{name}.git"
        work.mkdir(parents=True)
        git(work, "init", "-q", "-b", "main")
        self.commit(name, files, push=False)
        git(self.folder, "clone", "-q", "--bare", str(work), str(bare))
        git(work, "remote", "add", "origin", str(bare))
        if password is not None:
            self.passwords[f"/{name}.git"] = password
        return f"{self.url}/{name}.git"

    def commit(self, name: str, files: dict[str, str], *, push: bool = True) -> str:
        """Commit files on `main`, and return the commit."""
        work = self.folder / f"{name}.work"
        for path, text in files.items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_text(text)
        git(work, "add", "-A")
        git(work, "commit", "-q", "-m", "a change")
        if push:
            git(work, "push", "-q", "origin", "main")
        return git(work, "rev-parse", "HEAD")

    def allows(self, path: str, header: str) -> bool:
        """Return whether a request may pass."""
        repository = next((name for name in self.passwords if path.startswith(f"{name}/")), None)
        if repository is None:
            return True
        user, password = self.passwords[repository]
        return header == "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class _Server(ThreadingHTTPServer):
    """An HTTP server that knows which repositories it serves."""

    daemon_threads = True
    served: GitServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _serve(self, body: bytes) -> None:
        assert isinstance(self.server, _Server)
        served, header = self.server.served, self.headers.get("Authorization", "")
        path = urlsplit(self.path).path
        served.requests.append((self.path, header))
        for prefix, target in served.redirects.items():
            if path.startswith(prefix):
                self._answer(302, {"Location": target + self.path.removeprefix(prefix)}, b"")
                return
        if path in served.files:
            self._answer(200, {}, served.files[path])
        elif not served.allows(path, header):
            self._answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
        else:
            self._run_git(served, body)

    def _run_git(self, served: GitServer, body: bytes) -> None:
        parts = urlsplit(self.path)
        environment = {
            "PATH": os.environ["PATH"],
            **_NO_CONFIG,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_PROJECT_ROOT": str(served.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_ADDR": self.client_address[0],
        }
        done = subprocess.run(
            ["git", "http-backend"],  # noqa: S607 - the first one in PATH
            input=body,
            capture_output=True,
            check=False,
            env=environment,
        ).stdout
        head, _, content = done.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self._answer(int(headers.pop("Status", "200").split()[0]), headers, content)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def git_server(folder: Path, context: ssl.SSLContext | None = None) -> Iterator[GitServer]:
    """Run a server; with a context it speaks TLS."""
    folder.mkdir(parents=True, exist_ok=True)
    server = _Server(("127.0.0.1", 0), _Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "https" if context is not None else "http"
    server.served = GitServer(f"{scheme}://127.0.0.1:{server.server_address[1]}", folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
