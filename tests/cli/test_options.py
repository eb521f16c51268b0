"""Options that several commands share: the URL of the service."""

from __future__ import annotations

import pytest

from service.cli import options
from tests import servers
from tests.cli import certlet

FILE = servers.ROOT / "tests/ca_from_before/root-ca.crt"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://ca.example.com", "https://ca.example.com"),
        ("HTTP://127.0.0.1:18431//", "http://127.0.0.1:18431"),
        ("https://CA.Example.com/Prod/", "https://ca.example.com/Prod"),
        ("http://[::1]:8080/a/b", "http://[::1]:8080/a/b"),
        ("http://certlet_1:65535", "http://certlet_1:65535"),
        ("https://ca.example.com/~a/%20;x=1/@b", "https://ca.example.com/~a/%20;x=1/@b"),
    ],
)
def test_url_of_a_service_is_parsed(text: str, url: str) -> None:
    """Its scheme and host are lower-case, and it ends without a slash."""
    assert options.parse_service_url(text) == url
    assert options.parse_service_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:18431",
        "ca.example.com",
        "ftp://ca.example.com",
        "http://",
        "http://:8080",
        "http://[::1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://127.0.0.1:abc",
        "http://127.0.0.1?a=b",
        "http://127.0.0.1/#f",
        "http://127.0.0.1\n",
        "http://127.0.0.1/a b",
        "http://ä.example.com",
        "http://user@ca.example.com",
        "//user:secret@ca.example.com",
        "",
    ],
)
def test_malformed_url_of_a_service_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"is not an http or https URL|contains a user name"):
        options.parse_service_url(url)


@pytest.mark.parametrize(
    "command", ["new a.example.com --url {}", "login {}", f"verify {FILE}", "new b.example.com"]
)
def test_malformed_url_is_a_usage_error(command: str) -> None:
    """As an option, as an argument, and in the variable."""
    arguments = (word.format("127.0.0.1:18431") for word in command.split())
    run = certlet(*arguments, env={"CERTLET_URL": "127.0.0.1:18431", "CERTLET_API_KEY": "key"})
    assert (run.returncode, run.stdout) == (2, b"")
    assert b"'127.0.0.1:18431' is not an http or https URL such as https://ca.example.com" in run.stderr
