from __future__ import annotations

from collections import Counter

import pytest

from tests import other_readers
from tests.pki import test_lenient_csr


def test_csrs_that_openssl_accepts_are_read_alike_or_refused_by_field() -> None:
    """Over the corpus, the subject, names and key are those of OpenSSL, or each reason names a field."""
    accepted, refused = test_lenient_csr.ACCEPTED.values(), test_lenient_csr.REFUSED.values()
    tables = [*(row[0] for row in accepted), *(row[0] for row in refused)]
    outcomes = Counter(map(other_readers.compare, [*other_readers.corpus(), *tables]))
    assert outcomes["read leniently"] >= 20
    assert outcomes["read"] >= 5
    assert outcomes["refused"] >= 20


@pytest.mark.parametrize("seed", range(4))
def test_mutated_csrs_are_read_as_openssl_reads_them(seed: int) -> None:
    """The same holds for CSRs with changed octets."""
    outcomes = Counter(map(other_readers.compare, other_readers.mutations(60, seed)))
    assert outcomes["read leniently"] >= 10, outcomes
    assert outcomes["refused"] >= 1, outcomes
