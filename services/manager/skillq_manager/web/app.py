"""The application: routes, who may use them, and errors as one clear line."""

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
from skillq_manager.manager import Manager
from skillq_manager.settings import is_loopback
from skillq_manager.web import actions, api, metrics, views
from skillq_manager.web.lookup import TheManager
from skillq_manager.web.unreadable import UnreadableMessages, WholeTransport

_NOT_READY = (
    "the broker or the store is not connected, another manager has the queues, "
    "or a consumer of this one is not proven live"
)


def create_app(manager: Manager, transport: WholeTransport, token: SecretStr | None) -> FastAPI:
    """The manager's HTTP interface; with a token, /api wants it.

    Raises:
        UsageError: the token is empty.
    """
    if token is not None and not token.get_secret_value():
        raise UsageError("--api-token (SKILLQ_API_TOKEN) is empty: give a token, or unset it")
    # The usual pages of documentation load their scripts from elsewhere: we have none.
    app = FastAPI(
        title="skillq manager",
        version=version("skillq"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.manager = manager
    app.state.parked = UnreadableMessages(transport)
    app.state.token = token
    for router in (api.router, actions.router):
        app.include_router(router, dependencies=[Depends(_authorized)])
    app.get("/livez")(_livez)
    app.get("/readyz")(_readyz)
    app.get("/metrics", response_class=Response)(_metrics)
    app.exception_handler(StarletteHTTPException)(_refuse)
    app.exception_handler(RequestValidationError)(_misunderstand)
    app.exception_handler(Unreachable)(_wait)
    app.exception_handler(Exception)(_fail)
    app.openapi()["components"]["schemas"] |= api.FORM_PARTS | actions.PARTS
    return app


# --- who may

_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


async def _authorized(request: Request, given: _Credentials) -> None:
    token: SecretStr | None = request.app.state.token
    if token is None:
        _refuse_other_names(request)
        return
    wanted = token.get_secret_value().encode()
    # Headers are decoded as latin-1: back to the bytes that were sent.
    if given is None or not hmac.compare_digest(given.credentials.encode("latin-1"), wanted):
        raise HTTPException(
            401,
            "send the manager's token: Authorization: Bearer …",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _refuse_other_names(request: Request) -> None:
    """A page of somebody else's may give its own name this machine's address, and have a browser ask here."""
    host = request.url.hostname or ""
    if not is_loopback(host):
        raise HTTPException(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"without --api-token only this machine is answered, as localhost, not as {one_line(shorten(host, 100))}",
        )


# --- probes and metrics, for everyone


async def _livez() -> dict[str, str]:
    return {"status": "live"}


async def _readyz(manager: TheManager) -> dict[str, str]:
    if not manager.is_ready:
        raise HTTPException(503, _NOT_READY)
    return {"status": "ready"}


async def _metrics(manager: TheManager, request: Request) -> Response:
    parked: UnreadableMessages = request.app.state.parked
    body = metrics.render(
        await views.summary(manager),
        manager.counters,
        ready=manager.is_ready,
        parked=await parked.count(),
    )
    return Response(body, media_type=CONTENT_TYPE_LATEST)


# --- errors


def _problem(status: int, line: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": one_line(line)}, status, headers)


async def _refuse(request: Request, error: Exception) -> Response:
    if not isinstance(error, StarletteHTTPException):
        raise error
    line = error.detail
    if line == HTTPStatus(error.status_code).phrase:  # the router's own
        line = f"{line}: {request.method} {request.url.path}; /openapi.json lists what there is"
    return _problem(error.status_code, line, dict(error.headers or {}))


async def _misunderstand(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"][1:]))
    if first["type"] == "extra_forbidden":
        return _problem(422, f"unknown parameter {name!r}")
    return _problem(422, f"{name}: {with_value(first, first['input'])}")


async def _wait(request: Request, error: Exception) -> Response:
    """The store is away."""
    return _problem(503, f"{error}; ask again in a moment")


async def _fail(request: Request, error: Exception) -> Response:
    """The server logs the error itself."""
    return _problem(500, "the manager failed to answer; its log says why")
