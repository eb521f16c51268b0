"""Revocation lists that an attacker, or an operator's slip, would use against the CA."""

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
from tests.factories import NOW
from tests.servers import certlet, certlet_server

LINE = '- {{"serial": "{}", "at": "{}", "reason": "keyCompromise"}}\n'.format
AT = "2026-01-01T00:00:00Z"
MOST = 2**159 - 1


def long(start: int = 0, number: int = revocation.MAX_ENTRIES) -> str:
    """A list of the longest serial numbers."""
    return revocation_file.HEADER.decode() + "".join(
        LINE(f"{MOST - each:x}", AT) for each in range(start, start + number)
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (LINE(f"{MOST:x}", AT), ""),
        (LINE(f"{MOST + 1:x}", AT), "line 2: '8000000000000000000000000000000000000000' is not a serial"),
        (LINE("0a", "1950-01-01T00:00:00Z"), ""),
        (LINE("0a", "1949-12-31T23:59:59Z"), "line 2: The revocation date must be on or after 1950"),
        (LINE("0a", "0001-01-01T00:00:00Z"), "line 2: The revocation date must be on or after 1950"),
        (LINE("0a", "2026-02-30T00:00:00Z"), "line 2: at "),
        ("- {serial: '0a', at: 2026-02-30T00:00:00Z}", "line 2: not a YAML list: day is out of range"),
        ("- {serial: !!bool x, at: 2026-02-28}", "line 2: not a YAML list: 'x'"),
        ("[" * 10_000, "line 1: not a YAML list: maximum recursion"),
        ("# \u2028- {serial: '0a', at: 2026-02-28T00:00:00Z}", ""),  # which ends a line of YAML
        (LINE("0a", AT) + "\n# \x0b\n  - {}", "line 1: not a YAML list: unacceptable character"),
        (LINE("0a", AT) + LINE("00A", AT), "line 3: duplicate serial 0a"),
        (LINE("0a", AT) + LINE("0a", AT), "line 3: duplicate serial 0a"),
        (LINE("0a", AT) + f"- serial: '0b'\n  at: {AT}\n", ""),
        (LINE("0a", AT) + f"- serial: '0b'\n  at: {AT}\n- []\n", "line 5: expected a mapping"),
        (long() + f"- serial: '0b'\n  at: {AT}\n", "line 80002 is not in the format of `certlet revoke`, required for a long list"),
        (long(), ""),
        (long(number=revocation.MAX_ENTRIES + 1), "80001 entries; at most 80000 are accepted"),
    ],
    ids=range(18),
)  # fmt: skip
def test_revocation_list_is_parsed_or_refused_quickly(tmp_path: Path, text: str, fault: str) -> None:
    """Within the time of a request, by the line that is at fault, and every time as fast; what is read can be signed."""
    (tmp_path / revocation_file.REVOKED).write_text(text if text.startswith("#") else f"# {'x' * 20}\n{text}")
    began = time.process_time()
    try:
        listed = revocation_file.load_revoked(tmp_path)
    except CAError as error:
        assert fault, error
        assert f"{tmp_path / revocation_file.REVOKED}: {fault}" in error.detail
        with pytest.raises(CAError):
            revocation_file.load_revoked(tmp_path)
    else:
        assert not fault
        assert listed
        issuer = factories.create_issuer()
        made = factories.authority(
            issuer=issuer, now=NOW, load_revoked=lambda: revocation_file.load_revoked(tmp_path)
        )
        assert len(list(made.current_crl())) == len(listed)
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("revoked", "status"),
    [
        (RevokedCertificate(MOST, NOW - timedelta(hours=1)), 200),
        (RevokedCertificate(MOST + 1, NOW - timedelta(hours=1)), 503),
        (RevokedCertificate(7, datetime(1949, 12, 31, tzinfo=UTC)), 503),
        (RevokedCertificate(7, factories.create_issuer().not_after), 200),
        (RevokedCertificate(7, factories.create_issuer().not_after + timedelta(seconds=1)), 503),
    ],
)
def test_entry_that_no_crl_can_encode_is_unavailable(revoked: RevokedCertificate, status: int) -> None:
    """RFC 5280 4.1.2.2 and 5.1.2.6; and what would never be listed, as of a mistyped year, is a fault as well."""
    made = factories.authority(load_revoked=lambda: {revoked.serial_number: revoked})
    if status == 200:
        assert made.current_crl().issuer
    else:
        with pytest.raises(CAUnavailable, match="the CRL cannot be created"):
            made.current_crl()


def test_crl_keeps_entries_when_the_clock_goes_back() -> None:
    """Number and entries stay, until the clock is past them; outside of the CA's validity there is none."""
    revoked = RevokedCertificate(7, NOW - timedelta(minutes=10))
    issuer = factories.create_issuer()
    steps = (0, -60, -1, issuer.not_before - NOW, -1440, 5)
    moments: Iterator[datetime] = iter(
        NOW + (each if isinstance(each, timedelta) else timedelta(minutes=each)) for each in steps
    )
    made = factories.authority(issuer=issuer, clock=lambda: next(moments), load_revoked=lambda: {7: revoked})
    found = [made.current_crl() for _ in steps]
    numbers = [each.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for each in found]
    assert numbers == [*[numbers[0]] * 5, numbers[0] + 1]
    assert all(each.get_revoked_certificate_by_serial_number(7) for each in found)
    early = factories.authority(issuer=issuer, now=issuer.not_before - timedelta(seconds=1))
    with pytest.raises(CAUnavailable, match="not valid now"):
        early.current_crl()


@pytest.mark.parametrize("days", [0, 20_000])
def test_revoke_fails_after_the_ca_has_expired(tmp_path: Path, days: int) -> None:
    """No CRL can list an entry of that time, so there would be no CRL at all until somebody removes it."""
    moment = datetime.now(UTC) - timedelta(days=days)
    ca_directory.save_hierarchy(tmp_path, hierarchy.create_hierarchy("Test", "0a1b2c", "p-256", moment), None)
    run = certlet("revoke", "0a", "--ca", ".", cwd=tmp_path)
    assert (run.returncode, b"after the CA's end" in run.stderr) == (int(days > 0), days > 0)
    assert list(revocation_file.load_revoked(tmp_path)) == ([] if days else [0xA])


def test_all_workers_use_the_current_files(tmp_path: Path) -> None:
    """A denied key, an entry of the list, another CA: by every worker at once; files that make no CA change nothing."""
    for arguments in (("init", "ca"), ("rollover", "ca", "next"), ("init", "other")):
        assert certlet(*arguments, cwd=tmp_path).returncode == 0
    ca, request = tmp_path / "ca", csrs.build()
    issuers = [ca_directory.load_issuer(each, None) for each in (ca, tmp_path / "next")]
    old, new = (encoding.encode_pem(each.intermediates) for each in issuers)
    with (
        certlet_server(tmp_path, "--workers", "3", "--no-usage-plan") as server,
        ThreadPoolExecutor(8) as pool,
    ):

        def answers() -> tuple[set[str], int]:
            """The CAs, or statuses, of many calls to all workers, and the length of the CRL."""
            signed = pool.map(lambda _: server.sign({"csr": csrs.encode_pem(request).decode()}), range(24))
            cas = {each.json().get("chain_pem", str(each.status)) for each in signed}
            time.sleep(MAX_AGE)
            crl = server.request("GET", "/ca.crl", headers={"Accept": "*/*"})
            return cas, len(x509.load_der_x509_crl(crl.body))

        assert answers() == ({old}, 0)
        with (ca / revocation_file.REVOKED).open("a") as listed:
            listed.write(LINE("0a", AT))
        assert answers() == ({old}, 1)
        shutil.copy(tmp_path / "other" / "signing-ca.key", ca / "signing-ca.key")
        (ca / revocation_file.DENY_LIST).write_text("garbage\n")
        assert answers() == ({old}, 1)
        assert server.read_log().count("the CA's files changed and cannot be loaded") <= 6
        (ca / revocation_file.DENY_LIST).unlink()
        (ca / revocation_file.REVOKED).rename(tmp_path / "next" / revocation_file.REVOKED)
        shutil.copytree(tmp_path / "next", ca, dirs_exist_ok=True)
        assert answers() == ({new}, 1)
        key = keys.encode_public_key(request.public_key())
        (ca / revocation_file.DENY_LIST).write_text(hashlib.sha256(key).hexdigest())
        assert answers() == ({"422"}, 1)


@pytest.mark.parametrize(
    "name", [None, revocation_file.DENY_LIST, ca_directory.PREVIOUS_CERTIFICATES, ca_directory.SERIAL_KEY]
)
def test_dangling_link_is_not_a_missing_file(tmp_path: Path, name: str | None) -> None:
    """A deny list on a volume that is not mounted denies nothing: so such a CA does not start."""
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
    """Anybody's request asks for the CA: until the files change, or a second is over, it is the one before."""
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


def test_unrecorded_revocation_is_not_made(tmp_path: Path) -> None:
    """In the audit log, or on stderr, with the user whom the system knows; a log that is not there prevents it."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    path, log = tmp_path / "ca" / revocation_file.REVOKED, tmp_path / "audit.log"
    before = path.read_bytes()
    refused = certlet("revoke", "0a", "--audit-log", "audit.log", cwd=tmp_path)
    assert (refused.returncode, refused.stderr) == (1, b"certlet: audit.log: No such file or directory\n")
    full = certlet("revoke", "0a", cwd=tmp_path, env={"CERTLET_AUDIT_LOG": "/dev/full"})
    assert (full.returncode, full.stderr) == (1, b"certlet: No space left on device\n")
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.glob("ca/.*")) == []
    log.touch()
    env = {"CERTLET_AUDIT_LOG": "audit.log", "USER": "mallory", "LOGNAME": "mallory"}
    assert certlet("revoke", "0a", "--reason", "keyCompromise", cwd=tmp_path, env=env).returncode == 0
    certlet("revoke", "0a", cwd=tmp_path, env=env)  # a second time it is none
    done = certlet("revoke", "0b", cwd=tmp_path)
    who = f"user:{pwd.getpwuid(os.getuid()).pw_name}:{os.getuid()}"
    for line, serial, reasons in (
        (log.read_bytes(), "0a", {"reasons": ["keyCompromise"]}),
        (done.stderr, "0b", {}),
    ):
        event = json.loads(line)
        assert datetime.fromisoformat(event.pop("time")).tzinfo
        assert event == {"event": "revocation", "principal": who, "serial_number": serial, **reasons}
    assert sorted(revocation_file.load_revoked(tmp_path / "ca")) == [0xA, 0xB]


def test_longest_revocation_list_is_served(tmp_path: Path) -> None:
    """At start, and when it is replaced by another: a CRL and certificates, by all workers, in time."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    path = tmp_path / "ca" / revocation_file.REVOKED
    order = {"csr": csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])).decode()}
    path.write_text(long())
    with certlet_server(tmp_path, "--workers", "2", "--no-usage-plan") as server:
        for start in (0, revocation.MAX_ENTRIES):
            path.write_text(long(start))
            for _ in range(2):
                time.sleep(MAX_AGE)
                answer = server.request("GET", "/ca.crl", headers={"Accept": "*/*"})
                assert answer.status == 200, answer.body
                assert len(answer.body) * 4 / 3 < 6 * 2**20 - 100_000, "more than a Lambda may answer"
                crl = x509.load_der_x509_crl(answer.body)
                assert len(crl) == revocation.MAX_ENTRIES
                assert crl.get_revoked_certificate_by_serial_number(MOST - start)
                assert server.sign(order).status == 200
