"""The gateway's end of the function, with processes of ours on real sockets, which answer when they are told to."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.gateway import processes
from service.gateway.processes import Function, Process
from service.gateway.routes import GatewayError

_LENGTHS = struct.Struct("!II")


class Double:
    """The other end of a process's socket, and what the gateway says there."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(5)
        self.heard_body = b""

    def say(self, word: object, body: bytes = b"") -> None:
        """One frame."""
        data = json.dumps(word).encode()
        self.theirs.sendall(_LENGTHS.pack(len(data), len(body)) + data + body)

    def hear(self) -> str:
        """The name of the next call."""
        return str(self.hear_all()["event"]["name"])

    def hear_all(self) -> Any:
        """The next frame, whose body is then `heard_body`."""
        length, beside = _LENGTHS.unpack(self.theirs.recv(_LENGTHS.size, socket.MSG_WAITALL))
        word = json.loads(self.theirs.recv(length, socket.MSG_WAITALL))
        self.heard_body = self.theirs.recv(beside, socket.MSG_WAITALL) if beside else b""
        return word


class Site:
    """A function with such processes."""

    def __init__(self, *, ready: bool = True) -> None:
        self.doubles: list[Double] = []
        self._ready = ready
        self.function = Function(self._hire)

    async def _hire(self, _instead_of: int | None) -> Process:
        double = Double()
        if self._ready:
            double.say({"ready": True})
        self.doubles.append(double)
        return Process(len(self.doubles), double.ours)

    def call(self, name: str, timeout: float = 5, body: str = "") -> asyncio.Task[Any]:
        """A call, under way."""

        async def outcome() -> Any:
            try:
                return await self.function.invoke({"name": name, "body": body}, timeout)
            except GatewayError as error:
                return error.kind

        return asyncio.create_task(outcome())


def run(story: Callable[[Site], Awaitable[None]], *, ready: bool = True) -> None:
    """One story, to its end."""

    async def told() -> None:
        site = Site(ready=ready)
        try:
            await asyncio.wait_for(story(site), 20)
        finally:
            await site.function.stop()
            await asyncio.sleep(0)
            for double in site.doubles:
                double.theirs.close()
            await asyncio.sleep(0.01)

    asyncio.run(told())


def test_what_was_answered_and_what_was_begun_is_never_done_again() -> None:
    """A process that ends is read to its end first: what it answered is an answer, what it began is lost, once."""

    async def story(site: Site) -> None:
        await site.function.start(1)
        calls = [site.call("answered"), site.call("begun")]
        await asyncio.sleep(0.02)
        (first,) = site.doubles
        assert first.hear() == "answered"
        first.say({"result": 1})
        assert first.hear() == "begun"
        first.theirs.close()
        calls.append(site.call("written to it"))  # before anything of that is read
        await asyncio.sleep(0.05)
        assert site.doubles[1].hear() == "written to it"
        site.doubles[1].say({"result": 3})
        assert [await call for call in calls] == [1, "DEFAULT_5XX", 3]

    run(story)


def test_one_that_ends_while_another_starts_is_replaced() -> None:
    """Each process is one of the function's as soon as it is ready."""

    async def story(site: Site) -> None:
        starting = asyncio.create_task(site.function.start(2))
        await asyncio.sleep(0.02)
        site.doubles[0].say({"ready": True})
        await asyncio.sleep(0.02)
        site.doubles[0].theirs.close()
        await asyncio.sleep(0.02)
        site.doubles[1].say({"ready": True})
        await starting
        assert len(site.doubles) == 3
        call = site.call("x")
        await asyncio.sleep(0.02)
        assert site.doubles[1].hear() == "x"
        site.doubles[1].say({"result": 1})
        assert await call == 1

    run(story, ready=False)


def test_nothing_waits_behind_a_batch() -> None:
    """A large call is the last that a process gets ahead; what comes after it waits for whoever is free."""

    async def story(site: Site) -> None:
        await site.function.start(1)
        calls = [
            site.call("brief"),
            site.call("batch", body="x" * processes.BRIEF_BODY * 2),
            site.call("other"),
        ]
        await asyncio.sleep(0.02)
        (double,) = site.doubles
        assert [double.hear(), double.hear()] == ["brief", "batch"]
        double.theirs.settimeout(0.05)
        with pytest.raises(TimeoutError):
            double.hear()
        for number in range(2):
            double.say({"result": number})
        await asyncio.sleep(0.02)
        assert double.hear() == "other"
        double.say({"result": 2})
        assert [await call for call in calls] == [0, 1, 2]

    run(story)


def test_what_one_has_ahead_another_gets_after_a_while() -> None:
    """Behind a call that turns out long, a call is taken back, and is the idle process's; it is done once."""

    async def story(site: Site) -> None:
        await site.function.start(2)
        calls = [site.call("long"), site.call("brief"), site.call("ahead of the first")]
        await asyncio.sleep(0.02)
        first, second = site.doubles
        assert [first.hear(), second.hear(), first.hear()] == ["long", "brief", "ahead of the first"]
        second.say({"result": 2})
        await asyncio.sleep(processes.TAKE_BACK + 0.1)
        assert second.hear() == "ahead of the first"
        second.say({"result": 3})
        assert await calls[2] == 3
        first.say({"result": 1})
        first.say({"late": True})  # as it does with what it may no longer begin
        assert [await calls[0], await calls[1]] == [1, 2]
        last = site.call("next")
        await asyncio.sleep(0.02)
        assert first.hear() == "next"
        first.say({"result": 4})
        assert await last == 4

    run(story)


@pytest.mark.parametrize(
    ("waited", "within"),
    [(0.0, processes.TAKE_BACK), (processes.WAIT_FOR_IDLE - 0.15, 0.15)],
    ids=["before it is another's", "before its caller is told"],
)
def test_a_process_is_told_by_when_to_begin_what_it_gets_ahead(waited: float, within: float) -> None:
    """That is before it is taken back, and before its caller is told that nobody began it."""

    async def story(site: Site) -> None:
        await site.function.start(1)
        calls = [site.call("long")]
        await asyncio.sleep(processes.BRIEF + 0.02)
        calls += [site.call("next"), site.call("ahead")]
        await asyncio.sleep(waited)
        (double,) = site.doubles
        double.say({"result": 0})
        await calls[0]
        told = [double.hear_all()["begin_by"] for _ in calls]
        assert told[:2] == [None, None]
        assert told[2] == pytest.approx(time.monotonic() + within - processes.ON_ITS_WAY, abs=0.1)
        double.say({"result": 1})
        double.say({"result": 2})
        assert [await call for call in calls] == [0, 1, 2]

    run(story)


def test_what_is_called_late_is_called_again() -> None:
    """A call that its process did not begin in time, but before it was taken back, is not refused for that."""

    async def story(site: Site) -> None:
        await site.function.start(1)
        calls = [site.call("first"), site.call("late")]
        await asyncio.sleep(0.02)
        (double,) = site.doubles
        assert [double.hear(), double.hear()] == ["first", "late"]
        double.say({"result": 1})
        double.say({"late": True})
        await asyncio.sleep(0.02)
        assert double.hear() == "late"
        double.say({"result": 2})
        assert [await call for call in calls] == [1, 2]

    run(story)


def test_calls_keep_their_order() -> None:
    """Whether they are called late or taken back, those who came first are served first: nobody starves."""

    async def story(site: Site) -> None:
        await site.function.start(1)
        calls = [site.call(str(number)) for number in range(4)]
        await asyncio.sleep(0.02)
        (double,) = site.doubles
        assert [double.hear() for _ in calls] == ["0", "1", "2", "3"]
        for word in ({"result": 0}, {"late": True}, {"late": True}, {"late": True}):
            double.say(word)
        await asyncio.sleep(0.05)
        assert [double.hear() for _ in range(3)] == ["1", "2", "3"]
        await asyncio.sleep(processes.BRIEF)
        calls.append(site.call("4"))
        await asyncio.sleep(processes.TAKE_BACK + processes.LOOK)
        for word in ({"result": 1}, {"late": True}, {"late": True}):
            double.say(word)
        await asyncio.sleep(0.05)
        assert [double.hear() for _ in range(3)] == ["2", "3", "4"]
        for number in range(2, 5):
            double.say({"result": number})
        assert [await call for call in calls] == list(range(5))

    run(story)


@pytest.mark.parametrize(("in_hand", "is_read"), [(processes.SOME, True), (processes.SOME + 1, False)])
def test_answers_are_read_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch, in_hand: int, *, is_read: bool
) -> None:
    """After an answer the next ones are left alone while the process has several calls in hand, not for long."""
    monkeypatch.setattr(processes, "LULL", 0.1)  # so that no slow machine takes longer to look

    async def story(site: Site) -> None:
        await site.function.start(1)
        calls = [site.call(str(number)) for number in range(in_hand)]
        await asyncio.sleep(0.1)  # each takes long, so that the lull is the longest
        (double,) = site.doubles
        double.say({"result": 0})
        assert await calls[0] == 0
        double.say({"result": 1})
        for _ in range(10):
            await asyncio.sleep(0)
        assert calls[1].done() is is_read
        began = time.monotonic()
        assert await calls[1] == 1
        assert time.monotonic() - began < 1
        for number in range(2, in_hand):
            double.say({"result": number})
        assert [await call for call in calls] == list(range(in_hand))

    run(story)


def test_a_call_that_takes_too_long_is_told_so_behind_others() -> None:
    """Its time begins when the one before it is answered, and ends it alone: those after it are another's."""

    async def story(site: Site) -> None:
        await site.function.start(1)
        calls = [site.call(str(number), timeout=0.6) for number in range(3)]
        await asyncio.sleep(0.15)
        (double,) = site.doubles
        double.say({"result": 0})
        assert await calls[0] == 0
        began = time.monotonic()
        assert await calls[1] == "INTEGRATION_TIMEOUT"
        assert 0.55 < time.monotonic() - began < 0.8
        await asyncio.sleep(0.05)
        assert site.doubles[1].hear() == "2"
        site.doubles[1].say({"result": 2})
        assert await calls[2] == 2

    run(story)


@pytest.mark.parametrize(
    "body", ["", "x", 'two\r\nlines and a "quote"', "\0\x1f", "ä😀", "half a pair: \ud83d"]
)
def test_a_body_crosses_beside_its_event_and_its_result(body: str) -> None:
    """Whatever text it is, it arrives unchanged; and it is not in the JSON, which would escape it."""

    async def story(site: Site) -> None:
        await site.function.start(1)
        call = site.call("x", body=body)
        await asyncio.sleep(0.02)
        double = site.doubles[0]
        event = double.hear_all()["event"]
        assert (event["body"] or "", double.heard_body) == ("", body.encode("utf-8", "surrogatepass"))
        double.say({"result": {"statusCode": 200, "body": None}}, double.heard_body)
        assert await asyncio.wait_for(call, 1) == {"statusCode": 200, "body": body or None}

    run(story)


def test_a_body_of_no_result_is_nobodys() -> None:
    """What a process sends beside something else does no harm: neither to that call nor to the next."""

    async def story(site: Site) -> None:
        await site.function.start(1)
        calls = [site.call(str(number)) for number in range(3)]
        await asyncio.sleep(0.02)
        site.doubles[0].say({"result": [1]}, b"x")
        site.doubles[0].say({"error": "x"}, b"x")
        site.doubles[0].say({"result": 2})
        assert await asyncio.gather(*calls) == [[1], "DEFAULT_5XX", 2]

    run(story)


@pytest.mark.parametrize(("number", "timeout"), [(8, 5), (3, 5), (1, 0.3)])
def test_what_was_answered_while_we_were_held_up_is_not_done_again(number: int, timeout: float) -> None:
    """Answers that wait to be read count before any call is taken back, or given up: none is done twice."""

    async def story(site: Site) -> None:
        await site.function.start(1)
        calls = [site.call(str(each), timeout) for each in range(number)]
        await asyncio.sleep(0.02)
        double = site.doubles[0]
        assert [double.hear() for _ in calls] == [str(each) for each in range(number)]
        double.say({"result": 0})
        await asyncio.sleep(0.002)  # with four or more in hand the rest is not read for a while
        for each in range(1, number):
            double.say({"result": each})
        time.sleep(0.6)  # noqa: ASYNC251 - the whole gateway stands still
        assert await asyncio.gather(*calls) == list(range(number))
        double.theirs.setblocking(False)  # noqa: FBT003 - the standard library's own
        with pytest.raises(BlockingIOError):
            double.theirs.recv(1)
        assert len(site.doubles) == 1

    run(story)


def test_nonsense_that_was_said_while_we_were_held_up() -> None:
    """It ends the process as at any other time: one call is lost with it, and the others are another's."""

    async def story(site: Site) -> None:
        await site.function.start(1)
        calls = [site.call(str(each)) for each in range(6)]
        await asyncio.sleep(0.02)
        site.doubles[0].say({"result": 0})
        await asyncio.sleep(0.002)
        site.doubles[0].say([])
        time.sleep(0.1)  # noqa: ASYNC251 - the whole gateway stands still
        await asyncio.sleep(0.1)
        for each in range(2, 6):
            assert site.doubles[1].hear() == str(each)
            site.doubles[1].say({"result": each})
        assert await asyncio.wait_for(asyncio.gather(*calls), 1) == [0, "DEFAULT_5XX", 2, 3, 4, 5]

    run(story)


@pytest.mark.parametrize("word", [5, None, [], "result", {}])
def test_nonsense_is_a_failure_of_the_process(word: object) -> None:
    """Whatever a process says that is no outcome is a 502, and the caller hears it at once."""

    async def story(site: Site) -> None:
        await site.function.start(1)
        call = site.call("x")
        await asyncio.sleep(0.02)
        site.doubles[0].say(word)
        assert await asyncio.wait_for(call, 1) == "DEFAULT_5XX"

    run(story)
