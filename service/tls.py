"""HTTPS by the server itself: the certificate and its key, checked before the port is opened. It speaks no TLS."""

from __future__ import annotations

import ssl
from typing import Any

from features.errors import SettingsError
from service.settings import Settings


def tls_options(settings: Settings) -> dict[str, Any]:
    """What uvicorn is given; {} without TLS. Raises SettingsError where one of the two is missing or does not fit."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None and key is None:
        return {}
    if cert is None or key is None:
        missing = "tls_cert" if cert is None else "tls_key"
        raise SettingsError(f"{missing} is not set", field=missing, hint="TLS needs both: tls_cert and tls_key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        hint = "PEM files; the key without a password, and the one that the certificate was made for"
        raise SettingsError(f"TLS cannot start: {error}", field="tls_cert", value=cert, hint=hint) from error
    return {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}


def _no_password() -> str:
    raise ValueError("the key has a password")
