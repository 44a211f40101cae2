"""Whether this machine can listen at an address, found out before anything is started."""

import socket

from orchestrator.serving.errors import ServingError


def check_port(host: str, port: int) -> None:
    """Find out whether this machine can listen there.

    Raises:
        ServingError: If it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As a server does: a port whose last connections are just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServingError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --port or --host"
            ) from error
