"""The listening socket of a ranker, bound before anything is loaded: a taken port is said at once."""

from __future__ import annotations

import errno
import socket

from features.errors import SettingsError


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; SettingsError with a remedy when the port is taken or the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            hint = f"stop what listens there, or choose another: --port {port + 1}"
            raise SettingsError(f"port {port} is taken", field="port", value=port, hint=hint) from error
        raise SettingsError(
            f"cannot bind {host}:{port}: {error.strerror}", field="host", value=host
        ) from error
    listener.listen(1_024)
    return listener
