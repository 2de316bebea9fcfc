"""Certificates of a server: read at the start, and again when they are renewed."""

from __future__ import annotations

import logging
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvian.errors import VitruvianError

if TYPE_CHECKING:
    import grpc

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOOKS = 10.0


@dataclass(frozen=True)
class Files:
    """Where certificates lie, as PEM."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Whose certificates clients must have; none: they need none."""

    def changed(self) -> tuple[int, ...]:
        """Return what differs once a file is replaced."""
        files = (self.certificate, self.key, self.client_ca)
        return tuple(path.stat().st_mtime_ns for path in files if path is not None)


class Tls:
    """A server's TLS settings, version 1.2 at least; raises `VitruvianError` for files that don't fit."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load()
        if files.client_ca is not None:
            try:
                self.context.load_verify_locations(files.client_ca)
            except (OSError, ssl.SSLError) as e:
                hint = "give certificates as PEM with --tls-client-ca"
                raise VitruvianError(f"can't be used ({_why(e)})", where=files.client_ca, hint=hint) from e
            self.context.verify_mode = ssl.CERT_REQUIRED
        self._seen = files.changed()
        self._looked = time.monotonic()

    def _load(self) -> None:
        try:
            self.context.load_cert_chain(self._files.certificate, self._files.key)
        except (OSError, ssl.SSLError) as e:
            where = f"{self._files.certificate}, {self._files.key}"
            hint = "give a certificate and its own key as PEM with --tls-cert and --tls-key"
            raise VitruvianError(f"can't be used ({_why(e)})", where=where, hint=hint) from e

    def look(self) -> None:
        """Read the certificate again where it was replaced; new connections get it. To be called now and then."""
        now = time.monotonic()
        if now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        try:
            if (seen := self._files.changed()) != self._seen:
                self._load()
                self._seen = seen
                _log.info("the certificate was read again")
        except (OSError, VitruvianError) as e:
            # Half of a pair may be there already: the next look finds the other half.
            _log.warning("the certificate stays as it was: %s", e)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Return the same for gRPC; it asks for them at each handshake."""
        import grpc

        def pair() -> tuple[bytes, bytes]:
            return self._files.key.read_bytes(), self._files.certificate.read_bytes()

        authority = self._files.client_ca and self._files.client_ca.read_bytes()

        def configuration() -> Any:
            return grpc.ssl_server_certificate_configuration([pair()], root_certificates=authority)

        latest = [pair()]

        def renewed() -> Any:
            try:
                now = pair()
            except OSError:
                return None
            if now == latest[0]:
                return None
            latest[0] = now
            return configuration()

        return grpc.dynamic_ssl_server_credentials(
            configuration(), renewed, require_client_authentication=authority is not None
        )


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror
    return str(getattr(error, "reason", None) or error)
