from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.pki.renewal_info import EarlyRenewal
from service.settings import Settings, SettingsError, parse_public_url
from tests.factories import NOW


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://pki.example.com", "https://pki.example.com"),
        ("https://pki.example.com/", "https://pki.example.com"),
        ("https://pki.example.com/certlet/v1", "https://pki.example.com/certlet/v1"),
        ("https://a1b2.execute-api.eu-central-1.amazonaws.com/prod/", None),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/prod", "http://[::1]:8080/prod"),
        ("https://example.com/a%20b", "https://example.com/a%20b"),
    ],
)
def test_public_url_is_parsed_without_final_slash(text: str, url: str | None) -> None:
    assert parse_public_url(text) == (url or text.removesuffix("/"))


@pytest.mark.parametrize(("text", "length"), [(None, 0), ("", 0), ("0", 0), ("64", 64), ("76", 76)])
def test_est_line_length_is_a_setting(text: str | None, length: int) -> None:
    environ = {"CERTLET_CA": "ca"} | ({} if text is None else {"CERTLET_EST_LINE_LENGTH": text})
    assert Settings.from_environ(environ, NOW).est_line_length == length


@pytest.mark.parametrize("text", ["", "debug", "info", "warning", "error"])
def test_log_level_is_a_setting(text: str) -> None:
    assert Settings.from_environ({"CERTLET_CA": "ca", "CERTLET_LOG_LEVEL": text}, NOW).log_level == text


@pytest.mark.parametrize("text", ["DEBUG", "critical", "10", "debug "])
def test_other_log_level_is_refused(text: str) -> None:
    with pytest.raises(
        SettingsError, match=f"CERTLET_LOG_LEVEL: '{text}' is not one of debug, info, warning"
    ):
        Settings.from_environ({"CERTLET_CA": "ca", "CERTLET_LOG_LEVEL": text}, NOW)


@pytest.mark.parametrize("text", ["-64", "65", "64 ", "x", "064"])
def test_other_est_line_length_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=f"CERTLET_EST_LINE_LENGTH: '{text}' is not 0, 64 or 76"):
        Settings.from_environ({"CERTLET_CA": "ca", "CERTLET_EST_LINE_LENGTH": text}, NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "pki.example.com",
        "ftp://pki.example.com",
        "HTTPS://pki.example.com",
        "https://",
        "https:///path",
        "https://pki.example.com//",
        "https://pki.example.com?a=b",
        "https://pki.example.com/?",
        "https://pki.example.com/#top",
        "https://user@pki.example.com",
        "https://pki.example.com:port",
        "https://pki..example.com",
        "https://pki.example.com/a b",
        "https://pki.example.com/%2",
        "https://pki.example.com/\n",
        'https://pki.example.com/"',
        "https://pki.example.com/$context.error",
        "https://pki.example.com/\u00e9",
        "https://p\u0456ki.example.com",
    ],
)
def test_malformed_public_url_is_refused(text: str) -> None:
    """The URL is part of JSON and of Velocity templates, so that it has no character of theirs."""
    with pytest.raises(ValueError, match="is not an http or https URL without query and fragment"):
        parse_public_url(text)


def test_status_url_is_a_setting() -> None:
    environ = {"CERTLET_CA": "ca"}
    assert Settings.from_environ(environ, NOW).status_url == ""
    url = "http://ca.example.com"
    assert Settings.from_environ({**environ, "CERTLET_STATUS_URL": f"{url}/"}, NOW).status_url == url
    with pytest.raises(SettingsError, match=r"CERTLET_STATUS_URL: 'ftp://a\.example' is not an http"):
        Settings.from_environ({**environ, "CERTLET_STATUS_URL": "ftp://a.example"}, NOW)


@pytest.mark.parametrize(
    ("variables", "ledger", "table"),
    [
        ({}, None, ""),
        ({"LEDGER": "", "LEDGER_TABLE": ""}, None, ""),
        ({"LEDGER": "/var/lib/certlet/ledger.db"}, Path("/var/lib/certlet/ledger.db"), ""),
        ({"LEDGER_TABLE": "certlet-Ledger-1A.b_2"}, None, "certlet-Ledger-1A.b_2"),
    ],
)
def test_ledger_is_a_file_or_a_table(variables: dict[str, str], ledger: Path | None, table: str) -> None:
    environ = {"CERTLET_CA": "ca"} | {f"CERTLET_{name}": value for name, value in variables.items()}
    settings = Settings.from_environ(environ, NOW)
    assert (settings.ledger, settings.ledger_table) == (ledger, table)


def test_quota_of_orders_is_a_setting() -> None:
    environ = {"CERTLET_CA": "ca", "CERTLET_ORDER_QUOTA": "5/DAY"}
    assert Settings.from_environ(environ, NOW).order_quota == "5/DAY"
    assert Settings.from_environ(environ | {"CERTLET_ORDER_QUOTA": ""}, NOW).order_quota == ""
    with pytest.raises(SettingsError, match="CERTLET_ORDER_QUOTA: '5/HOUR' is not a quota such as"):
        Settings.from_environ(environ | {"CERTLET_ORDER_QUOTA": "5/HOUR"}, NOW)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LEDGER": "a", "LEDGER_TABLE": "abc"}, "^CERTLET_LEDGER and CERTLET_LEDGER_TABLE are both set"),
        ({"LEDGER_TABLE": "ab"}, "^CERTLET_LEDGER_TABLE: 'ab' is not a table: 3 to 255 of"),
        ({"LEDGER_TABLE": "a/b\n"}, r"^CERTLET_LEDGER_TABLE: 'a/b\\n' is not a table"),
    ],
)
def test_malformed_ledger_is_refused(variables: dict[str, str], message: str) -> None:
    environ = {"CERTLET_CA": "ca"} | {f"CERTLET_{name}": value for name, value in variables.items()}
    with pytest.raises(SettingsError, match=message):
        Settings.from_environ(environ, NOW)


@pytest.mark.parametrize("value", ["", "0ccf7fc0-1d6a-11f1-8f5e-0a4b4c4d4e4f", "k" * 20, "k" * 128])
def test_token_usage_key_is_a_setting(value: str) -> None:
    """The template sends an empty one without tokens. It is not in a log of the settings."""
    settings = Settings.from_environ({"CERTLET_CA": "ca", "CERTLET_TOKEN_USAGE_KEY": value}, NOW)
    assert settings.token_usage_key == value
    assert not value or value not in repr(settings)
    assert Settings.from_environ({"CERTLET_CA": "ca"}, NOW).token_usage_key == ""


@pytest.mark.parametrize("value", ["k" * 19, "k" * 129, "k" * 30 + " ", "k" * 30 + "\n", "\u00e9" * 30])
def test_malformed_token_usage_key_is_refused(value: str) -> None:
    message = "^CERTLET_TOKEN_USAGE_KEY is not an API key: 20 to 128 visible ASCII characters$"
    with pytest.raises(SettingsError, match=message):
        Settings.from_environ({"CERTLET_CA": "ca", "CERTLET_TOKEN_USAGE_KEY": value}, NOW)


def test_public_url_is_a_setting() -> None:
    """An empty variable is not set, as the template sends it; a malformed one is reported with the others."""
    environ = {"CERTLET_CA": "ca"}
    assert Settings.from_environ(environ, NOW).public_url == ""
    assert Settings.from_environ({**environ, "CERTLET_PUBLIC_URL": ""}, NOW).public_url == ""
    assert Settings.from_environ({**environ, "CERTLET_PUBLIC_URL": "https://a.example/"}, NOW).public_url == (
        "https://a.example"
    )
    with pytest.raises(
        SettingsError, match=r"CERTLET_CA is not set.*; CERTLET_PUBLIC_URL: 'a.example' is not"
    ):
        Settings.from_environ({"CERTLET_PUBLIC_URL": "a.example"}, NOW)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"BEFORE": "", "OVER": ""}, None),
        ({"OVER": "PT6H"}, None),
        ({"BEFORE": "2026-11-23T12:30:45Z"}, (datetime(2026, 11, 23, 12, 30, 45, tzinfo=UTC), timedelta(1))),
        ({"BEFORE": "2026-11-01T01:00:00+02:00", "OVER": "PT1M"}, (datetime(2026, 10, 31, 23, tzinfo=UTC), timedelta(0, 60))),
    ],
)  # fmt: skip
def test_early_renewal_is_a_setting(
    variables: dict[str, str], expected: tuple[datetime, timedelta] | None
) -> None:
    """A day is the default period; empty variables are not set."""
    environ = {"CERTLET_CA": "ca"} | {f"CERTLET_RENEW_{name}": value for name, value in variables.items()}
    early = Settings.from_environ(environ, NOW).early_renewal
    assert early == (expected and EarlyRenewal(*expected))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("BEFORE", "2026-11-23T12:30:46Z", "is in the future: set a time that has passed"),
        ("BEFORE", "2026-11-23T12:00:00", "is not a time with a zone, such as 2030-12-31T23:59:59Z"),
        ("BEFORE", "yesterday", "is not a time with a zone"),
        ("OVER", "1y", "is not a duration"),
        ("OVER", "PT59S", "is shorter than a minute"),
    ],
)
def test_malformed_early_renewal_is_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"CERTLET_RENEW_{name}: '{value}' {message}"):
        Settings.from_environ({"CERTLET_CA": "ca", f"CERTLET_RENEW_{name}": value}, NOW)
