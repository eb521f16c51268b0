"""The queue between workers and validator."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from service import challenge_queue
from service.challenge_queue import MAX_PACKET, ChallengeQueue, ChallengeResult, QueuedChallenge

CHALLENGE = QueuedChallenge("a" * 22, "b" * 22, 99, f"{'n' * 63}." * 3 + "example.com", "t" * 22, "a" * 43)
RESULT = ChallengeResult("a" * 22, "b" * 22, 99, "dns", "é\n" * 300)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, ChallengeQueue]]:
    """The validator's end, and the queue of the workers."""
    validator_end, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    validator_end.settimeout(0)
    with validator_end, worker_end:
        yield validator_end, ChallengeQueue(worker_end)


def test_challenges_and_results_are_received_as_sent(ends: tuple[socket.socket, ChallengeQueue]) -> None:
    validator_end, queue = ends
    queue.put(CHALLENGE)
    assert QueuedChallenge.parse(validator_end.recv(MAX_PACKET)) == CHALLENGE
    assert not list(queue.take_results())
    for result in (RESULT, RESULT._replace(code="", detail="")):
        challenge_queue.send(validator_end, result)
        assert list(queue.take_results()) == [result]


def test_neither_end_waits_for_the_other(ends: tuple[socket.socket, ChallengeQueue]) -> None:
    """The queue has room for the names of an order; what does not fit is lost."""
    result = RESULT._replace(detail="d" * 300)
    validator_end, queue = ends
    for _ in range(10_000):
        queue.put(CHALLENGE)
        challenge_queue.send(validator_end, result)
    assert len(list(queue.take_results())) == 100
    packets = []
    with contextlib.suppress(BlockingIOError):
        while True:
            packets.append(validator_end.recv(MAX_PACKET))
    assert 100 <= len(packets) < 10_000
    queue.put(CHALLENGE)
    assert QueuedChallenge.parse(validator_end.recv(MAX_PACKET)) == CHALLENGE


@pytest.mark.parametrize(
    "packet",
    [b"x", b"\xff", b"{}", b"[]", b"7", b"null", *(json.dumps(list(RESULT[:n])).encode() for n in range(5))]
    + [json.dumps([*RESULT[:2], position, "", ""]).encode() for position in ("0", True, None, 0.0)]
    + [json.dumps([*RESULT[:3], 7, ""]).encode(), json.dumps([*RESULT, ""]).encode(), b"[" * 4000],
)
def test_malformed_result_is_ignored(ends: tuple[socket.socket, ChallengeQueue], packet: bytes) -> None:
    """And those after it are not."""
    validator_end, queue = ends
    validator_end.send(packet)
    challenge_queue.send(validator_end, RESULT)
    assert list(queue.take_results()) == [RESULT]
