"""Measure what a second worker gains: large batches, sent to the worker pool and to the whole server."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from unittest import mock

from bench import client, contenders, endpoints
from bench.client import Call, Client
from bench.endpoints import Endpoint
from bench.load import BenchError, Refused, Retries
from bench.results import Spread, Target
from bench.settings import Settings
from service import supervisor
from service.cli.serve import HANDLER
from service.gateway import worker_pool
from service.gateway.configuration import Configuration
from service.gateway.routes import GatewayError
from service.gateway.worker_pool import WorkerPool
from service.settings import AUDIT_LOG, CA
from service.supervisor import ServeError
from tests import servers
from tests.lambda_events import proxy_event

COUNTS: Final = (1, 2)  # workers
KEY_TYPE: Final = "p-256"
MIN_RATIO: Final = 1.6  # of the rate of two workers to that of one, without HTTP
_TIMEOUT: Final = 29.0  # seconds for a call


@dataclass(frozen=True)
class Scaling:
    """The rates of one worker and of two.

    Attributes:
        name: through what the batches get to the workers.
        rates: certificates per second of one worker, and of two.
        ratio: that of two workers divided by that of one.
        target: the target of the ratio, if there is one.
    """

    name: str
    rates: tuple[Spread, Spread]
    ratio: Spread
    target: Target | None


def compute(name: str, rounds: list[tuple[float, float]], minimum: float | None = None) -> Scaling:
    """Return the figures of all rounds, from the rates of one worker and of two."""
    one, two = ([rates[index] for rates in rounds] for index in (0, 1))
    ratio = Spread.ratio(two, one)
    target = None if minimum is None else Target.minimum(minimum, ratio.median)
    return Scaling(name, (Spread.of(one), Spread.of(two)), ratio, target)


def compare(directory: Path, settings: Settings) -> list[Scaling]:
    """Measure, in rounds.

    Args:
        directory: for the CA and logs.
        settings: how much to measure.

    Raises:
        BenchError: a response is not the expected certificates, or a process does not start.
    """
    endpoint = endpoints.sign_batch(endpoints.requests() * (settings.large_batch // endpoints.BATCH))
    ca = contenders.create_ca(directory, KEY_TYPE)
    retries = Retries()
    pool_rates, http_rates = [], []
    with client.runner() as runner, ExitStack() as stack:
        pools, clients = [], []
        for workers in COUNTS:
            pools.append(stack.enter_context(run_pool(directory, ca, workers, endpoint, runner)))
            context = contenders.certlet(directory / str(workers), ca, workers=workers, is_pinned=False)
            server = stack.enter_context(context)
            contenders.verify(server, endpoint, 0)
            clients.append(Client(server.url, endpoint))
            stack.callback(lambda: runner.run(clients.pop().close()))

        def measure(calls: Sequence[Call], waiting: int) -> tuple[float, float]:
            """Certificates per second of one worker and of two, if so many batches wait for a worker."""
            one, two = (
                endpoint.batch / retries.run(_seconds, runner, call, workers, waiting, settings.large_batches)
                for call, workers in zip(calls, COUNTS, strict=True)
            )
            return one, two

        for number in range(settings.rounds):
            pool_rates.append(measure(pools, 1))
            http_rates.append(measure([item.post for item in clients], 0))
            sys.stderr.write(f"workers: round {number + 1} of {settings.rounds}\n")
    return [compute("the worker pool", pool_rates, MIN_RATIO), compute("HTTP", http_rates)]


def _seconds(runner: asyncio.Runner, call: Call, workers: int, waiting: int, batches: int) -> float:
    """Seconds per call, if each worker gets so many."""
    count = workers * batches
    return runner.run(client.repeat(call, workers + waiting, count)) / count


@contextlib.contextmanager
def run_pool(
    directory: Path, ca: Path, workers: int, endpoint: Endpoint, runner: asyncio.Runner
) -> Iterator[Call]:
    """Run workers without a gateway; verify a response, and yield a call that sends the endpoint's request.

    Raises:
        BenchError: a worker does not start, or the response is not the expected certificates.
    """
    log = directory / f"audit-{workers}.log"
    environ = servers.environ(**{CA: str(ca), AUDIT_LOG: str(log)})
    configuration = Configuration({}, {}, [], port=0, workers=workers, key_file="", env_keys={})
    generation = supervisor._Generation(HANDLER, supervisor.Setup(configuration, environ))  # noqa: SLF001 - as `certlet serve` starts them, but without a gateway
    event = proxy_event(endpoint.path, body=endpoint.bodies[0].decode(), isBase64Encoded=False)

    size = 0  # of the first response

    async def create() -> WorkerPool:
        return WorkerPool(generation.groups[0].gateway_end, workers)

    async def call() -> str:
        try:
            response = await pool.invoke(event, _TIMEOUT)
        except GatewayError as error:
            raise Refused(f"the worker pool: {error.kind}") from error
        body: str = response["body"]
        if response["statusCode"] != HTTPStatus.OK or not client.is_alike(len(body), size):
            raise BenchError(f"the worker pool: {response['statusCode']} {body[:500]}")
        return body

    with ExitStack() as stack:
        stack.callback(generation.stop)
        generation.start()
        try:
            generation.wait_until_ready()
        except ServeError as error:
            raise BenchError(f"the worker pool: {error}") from error
        pool = runner.run(create())
        stack.callback(pool.retire)
        # A batch that waits for longer than in the server is no failure here.
        stack.enter_context(mock.patch.object(worker_pool, "QUEUE_TIMEOUT", _TIMEOUT))
        body = runner.run(call())
        contenders.verify_body(body.encode(), endpoint, 0, ca)
        size = len(body)
        yield call
