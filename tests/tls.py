"""Certificates of a throw-away authority, made by openssl."""

import subprocess
from pathlib import Path

NAMES = "subjectAltName=DNS:localhost\n"


class Authority:
    """Signs for servers, whose only name is `localhost`, and for clients.

    Args:
        folder: made here, and full of files named `<who>.pem` and `<who>.key`; the authority's own is `ca.pem`.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        (folder / "names").write_text(NAMES)
        self._run("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-authority -keyout ca.key -out ca.pem")

    def sign(self, who: str, *, days: int = 2) -> None:
        """A certificate; one of no days has expired."""
        self._run(f"req -newkey rsa:2048 -nodes -subj /CN={who} -keyout {who}.key -out {who}.csr")
        signing = f"x509 -req -in {who}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names"
        self._run(f"{signing} -days {days} -out {who}.pem")

    def listener(self, port: int) -> tuple[str, ...]:
        """Lines of rabbitmq.conf for a listener with the server's certificate."""
        return (
            f"listeners.ssl.1 = 127.0.0.1:{port}",
            f"ssl_options.cacertfile = {self.file('ca.pem')}",
            f"ssl_options.certfile = {self.file('server.pem')}",
            f"ssl_options.keyfile = {self.file('server.key')}",
        )

    def file(self, name: str) -> str:
        """Its path."""
        return str(self.folder / name)

    def _run(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self.folder, check=True, capture_output=True)
