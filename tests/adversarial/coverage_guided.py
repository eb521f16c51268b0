"""Coverage-guided fuzzing of `csr.parse`: `python -m tests.adversarial.coverage_guided SECONDS FOLDER`.

Atheris drives libFuzzer. It records the branches of service.pki that an input takes, and saves inputs that take
new ones. Half of the mutations come from `request_strategies` and are signed again; the rest are libFuzzer's.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from random import Random
from typing import Final

import atheris

with atheris.instrument_imports(include=["service.pki"]):
    from service.pki import csr
    from service.pki.errors import RequestError
    from tests.adversarial import der, invariants, request_strategies

MAX_BYTES: Final = csr.MAX_TEXT_BYTES + 1024


def check_input(data: bytes) -> None:
    """Verify that an input is refused with a printable reason or parsed completely, within a second."""
    start = time.process_time()
    try:
        request = csr.parse(data)
    except RequestError as error:
        for reason in error.subproblems:
            if not (reason.detail.isprintable() and reason.field):
                raise AssertionError(f"no printable reason: {reason.detail!r}") from error
    else:
        subject, key, _ = der.request_parts(request.der)
        if der.key_parts(key) != der.key_parts(der.parse(request.subject_public_key_info)[0]):
            raise AssertionError("the key differs from the CSR's")
        if sum(len(rdn.children or []) for rdn in subject.children or []) != len(request.subject):
            raise AssertionError("the parsed subject is incomplete")
    if time.process_time() - start > invariants.MAX_CPU_SECONDS:
        raise AssertionError("parsing took too long")


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Mutate an input once."""
    rng = Random(seed)  # noqa: S311 - reproducible from libFuzzer's seed
    if rng.random() < 0.5:
        return bytes(atheris.Mutate(data, max_size))
    try:
        info = (der.parse(data)[0].children or [])[0]
        key_type = _signing_key_type(rng, info)
    except (ValueError, IndexError):
        return bytes(atheris.Mutate(data, max_size))
    mutated = request_strategies.mutate(rng, info.encode())
    csr_der = request_strategies.assemble_csr(
        mutated, *request_strategies.sign(key_type, rng.randrange(4), mutated)
    )
    return csr_der if len(csr_der) <= max_size else data


def _signing_key_type(rng: Random, info: der.Node) -> str:
    """Return the type of the key in a CertificationRequestInfo; insert a supported key if it has another."""
    parts = info.children or []
    for key_type in request_strategies.SUPPORTED_KEYS:
        if parts[2].encode() == request_strategies.spki(key_type):
            return key_type
    key_type = rng.choice(request_strategies.SUPPORTED_KEYS)
    parts[2] = der.RawBytes(request_strategies.spki(key_type))
    return key_type


def main() -> None:
    """Fuzz for a number of seconds, from the inputs in a folder; failing inputs are written to it."""
    seconds, folder = int(sys.argv[1]), Path(sys.argv[2])
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    # libFuzzer's timeout is wall-clock time, so it only catches hangs; `check_input` limits processor time.
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-len_control=0", f"-artifact_prefix={folder}/", "-timeout=300", "-print_final_stats=1"]  # fmt: skip
    atheris.Setup([sys.argv[0], str(corpus), *options], check_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
