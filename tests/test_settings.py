from __future__ import annotations

import pytest

from service.settings import Settings, SettingsError, parse_public_url


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
    assert Settings.from_environ(environ).est_line_length == length


@pytest.mark.parametrize("text", ["-64", "65", "64 ", "x", "064"])
def test_other_est_line_length_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=f"CERTLET_EST_LINE_LENGTH: '{text}' is not 0, 64 or 76"):
        Settings.from_environ({"CERTLET_CA": "ca", "CERTLET_EST_LINE_LENGTH": text})


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


def test_public_url_is_a_setting() -> None:
    """An empty variable is not set, as the template sends it; a malformed one is reported with the others."""
    environ = {"CERTLET_CA": "ca"}
    assert Settings.from_environ(environ).public_url == ""
    assert Settings.from_environ({**environ, "CERTLET_PUBLIC_URL": ""}).public_url == ""
    assert Settings.from_environ({**environ, "CERTLET_PUBLIC_URL": "https://a.example/"}).public_url == (
        "https://a.example"
    )
    with pytest.raises(
        SettingsError, match=r"CERTLET_CA is not set.*; CERTLET_PUBLIC_URL: 'a.example' is not"
    ):
        Settings.from_environ({"CERTLET_PUBLIC_URL": "a.example"})
