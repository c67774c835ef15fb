"""Messages over a local socket, between the process that Flower starts for a message and the node that answers it."""

from __future__ import annotations

import socket
import struct

_LENGTH = struct.Struct("<Q")
MAX_BYTES = 1 << 31


def send_frame(connection: socket.socket, content: bytes) -> None:
    """Send one message."""
    connection.sendall(_LENGTH.pack(len(content)) + content)


def receive_frame(connection: socket.socket) -> bytes:
    """Receive one message.

    Raises:
        ConnectionError: the other side is gone, or says that it sends more than `MAX_BYTES`.
    """
    [length] = _LENGTH.unpack(_receive(connection, _LENGTH.size))
    if length > MAX_BYTES:
        raise ConnectionError(f"a message of {length} bytes is announced, expected at most {MAX_BYTES}")
    return _receive(connection, length)


def _receive(connection: socket.socket, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        part = connection.recv(min(length - len(content), 1 << 20))
        if not part:
            raise ConnectionError("the other side closed the connection in the middle of a message")
        content += part
    return bytes(content)


def ask(path: str, content: bytes) -> tuple[bytes, bytes]:
    """Put a message to the node behind a socket.

    Args:
        path: of the socket.
        content: the message.

    Returns:
        Its telemetry as JSON, and its answer.

    Raises:
        OSError: no node listens there.
        ConnectionError: it went away meanwhile.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        send_frame(connection, content)
        return receive_frame(connection), receive_frame(connection)
