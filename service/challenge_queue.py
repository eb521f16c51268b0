"""The queue of challenges, between workers and the process that validates them (`service.http_validator`).

It is a SOCK_SEQPACKET socket pair: all workers share one end, so each of them may receive the result of a
challenge that another one sent. The kernel limits the number of packets that wait. What does not fit is lost;
the client's next requests repeat the challenge.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Self

VARIABLE: Final = "CERTLET_CHALLENGE_QUEUE"  # the descriptor of the workers' end, for the workers
MAX_PACKET: Final = 4096  # octets
_MAX_RESULTS: Final = 100  # that a worker takes at once


class QueuedChallenge(NamedTuple):
    """A challenge.

    Attributes:
        account_id: the account.
        order_id: its order.
        position: of the authorization in the order, from 0.
        name: the DNS name or IP address.
        token: the token (RFC 8555 8.3).
        thumbprint: of the account's key (RFC 7638), SHA-256 in base64url.
    """

    account_id: str
    order_id: str
    position: int
    name: str
    token: str
    thumbprint: str

    @classmethod
    def parse(cls, packet: bytes) -> Self:
        """Parse a packet that `ChallengeQueue.put` sent."""
        return cls(*json.loads(packet))


class ChallengeResult(NamedTuple):
    """The result of a challenge.

    Attributes:
        account_id, order_id, position: as in `QueuedChallenge`.
        code: the type of the problem, without the namespace (RFC 8555 6.7); '' if the challenge is valid.
        detail: the text for the client.
    """

    account_id: str
    order_id: str
    position: int
    code: str = ""
    detail: str = ""

    @classmethod
    def parse(cls, packet: bytes) -> Self:
        """Parse a packet of the validator; raise `ValueError` or `RecursionError` if it is malformed."""
        members = json.loads(packet)
        types = [type(member) for member in members] if isinstance(members, list) else []
        if types != [str, str, int, str, str]:
            raise ValueError("the packet is not a result")
        return cls(*members)


class ChallengeQueue:
    """The workers' end."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def put(self, challenge: QueuedChallenge) -> None:
        """Have a challenge validated."""
        send(self._channel, challenge)

    def take_results(self) -> Iterator[ChallengeResult]:
        """Yield the results that have arrived."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_MAX_RESULTS):
                packet = self._channel.recv(MAX_PACKET, socket.MSG_DONTWAIT)
                with contextlib.suppress(ValueError, RecursionError):
                    yield ChallengeResult.parse(packet)


def send(channel: socket.socket, message: QueuedChallenge | ChallengeResult) -> None:
    """Send a packet, unless there is no room for it."""
    with contextlib.suppress(BlockingIOError):
        channel.send(json.dumps(message).encode("ascii"), socket.MSG_DONTWAIT)


def find_queue(environ: Mapping[str, str]) -> ChallengeQueue | None:
    """Return the queue whose end this process has inherited; None if there is no validator."""
    descriptor = environ.get(VARIABLE)
    return ChallengeQueue(socket.socket(fileno=int(descriptor))) if descriptor else None
