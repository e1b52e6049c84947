"""Who may ask: hosts, origins, tokens and rates; and the headers of every answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from web_runs import new_client

from alexnet.web.guard import AccessRules
from alexnet.web.limits import RateLimiter

TOKEN = "a-secret"


@pytest.fixture(scope="module")
def guarded(served_run: Path) -> Iterator[TestClient]:
    """A client of a server with a token that other machines can reach."""
    with new_client(served_run, AccessRules({"localhost", "birds.example"}, TOKEN, RateLimiter(1e6, 1e6))) as opened:
        yield opened


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]", "[::1]:80", "LOCALHOST:99"])
def test_names_of_this_machine_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/api/run", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.168.1.2:80", "", "[::1].evil", "a:b"])
@pytest.mark.parametrize("path", ["/", "/api/run", "/static/main.js", "/openapi.json"])
def test_a_page_whose_name_leads_here_is_refused(client: TestClient, host: str, path: str) -> None:
    answer = client.get(path, headers={"Host": host})
    assert answer.status_code == 421
    assert answer.json()["error"].startswith("the host must be one of 127.0.0.1, [::1], localhost; got ")


def test_with_a_token_addresses_and_the_given_names_are_answered(guarded: TestClient) -> None:
    for host, status in [
        ("10.0.0.9:8000", 200),
        ("[fe80::1]:8000", 200),
        ("birds.example", 200),
        ("evil.example", 421),
    ]:
        assert guarded.get("/", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://localhost"}, 422),  # allowed; the body is no picture
        ({"Origin": "https://localhost"}, 422),  # behind a proxy with TLS
        ({"Origin": "http://localhost:81"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 422),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_requests_of_other_pages_are_refused(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.post("/api/predict", content=b"text", headers=headers).status_code == status


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"])
def test_without_the_token_the_interface_is_closed(guarded: TestClient, value: str | None) -> None:
    headers = {} if value is None else {"Authorization": value}
    for path in ("/api/run", "/api/curves", "/api/pictures/x"):
        answer = guarded.get(path, headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert guarded.get("/").status_code == 200  # the page asks for it
    assert guarded.get("/api/run", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/run", "/none", "/static/main.js", "/api/pictures/x"])
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_every_answer_has_the_headers(client: TestClient, path: str, host: str) -> None:
    headers = client.get(path, headers={"Host": host}).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] in ("no-store", "no-cache")


def test_the_rate_of_a_client_is_limited(served_run: Path) -> None:
    with new_client(served_run, AccessRules(limiter=RateLimiter(rate=0.001, burst=3))) as client:
        assert [client.get("/api/run").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
        assert client.get("/api/run").headers["Retry-After"] == "1"
        assert client.get("/").status_code == 200


def test_a_rate_is_a_burst_and_then_so_many_a_second() -> None:
    now = 0.0
    limiter = RateLimiter(rate=2, burst=3, clock=lambda: now)
    assert [limiter.allow("a") for _ in range(4)] == [True, True, True, False]
    assert limiter.allow("b")
    assert not limiter.allow("b", cost=3)
    now = 0.5
    assert [limiter.allow("a") for _ in range(2)] == [True, False]
    now = 100
    assert [limiter.allow("a") for _ in range(4)] == [True, True, True, False]
    assert [limiter.allow(f"2001:db8::{n:x}") for n in range(4)] == [True, True, True, False]  # one network
    for number in range(10_000):
        limiter.allow(f"10.0.{number // 256}.{number % 256}")
    assert len(limiter._buckets) <= 4096
