"""Revocation lists and CA files that could stop the CA: malformed, excessive, or changed while it runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest
from cryptography import x509

from service import keystore
from service.gateway.response_cache import MAX_AGE
from service.keystore import ca_directory, revocation_file
from service.pki import encoding, hierarchy, keys, revocation
from service.pki.errors import CAError, CAUnavailable
from service.pki.revocation import RevokedCertificate
from service.settings import Settings
from tests import csrs, factories
from tests.cli import certlet
from tests.factories import NOW
from tests.servers import certlet_server

ENTRY = '- {{"serial": "{}", "at": "{}", "reason": "keyCompromise"}}\n'.format
REVOKED_AT = "2026-01-01T00:00:00Z"
MAX_SERIAL_NUMBER = 2**159 - 1


def long_list(start: int = 0, count: int = revocation.MAX_ENTRIES) -> str:
    """A revocation list with the longest serial numbers."""
    return revocation_file.HEADER.decode() + "".join(
        ENTRY(f"{MAX_SERIAL_NUMBER - number:x}", REVOKED_AT) for number in range(start, start + count)
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (ENTRY(f"{MAX_SERIAL_NUMBER:x}", REVOKED_AT), ""),
        (ENTRY(f"{MAX_SERIAL_NUMBER + 1:x}", REVOKED_AT), "line 2: '8000000000000000000000000000000000000000' is not a serial"),
        (ENTRY("0a", "1950-01-01T00:00:00Z"), ""),
        (ENTRY("0a", "1949-12-31T23:59:59Z"), "line 2: The revocation date must be on or after 1950"),
        (ENTRY("0a", "0001-01-01T00:00:00Z"), "line 2: The revocation date must be on or after 1950"),
        (ENTRY("0a", "2026-02-30T00:00:00Z"), "line 2: at "),
        ("- {serial: '0a', at: 2026-02-30T00:00:00Z}", "line 2: not a YAML list: day is out of range"),
        ("- {serial: !!bool x, at: 2026-02-28}", "line 2: not a YAML list: 'x'"),
        ("[" * 10_000, "line 1: not a YAML list: maximum recursion"),
        ("# \u2028- {serial: '0a', at: 2026-02-28T00:00:00Z}", ""),  # U+2028 ends a line of YAML
        (ENTRY("0a", REVOKED_AT) + "\n# \x0b\n  - {}", "line 1: not a YAML list: unacceptable character"),
        (ENTRY("0a", REVOKED_AT) + ENTRY("00A", REVOKED_AT), "line 3: duplicate serial 0a"),
        (ENTRY("0a", REVOKED_AT) + ENTRY("0a", REVOKED_AT), "line 3: duplicate serial 0a"),
        (ENTRY("0a", REVOKED_AT) + f"- serial: '0b'\n  at: {REVOKED_AT}\n", ""),
        (ENTRY("0a", REVOKED_AT) + f"- serial: '0b'\n  at: {REVOKED_AT}\n- []\n", "line 5: expected a mapping"),
        (long_list() + f"- serial: '0b'\n  at: {REVOKED_AT}\n", "line 80002 is not in the format of `certlet revoke`, required for a long list"),
        (long_list(), ""),
        (long_list(count=revocation.MAX_ENTRIES + 1), "80001 entries; at most 80000 are accepted"),
    ],
    ids=range(18),
)  # fmt: skip
def test_revocation_list_is_parsed_or_refused_quickly(tmp_path: Path, text: str, fault: str) -> None:
    """Parsing takes less than a request may; an error names the line; a CRL can contain every accepted entry."""
    (tmp_path / revocation_file.REVOKED).write_text(text if text.startswith("#") else f"# {'x' * 20}\n{text}")
    start = time.process_time()
    try:
        revoked = revocation_file.load_revoked(tmp_path)
    except CAError as error:
        assert fault, error
        assert f"{tmp_path / revocation_file.REVOKED}: {fault}" in error.detail
        with pytest.raises(CAError):
            revocation_file.load_revoked(tmp_path)
    else:
        assert not fault
        assert revoked
        issuer = factories.create_issuer()
        authority = factories.authority(
            issuer=issuer, now=NOW, load_revoked=lambda: revocation_file.load_revoked(tmp_path)
        )
        assert len(list(authority.status.current_crl())) == len(revoked)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("revoked", "status"),
    [
        (RevokedCertificate(MAX_SERIAL_NUMBER, NOW - timedelta(hours=1)), 200),
        (RevokedCertificate(MAX_SERIAL_NUMBER + 1, NOW - timedelta(hours=1)), 503),
        (RevokedCertificate(7, datetime(1949, 12, 31, tzinfo=UTC)), 503),
        (RevokedCertificate(7, factories.create_issuer().not_after), 200),
        (RevokedCertificate(7, factories.create_issuer().not_after + timedelta(seconds=1)), 503),
    ],
)
def test_crl_is_unavailable_with_an_entry_that_it_cannot_contain(
    revoked: RevokedCertificate, status: int
) -> None:
    """RFC 5280, sections 4.1.2.2 and 5.1.2.6; a date after the CA's end, such as a mistyped year, is refused too."""
    authority = factories.authority(load_revoked=lambda: {revoked.serial_number: revoked})
    if status == 200:
        assert authority.status.current_crl().issuer
    else:
        with pytest.raises(CAUnavailable, match="the CRL cannot be created"):
            authority.status.current_crl()


def test_crl_keeps_entries_when_the_clock_goes_back() -> None:
    """CRL number and entries stay until the clock has caught up; outside the CA's validity there is no CRL."""
    revoked = RevokedCertificate(7, NOW - timedelta(minutes=10))
    issuer = factories.create_issuer()
    steps = (0, -60, -1, issuer.not_before - NOW, -1440, 5)
    moments: Iterator[datetime] = iter(
        NOW + (step if isinstance(step, timedelta) else timedelta(minutes=step)) for step in steps
    )
    authority = factories.authority(
        issuer=issuer, clock=lambda: next(moments), load_revoked=lambda: {7: revoked}
    )
    crls = [authority.status.current_crl() for _ in steps]
    numbers = [crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for crl in crls]
    assert numbers == [*[numbers[0]] * 5, numbers[0] + 1]
    assert all(crl.get_revoked_certificate_by_serial_number(7) for crl in crls)
    early_authority = factories.authority(issuer=issuer, now=issuer.not_before - timedelta(seconds=1))
    with pytest.raises(CAUnavailable, match="not valid now"):
        early_authority.status.current_crl()


@pytest.mark.parametrize("days", [0, 20_000])
def test_revoke_fails_after_the_ca_has_expired(tmp_path: Path, days: int) -> None:
    """No CRL can contain an entry of that time, so no CRL could be issued until the entry is removed."""
    moment = datetime.now(UTC) - timedelta(days=days)
    ca_directory.save_hierarchy(tmp_path, hierarchy.create_hierarchy("Test", "0a1b2c", "p-256", moment), None)
    (tmp_path / ca_directory.SERIAL_KEY).unlink()
    run = certlet("revoke", "0a", "--yes", "--ca", ".", cwd=tmp_path)
    assert (run.returncode, b"the CA has expired" in run.stderr) == (int(days > 0), days > 0)
    assert list(revocation_file.load_revoked(tmp_path)) == ([] if days else [0xA])


def test_all_workers_use_the_current_files(tmp_path: Path) -> None:
    """Each worker loads a new deny list, entry or CA at once, and ignores files that are not a valid CA."""
    for arguments in (("init", "ca"), ("rollover", "ca", "next"), ("init", "other")):
        assert certlet(*arguments, cwd=tmp_path).returncode == 0
    ca, request = tmp_path / "ca", csrs.build()
    issuers = [ca_directory.load_issuer(directory, None) for directory in (ca, tmp_path / "next")]
    old, new = (encoding.encode_pem(issuer.intermediates) for issuer in issuers)
    with (
        certlet_server(tmp_path, "--workers", "3", "--no-usage-plan") as server,
        ThreadPoolExecutor(8) as pool,
    ):

        def observe() -> tuple[set[str], int]:
            """Return the chains (or statuses) of many calls to all workers, and the length of the CRL."""
            responses = pool.map(lambda _: server.sign({"csr": csrs.encode_pem(request).decode()}), range(24))
            chains = {response.json().get("chain_pem", str(response.status)) for response in responses}
            time.sleep(MAX_AGE)
            crl = server.request("GET", "/ca.crl", headers={"Accept": "*/*"})
            return chains, len(x509.load_der_x509_crl(crl.body))

        assert observe() == ({old}, 0)
        with (ca / revocation_file.REVOKED).open("a") as file:
            file.write(ENTRY("0a", REVOKED_AT))
        assert observe() == ({old}, 1)
        shutil.copy(tmp_path / "other" / "signing-ca.key", ca / "signing-ca.key")
        (ca / revocation_file.DENY_LIST).write_text("garbage\n")
        assert observe() == ({old}, 1)
        assert server.read_log().count("the CA's files changed and cannot be loaded") <= 6
        (ca / revocation_file.DENY_LIST).unlink()
        (ca / revocation_file.REVOKED).rename(tmp_path / "next" / revocation_file.REVOKED)
        shutil.copytree(tmp_path / "next", ca, dirs_exist_ok=True)
        assert observe() == ({new}, 1)
        key = keys.encode_public_key(request.public_key())
        (ca / revocation_file.DENY_LIST).write_text(hashlib.sha256(key).hexdigest())
        assert observe() == ({"422"}, 1)


@pytest.mark.parametrize(
    "name", [None, revocation_file.DENY_LIST, ca_directory.PREVIOUS_CERTIFICATES, ca_directory.SERIAL_KEY]
)
def test_dangling_link_is_not_a_missing_file(tmp_path: Path, name: str | None) -> None:
    """A CA with a dangling link does not start: a deny list on an unmounted volume would deny no key."""
    ca_directory.save_hierarchy(tmp_path, factories.hierarchy(), None)
    (tmp_path / ca_directory.SERIAL_KEY).unlink()
    expected: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if name:
        (tmp_path / name).symlink_to("nothing")
        expected = pytest.raises(CAError, match=f"{name}: No such file")
    with expected:
        keystore.load_ca(Settings(tmp_path))


def test_invalid_ca_files_are_loaded_at_most_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request loads the CA, so after a failure it stays the same for a second or until a file changes."""
    ca_directory.save_hierarchy(tmp_path, factories.hierarchy(), None)
    load = mock.Mock(wraps=keystore.load_ca)
    monkeypatch.setattr(keystore, "load_ca", load)
    current = keystore.CurrentCA(Settings(tmp_path))
    before = current.load()
    for number, (text, seconds) in enumerate([("garbage", 0), ("garbage!", 0), ("", 1.1)], 2):
        if text:
            (tmp_path / revocation_file.DENY_LIST).write_text(text)
        time.sleep(seconds)
        assert all(current.load() is before for _ in range(9))
        assert load.call_count == number
    (tmp_path / revocation_file.DENY_LIST).write_text("# nothing")
    assert current.load() is current.load() is not before


def test_unrecorded_revocation_is_refused(tmp_path: Path) -> None:
    """The audit record, in the log or on stderr, names the system's user; without the log, nothing is revoked."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "ca" / ca_directory.SERIAL_KEY).unlink()
    path, log = tmp_path / "ca" / revocation_file.REVOKED, tmp_path / "audit.log"
    before = path.read_bytes()
    run = certlet("revoke", "0a", "--yes", "--audit-log", "audit.log", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (1, b"certlet: audit.log: No such file or directory\n")
    run = certlet("revoke", "0a", "--yes", cwd=tmp_path, env={"CERTLET_AUDIT_LOG": "/dev/full"})
    assert (run.returncode, run.stderr) == (1, b"certlet: No space left on device\n")
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("ca/.*"))
    log.touch()
    env = {"CERTLET_AUDIT_LOG": "audit.log", "USER": "mallory", "LOGNAME": "mallory"}
    assert (
        certlet("revoke", "0a", "--yes", "--reason", "keyCompromise", cwd=tmp_path, env=env).returncode == 0
    )
    certlet("revoke", "0a", "--yes", cwd=tmp_path, env=env)  # already revoked, so without a record
    run = certlet("revoke", "0b", "--yes", cwd=tmp_path)
    principal = f"user:{pwd.getpwuid(os.getuid()).pw_name}:{os.getuid()}"
    for line, serial, reasons in (
        (log.read_bytes(), "0a", {"reasons": ["keyCompromise"]}),
        (run.stderr, "0b", {}),
    ):
        record = json.loads(line)
        assert datetime.fromisoformat(record.pop("time")).tzinfo
        assert record == {"event": "revocation", "principal": principal, "serial_number": serial, **reasons}
    assert sorted(revocation_file.load_revoked(tmp_path / "ca")) == [0xA, 0xB]


def test_longest_revocation_list_is_served(tmp_path: Path) -> None:
    """All workers issue the CRL and certificates in time, at start and after the list was replaced."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    path = tmp_path / "ca" / revocation_file.REVOKED
    body = {"csr": csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])).decode()}
    path.write_text(long_list())
    with certlet_server(tmp_path, "--workers", "2", "--no-usage-plan") as server:
        for start in (0, revocation.MAX_ENTRIES):
            if start:
                path.write_text(long_list(start))
            for _ in range(2):
                time.sleep(MAX_AGE)
                response = server.request("GET", "/ca.crl", headers={"Accept": "*/*"})
                assert response.status == 200, response.body
                assert len(response.body) * 4 / 3 < 6 * 2**20 - 100_000, (
                    "the response is larger than AWS Lambda permits"
                )
                crl = x509.load_der_x509_crl(response.body)
                assert len(crl) == revocation.MAX_ENTRIES
                assert crl.get_revoked_certificate_by_serial_number(MAX_SERIAL_NUMBER - start)
                assert server.sign(body).status == 200
