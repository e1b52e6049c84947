"""What every request must fulfil before an endpoint sees it, and the headers of every answer."""

import hmac
import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alexnet.web.errors import RequestError
from alexnet.web.limits import RateLimiter

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_API = "/api/"
_SLOW_COST = 10  # requests that a map counts for: it takes a hundred times as long as a prediction
_HEADERS = {
    # Scripts and styles come from this server only; there is no markup or script in a string (Trusted Types).
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class AccessRules:
    """Who may ask.

    Args:
        hosts: The names in the header Host that this server has; a page elsewhere whose name leads here (DNS rebinding)
            has another.
        token: The secret that requests to the interface must have; None if any on this machine may ask.
        limiter: The rates of the clients.
    """

    hosts: Collection[str] = LOOPBACK_NAMES
    token: str | None = None
    limiter: RateLimiter = field(default_factory=RateLimiter)


class Guard:
    """Middleware that refuses requests by `AccessRules` and adds headers to all answers.

    Args:
        app: What answers the other requests.
        rules: The rules.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            self._check(scope)
        except RequestError as error:
            await error_response(error)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _check(self, scope: Scope) -> None:
        """Raise a RequestError if a request is to be refused."""
        headers = Headers(scope=scope)
        host = _check_host(headers.getlist("host"), self._rules)
        _check_origin(headers, host)
        if not scope["path"].startswith(_API):
            return
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise RequestError(403, "requests must come from the page of this server; this one is from another page")
        cost = _SLOW_COST if scope["path"].endswith("/map") else 1
        if not self._rules.limiter.allow(scope["client"][0] if scope.get("client") else "", cost):
            raise RequestError(429, "too many requests from this address: send them more slowly")
        if self._rules.token is not None:
            _check_token(headers.get("authorization", ""), self._rules.token)


def error_response(error: RequestError) -> JSONResponse:
    """Return the answer that says why a request is refused."""
    headers: Mapping[str, str] = {}
    if error.status in (429, 503):
        headers = {"Retry-After": "1"}
    elif error.status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return JSONResponse({"error": error.message}, error.status, headers)


def _check_host(values: list[str], rules: AccessRules) -> str:
    """Return the header Host if it has a name of this server.

    With a token, any IP address is one: behind it no other page can be.
    """
    host = values[0].lower() if len(values) == 1 else ""
    name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    name = name if port.isdigit() else host
    if name in rules.hosts or (rules.token is not None and _is_address(name)):
        return host
    names = ", ".join(sorted(rules.hosts))
    raise RequestError(421, f"the host must be one of {names}; got {name[:100]!r}: use one, or serve with --allow-host")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _check_origin(headers: Headers, host: str) -> None:
    """Refuse a request of a page that another server has sent (CSRF)."""
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
        raise RequestError(403, f"requests must come from the page of this server; this one is from {origin[:100]!r}")


def _check_token(authorization: str, token: str) -> None:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(value.strip().encode(), token.encode()):
        raise RequestError(401, "the token is missing or wrong: use the address that `alexnet serve` has printed")
