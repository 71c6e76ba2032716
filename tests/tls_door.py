"""A port that speaks TLS for another: `python -m tests.tls_door PORT SERVER_PORT CERTIFICATE CA`.

Whoever comes has to show a certificate of the authority CA. Prints a line when it listens.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import sys
import threading


def pass_on(raw: socket.socket, context: ssl.SSLContext, server_port: int) -> None:
    with (
        contextlib.suppress(OSError),
        raw,
        context.wrap_socket(raw, server_side=True) as outer,
        socket.create_connection(("127.0.0.1", server_port)) as inner,
    ):
        while True:
            ready, _, _ = select.select([outer, inner], [], [])
            if outer in ready:
                more = True
                while more:
                    if not (data := outer.recv(65536)):
                        return
                    inner.sendall(data)
                    more = outer.pending() > 0
            if inner in ready:
                if not (data := inner.recv(65536)):
                    return
                outer.sendall(data)


def main(port: int, server_port: int, certificate: str, ca: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    context.load_cert_chain(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", port), backlog=128) as server:
        print("open", flush=True)
        while True:
            raw, _ = server.accept()
            arguments = (raw, context, server_port)
            threading.Thread(target=pass_on, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
