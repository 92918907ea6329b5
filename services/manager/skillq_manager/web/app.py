"""The FastAPI application: routes, access control, and errors as one line of text."""

import hmac
from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import SecretStr
from starlette.exceptions import HTTPException as StarletteHTTPException

from skillq.errors import Unreachable, UsageError
from skillq.forms import one_line
from skillq.messages import shorten
from skillq.messages.error_text import with_value
from skillq.urls import is_loopback
from skillq_manager.manager import Manager
from skillq_manager.web import actions, api, metrics, views
from skillq_manager.web.lookup import ManagerDependency
from skillq_manager.web.unreadable import BrowsableTransport, UnreadableMessages

_NOT_READY = (
    "the broker or the store is not connected, another manager has the queues, "
    "or a consumer of this one is not proven live"
)


def create_app(manager: Manager, transport: BrowsableTransport, token: SecretStr | None) -> FastAPI:
    """Create the application of a manager; with a token, requests to /api must send it.

    Raises:
        UsageError: The token is empty.
    """
    if token is not None and not token.get_secret_value():
        raise UsageError("--api-token (SKILLQ_API_TOKEN) is empty: give a token, or unset it")
    # FastAPI's documentation pages load scripts from other servers, so they are switched off.
    app = FastAPI(
        title="skillq manager",
        version=version("skillq"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.manager = manager
    app.state.unreadable = UnreadableMessages(transport)
    app.state.token = token
    for router in (api.router, actions.router):
        app.include_router(router, dependencies=[Depends(_authorize)])
    app.get("/livez")(_livez)
    app.get("/readyz")(_readyz)
    app.get("/metrics", response_class=Response)(_metrics)
    app.exception_handler(StarletteHTTPException)(_handle_http_error)
    app.exception_handler(RequestValidationError)(_handle_invalid_request)
    app.exception_handler(Unreachable)(_handle_unreachable)
    app.exception_handler(Exception)(_handle_failure)
    app.openapi()["components"]["schemas"] |= api.FORM_SCHEMAS | actions.FORM_SCHEMAS
    return app


# --- Access control

_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


async def _authorize(request: Request, credentials: _Credentials) -> None:
    token: SecretStr | None = request.app.state.token
    if token is None:
        _refuse_foreign_host(request)
        return
    expected = token.get_secret_value().encode()
    # The server decodes headers as latin-1; this restores the bytes that were sent.
    if credentials is None or not hmac.compare_digest(
        credentials.credentials.encode("latin-1"), expected
    ):
        raise HTTPException(
            401,
            "send the manager's token: Authorization: Bearer …",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _refuse_foreign_host(request: Request) -> None:
    """Refuse a request whose host name is not of this machine, against DNS rebinding.

    A foreign web page can let its own host name point to this machine, and make a browser send requests.

    Raises:
        HTTPException: The host of the request is not a loopback name or address.
    """
    host = request.url.hostname or ""
    if not is_loopback(host):
        raise HTTPException(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"without --api-token only this machine is answered, as localhost, not as {one_line(shorten(host, 100))}",
        )


# --- Probes and metrics, which need no token


async def _livez() -> dict[str, str]:
    return {"status": "live"}


async def _readyz(manager: ManagerDependency) -> dict[str, str]:
    if not manager.is_ready:
        raise HTTPException(503, _NOT_READY)
    return {"status": "ready"}


async def _metrics(manager: ManagerDependency, request: Request) -> Response:
    unreadable: UnreadableMessages = request.app.state.unreadable
    body = metrics.render(
        await views.summary(manager),
        manager.counters,
        ready=manager.is_ready,
        unreadable=await unreadable.count(),
    )
    return Response(body, media_type=CONTENT_TYPE_LATEST)


# --- Errors


def _problem_response(status: int, line: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": one_line(line)}, status, headers)


async def _handle_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, StarletteHTTPException):
        raise error
    line = error.detail
    if line == HTTPStatus(error.status_code).phrase:  # the router found no route
        line = f"{line}: {request.method} {request.url.path}; /openapi.json lists what there is"
    return _problem_response(error.status_code, line, dict(error.headers or {}))


async def _handle_invalid_request(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    problem = error.errors()[0]
    name = ".".join(map(str, problem["loc"][1:]))
    if problem["type"] == "extra_forbidden":
        return _problem_response(422, f"unknown parameter {name!r}")
    return _problem_response(422, f"{name}: {with_value(problem, problem['input'])}")


async def _handle_unreachable(request: Request, error: Exception) -> Response:
    """Answer 503: the store cannot be reached."""
    return _problem_response(503, f"{error}; ask again in a moment")


async def _handle_failure(request: Request, error: Exception) -> Response:
    """Answer 500: the server logs the error itself."""
    return _problem_response(500, "the manager failed to answer; its log says why")
