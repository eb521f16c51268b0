"""Coverage-guided fuzzing of `csr.parse`: `python -m tests.adversarial.coverage_guided SECONDS FOLDER`.

Atheris, which drives libFuzzer, sees which branches of service.pki an input takes, and keeps those that take
new ones. Half of its changes are the structured ones of `strategies`, signed again; the rest libFuzzer's own.
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


def one_input(data: bytes) -> None:
    """Load one input: it is refused for a reason that can be told, or read whole; neither takes a second."""
    began = time.process_time()
    try:
        request = csr.parse(data)
    except RequestError as refusal:
        for reason in refusal.subproblems:
            if not (reason.detail.isprintable() and reason.field):
                raise AssertionError(f"no reason: {reason.detail!r}") from refusal
    else:
        subject, key, _ = der.request_parts(request.der)
        if key.encode() != request.subject_public_key_info:
            raise AssertionError("another key than the request's")
        if len(subject.children or []) > len(request.subject):
            raise AssertionError("a part of the subject is lost")
    if time.process_time() - began > invariants.SECONDS:
        raise AssertionError("it took too long")


def change(data: bytes, max_size: int, seed: int) -> bytes:
    """One change of an input."""
    chance = Random(seed)  # noqa: S311 - libFuzzer's own seed
    if chance.random() < 0.5:
        return bytes(atheris.Mutate(data, max_size))
    try:
        info = (der.parse(data)[0].children or [])[0]
        kind = _own_key(chance, info)
    except (ValueError, IndexError):
        return bytes(atheris.Mutate(data, max_size))
    changed = request_strategies.changed(chance, info.encode())
    whole = request_strategies.assembled(
        changed, *request_strategies.sign(kind, chance.randrange(4), changed)
    )
    return whole if len(whole) <= max_size else data


def _own_key(chance: Random, info: der.Node) -> str:
    """The kind of the key in a CertificationRequestInfo, which is one that can sign: put there if it is none."""
    parts = info.children or []
    for kind in request_strategies.GOOD_KEYS:
        if parts[2].encode() == request_strategies.spki(kind):
            return kind
    kind = chance.choice(request_strategies.GOOD_KEYS)
    parts[2] = der.Octets(request_strategies.spki(kind))
    return kind


def main() -> None:
    """Fuzz for so many seconds, from the inputs in a folder; what is found is left in it."""
    seconds, folder = int(sys.argv[1]), Path(sys.argv[2])
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    # libFuzzer's own clock runs on while others have the processor: it is for what hangs; `one_input` has the law.
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-len_control=0", f"-artifact_prefix={folder}/", "-timeout=300", "-print_final_stats=1"]  # fmt: skip
    atheris.Setup([sys.argv[0], str(corpus), *options], one_input, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
