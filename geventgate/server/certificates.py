"""Who we are, and whom we believe: certificates from files to TLS contexts, one for each name, read again on demand."""

import logging
import os
import ssl
from collections.abc import Sequence
from typing import Any, NoReturn

from geventgate.config import Config
from geventgate.errors import ConfigError

VERIFY = {
    "none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED,
    "0": ssl.CERT_NONE, "1": ssl.CERT_OPTIONAL, "2": ssl.CERT_REQUIRED,
}  # fmt: skip
MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

log = logging.getLogger("geventgate")


class Session(ssl.SSLObject):
    """One connection's; ``server_name`` is the name its client asked for (SNI, RFC 6066 §3), or ""."""

    server_name = ""

    def _sslsock(self) -> "Session":
        """A patched SSLContext asks its own sockets this before it calls back, and takes us for one."""
        return self


class Certificates:
    """``context`` is for new connections. *protocols* are what ALPN may choose. Raises ConfigError."""

    def __init__(self, config: Config, protocols: Sequence[str]) -> None:
        self._config = config
        self._protocols = list(protocols)
        self._folder = os.getcwd()  # the application may leave it
        self._names = {host: (certfile, keyfile) for host, certfile, keyfile in map(_parse_sni, config.sni)}
        _check(config)
        self.context = self._read()

    def reload(self) -> None:
        """Read the files again, for new connections. When one is bad the old ones stay, and that is logged."""
        try:
            self.context = self._read()
        except ConfigError as error:
            log.error("the certificates stay as they were: %s", error)
        else:
            log.info("the certificates were read again")

    def _read(self) -> ssl.SSLContext:
        config = self._config
        context = self._context("--certfile", config.certfile, "--keyfile", config.keyfile)
        names = {
            host: self._context(f"--sni {host}:", certfile, f"--sni {host}:", keyfile)
            for host, (certfile, keyfile) in self._names.items()
        }

        def choose(session: Any, server_name: str | None, _: ssl.SSLContext) -> None:
            name = session.server_name = (server_name or "").lower()
            chosen = names.get(name) or names.get(f"*.{name.partition('.')[2]}")
            if chosen is not None:
                session.context = chosen

        context.sni_callback = choose
        return context

    def _context(self, cert_option: str, certfile: str, key_option: str, keyfile: str) -> ssl.SSLContext:
        config = self._config
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class = Session
        context.minimum_version = MINIMUM[config.tls_minimum]
        context.options |= ssl.OP_NO_RENEGOTIATION  # the client's: it costs us more than it
        context.set_alpn_protocols(self._protocols)
        if config.ciphers:
            try:
                context.set_ciphers(config.ciphers)
            except ssl.SSLError:
                raise ConfigError(f"--ciphers {config.ciphers}: OpenSSL knows none of them") from None
        certfile = self._readable(cert_option, certfile)
        keyfile = self._readable(key_option, keyfile) if keyfile else certfile
        self._load(context, certfile, keyfile)
        if config.ca_certs:
            authorities = self._readable("--ca-certs", config.ca_certs)
            try:
                context.load_verify_locations(authorities)
            except ssl.SSLError:
                raise ConfigError(f"--ca-certs {authorities}: there is no certificate in it (PEM)") from None
            context.verify_mode = VERIFY[config.cert_reqs]
        return context

    def _load(self, context: ssl.SSLContext, certfile: str, keyfile: str) -> None:
        """Load a certificate and its key, and name what is wrong with either: OpenSSL's words tell nobody."""
        asked = False

        def password() -> bytes:
            """Without this, OpenSSL would ask at the terminal."""
            nonlocal asked
            asked = True
            return self._password(keyfile)

        try:
            context.load_cert_chain(certfile, keyfile, password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                why = f"the key {keyfile} does not belong to the certificate {certfile}"
            elif asked:
                why = f"the key {keyfile}: --keyfile-password-file holds another key's password"
            elif not _holds(certfile, "CERTIFICATE"):
                why = f"{certfile}: there is no certificate in it (PEM)"
            elif not _holds(keyfile, "PRIVATE KEY"):
                why = f"{keyfile}: there is no private key in it (PEM){'; say --keyfile' * (keyfile == certfile)}"
            else:
                why = f"the certificate {certfile} or its key {keyfile}: {error.reason or error}"
            raise ConfigError(why) from None
        except ValueError as error:  # a password of more than 1024 bytes
            raise ConfigError(f"--keyfile-password-file: {error}") from None

    def _password(self, keyfile: str) -> bytes:
        file = self._config.keyfile_password_file
        if not file:
            raise ConfigError(f"the key {keyfile} is encrypted: say --keyfile-password-file")
        with open(self._readable("--keyfile-password-file", file), "rb") as lines:
            return lines.readline().rstrip(b"\r\n")

    def _readable(self, option: str, file: str) -> str:
        """The whole path of *file*, which can be read. Raises ConfigError."""
        path = os.path.join(self._folder, file)
        try:
            open(path, "rb").close()
        except OSError as error:
            raise ConfigError(f"{option} {file}: {error.strerror}") from None
        return path


def _check(config: Config) -> None:
    """Refuse options that would have no effect, which is never what was meant."""
    verifies = VERIFY[config.cert_reqs] != ssl.CERT_NONE
    if config.ca_certs and not verifies:
        raise ConfigError("--ca-certs checks nobody: say --cert-reqs optional or required too")
    if verifies and not config.ca_certs:
        raise ConfigError(f"--cert-reqs {config.cert_reqs} wants --ca-certs: whose certificates are believed")


def certificates(config: Config, protocols: Sequence[str]) -> Certificates | None:
    """What the options say, or None: plain HTTP. Raises ConfigError."""
    if config.certfile:
        return Certificates(config, protocols)
    without: dict[str, Any] = {
        "--keyfile": config.keyfile,
        "--keyfile-password-file": config.keyfile_password_file,
        "--ca-certs": config.ca_certs,
        "--cert-reqs": VERIFY[config.cert_reqs],
        "--ciphers": config.ciphers,
        "--sni": config.sni,
    }
    for option, value in without.items():
        if value:
            raise ConfigError(f"{option} without --certfile: that is where TLS begins")
    return None


def _parse_sni(entry: str) -> tuple[str, str, str]:
    """HOST=CERTFILE[:KEYFILE] -> host in lower case, certfile, keyfile or ""."""
    host, equals, files = entry.partition("=")
    certfile, _, keyfile = files.partition(":")
    stem = host.removeprefix("*.")
    if not equals or not certfile or not stem or "*" in stem or not stem.isascii():
        _refuse_sni(entry)
    return host.lower(), certfile, keyfile


def _refuse_sni(entry: str) -> NoReturn:
    raise ConfigError(f"--sni {entry}: not HOST=CERTFILE[:KEYFILE], where HOST is a name or *.NAME, in ASCII")


def _holds(path: str, what: str) -> bool:
    """Whether there is a PEM block of *what* in a file."""
    with open(path, "rb") as file:
        return f"{what}-----".encode() in file.read(1 << 20)
