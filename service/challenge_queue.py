"""The queue of challenges, from the workers to the process that validates them (`service.http_validator`).

It is a SOCK_SEQPACKET socket pair: all workers share one end. A packet identifies an authorization in the
ledger. The kernel limits the number of packets that wait.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple, Self

VARIABLE: Final = "CERTLET_CHALLENGE_QUEUE"  # the descriptor of the workers' end, for the workers
MAX_PACKET: Final = 64  # octets


class QueuedChallenge(NamedTuple):
    """The challenge of an authorization.

    Attributes:
        account_id: the account.
        order_id: its order.
        position: the position of the authorization in the order.
    """

    account_id: str
    order_id: str
    position: int

    def encode(self) -> bytes:
        """Encode as a packet."""
        return f"{self.account_id} {self.order_id} {self.position}".encode("ascii")

    @classmethod
    def parse(cls, packet: bytes) -> Self:
        """Parse a packet that `encode` returned."""
        account_id, order_id, position = packet.decode("ascii").split(" ")
        return cls(account_id, order_id, int(position))


class ChallengeQueue:
    """The workers' end."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def put(self, account_id: str, order_id: str, position: int) -> None:
        """Add a challenge, unless the queue is full; another request of the client adds it again later."""
        packet = QueuedChallenge(account_id, order_id, position).encode()
        with contextlib.suppress(BlockingIOError):
            self._channel.send(packet, socket.MSG_DONTWAIT)


def find_queue(environ: Mapping[str, str]) -> ChallengeQueue | None:
    """Return the queue whose end this process has inherited; None if there is no validator."""
    descriptor = environ.get(VARIABLE)
    return ChallengeQueue(socket.socket(fileno=int(descriptor))) if descriptor else None
