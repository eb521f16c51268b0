"""Compare Certlet with cfssl: alternating measurements of the same requests, with the same CA, on the same cores."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import bad_requests, baselines, contenders, endpoints, results
from bench.bad_requests import Difference
from bench.baselines import Baseline
from bench.contenders import KEY_TYPES, Server
from bench.load import Retries
from bench.results import CONNECTIONS, Comparison, Pair
from bench.settings import Settings

_WARM_UP: Final = 1  # seconds of load before the first round


def compare(directory: Path, settings: Settings) -> Comparison:
    """Measure everything, in rounds.

    Args:
        directory: for CAs, logs and policies.
        settings: how much to measure.

    Raises:
        BenchError: a server does not issue the expected certificates.
    """
    served: list[results.Served] = []
    costs: list[results.Cost] = []
    shares: list[results.Share] = []
    differences: list[Difference] = []
    retries = Retries()
    for key_type in KEY_TYPES:
        with ExitStack() as stack:
            ca = contenders.create_ca(directory, key_type)
            certlet = stack.enter_context(contenders.certlet(directory / f"certlet-{key_type}", ca))
            cfssl = stack.enter_context(contenders.cfssl(directory / f"cfssl-{key_type}", ca))
            differences = differences or bad_requests.differences(certlet, cfssl)
            for server, endpoint in ((certlet, endpoints.sign), (cfssl, endpoints.cfssl_sign)):
                contenders.measure(server, endpoint(endpoints.requests()), 1, _WARM_UP)
            pairs: dict[int, list[list[Pair]]] = {connections: [] for connections in settings.connections}
            baseline_rounds: list[list[Baseline]] = []
            for number in range(settings.rounds):
                for connections in settings.connections:
                    pairs[connections].append(_measure_pairs(certlet, cfssl, connections, settings, retries))
                baseline_rounds.append(baselines.measure(ca, key_type, settings.baseline_seconds))
                sys.stderr.write(f"{key_type} CA: round {number + 1} of {settings.rounds}\n")
            for connections in settings.connections:
                served += results.served(key_type, connections, pairs[connections])
            costs += results.costs(key_type, baseline_rounds)
            batches = [round_[-1] for round_ in pairs[CONNECTIONS]]
            shares.append(results.share(key_type, batches, baseline_rounds))
    return Comparison(
        served=tuple(served),
        costs=tuple(costs),
        shares=tuple(shares),
        differences=tuple(differences),
        repeated=retries.count,
    )


def _measure_pairs(
    certlet: Server, cfssl: Server, connections: int, settings: Settings, retries: Retries
) -> list[Pair]:
    """One round: each of Certlet's endpoints, followed by cfssl."""
    csrs = endpoints.requests()
    measured = (
        endpoints.sign(csrs),
        endpoints.sign_pem(csrs),
        endpoints.sign_batch(csrs[: settings.batch]),
    )
    reference = endpoints.cfssl_sign(csrs)
    return [
        Pair(
            endpoint,
            retries.run(contenders.measure, certlet, endpoint, connections, settings.seconds),
            retries.run(contenders.measure, cfssl, reference, connections, settings.seconds),
        )
        for endpoint in measured
    ]
