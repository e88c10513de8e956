"""Certificates made on the spot, by the openssl program."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lacking import lacking


@dataclass(frozen=True)
class Authority:
    """A certificate authority of a test's own, in a folder."""

    folder: Path
    name: str

    @property
    def certificate(self) -> Path:
        """What who trusts it needs."""
        return self.folder / f"{self.name}.crt"

    def issue(self, name: str, *, names: str = "", passphrase: str = "") -> tuple[Path, Path]:
        """A certificate for `name` and its key; `names` is what the certificate says that it is for."""
        certificate, key, request = (self.folder / f"{name}.{kind}" for kind in ("crt", "key", "csr"))
        protection = ("-passout", f"pass:{passphrase}") if passphrase else ("-nodes",)
        _openssl("req", "-newkey", "rsa:2048", "-keyout", key, "-out", request, "-subj", f"/CN={name}", *protection)
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n" if names else "basicConstraints=CA:FALSE\n")
        signer = ("-CA", self.certificate, "-CAkey", self.folder / f"{self.name}.key", "-CAcreateserial")
        _openssl("x509", "-req", "-in", request, "-out", certificate, "-days", "2", *signer, "-extfile", extensions)
        key.chmod(0o600)
        return certificate, key


def make_authority(folder: Path, name: str) -> Authority:
    """A new certificate authority."""
    if shutil.which("openssl") is None:
        lacking("TLS (the program openssl, which makes the certificates, is not on PATH)")
    authority = Authority(folder, name)
    files = ("-keyout", folder / f"{name}.key", "-out", authority.certificate)
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, "-subj", f"/CN={name}", "-days", "2")
    return authority


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(("openssl", *arguments), check=True, capture_output=True)
