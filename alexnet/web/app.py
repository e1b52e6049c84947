"""The application: the endpoints, the page, and how errors are answered."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from alexnet.web.errors import RequestError
from alexnet.web.guard import AccessRules, Guard, error_response
from alexnet.web.page import page_router
from alexnet.web.routes import router
from alexnet.web.service import Service


def build_app(service: Service, rules: AccessRules | None = None) -> FastAPI:
    """Return the application that answers requests.

    Args:
        service: What computes the answers; closed when the server ends.
        rules: Who may ask; by default any program on this machine.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="alexnet serve",
        description="A trained net as an HTTP interface. Errors are answered with one line, `error`.",
        version=metadata.version("alexnet"),
        docs_url=None,  # FastAPI's pages load scripts from another server
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
    )
    app.state.service = service
    app.include_router(router)
    app.include_router(page_router())
    app.add_exception_handler(RequestError, _answer_request_error)
    app.add_exception_handler(RequestValidationError, _answer_wrong_parameters)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_middleware(Guard, rules=rules or AccessRules())
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name.removeprefix("_")


async def _answer_request_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return error_response(error)


async def _answer_wrong_parameters(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    return error_response(RequestError(422, f"{name}: {first['msg']}; got {str(first.get('input'))[:60]!r}"))


async def _answer_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = {404: "there is no such page", 405: "this page does not know the request's method"}
    return error_response(RequestError(error.status_code, message.get(error.status_code, error.detail)))
