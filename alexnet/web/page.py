"""The files of the page, read once: there are no paths to go astray in."""

import hashlib
from importlib import resources

from fastapi import APIRouter, Request, Response

from alexnet.web.errors import RequestError

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PAGES = {"/": "index.html", "/docs": "docs.html"}


def page_router() -> APIRouter:
    """Return the routes of the page, its parts and the description of the interface."""
    router = APIRouter(include_in_schema=False)
    folder = resources.files("alexnet.web") / "static"
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    def respond(request: Request, name: str) -> Response:
        if name not in files:
            raise RequestError(404, "there is no such page")
        tag = f'"{hashlib.sha256(files[name]).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        kind = _TYPES[name[name.rindex(".") :]]
        return Response(files[name], media_type=kind, headers=headers)

    @router.get("/static/{name}")
    def get_file(request: Request, name: str) -> Response:
        return respond(request, name)

    for path, name in _PAGES.items():

        @router.get(path)
        def get_page(request: Request, name: str = name) -> Response:
            return respond(request, name)

    return router
