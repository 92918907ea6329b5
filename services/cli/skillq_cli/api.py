"""Call the manager's HTTP API for the commands."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from skillq import timings
from skillq.errors import SkillqError, Unreachable, UsageError
from skillq.forms import one_line
from skillq.urls import HTTP, ServerUrl, is_loopback
from skillq_cli.settings import ApiSettings

_MAX_PAGE = 1000


Json = Any  # a value that json.loads returns


class Refused(UsageError):
    """Raised when a task, run or message is not found, or cannot be changed in its state."""


class Api:
    """A client of the manager's HTTP API, open between enter and exit."""

    def __init__(self, settings: ApiSettings) -> None:
        url = ServerUrl.parse(settings.api_url, HTTP)
        self._shown_url = url.display
        token = settings.api_token.get_secret_value() if settings.api_token else ""
        self._has_token = bool(token)
        self._client = _open_client(url, token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, *path: str, **parameters: str | int | None) -> Json:
        """Return the answer to GET `/api/<path>`.

        Raises:
            UsageError: the manager refuses the request, for example because there is no such task.
            Unreachable: no manager answers, or the manager refuses the token.
        """
        given = {name: value for name, value in parameters.items() if value is not None}
        # A manager reads the messages of the dead-letter queue one by one.
        seconds = timings.API_LONG_SECONDS if path[0] == "parked" else timings.API_SECONDS
        return self._request("GET", path, seconds, params=given)

    def post(self, *path: str, body: Mapping[str, Any] | None = None) -> Json:
        """Return the answer to POST `/api/<path>`.

        Raises:
            Refused: the task, run or message is not found, or its state does not allow the request.
            UsageError: the manager does not understand the request.
            Unreachable: no manager answers, the manager does not lead, or it refuses the token.
        """
        return self._request("POST", path, timings.API_LONG_SECONDS, json=dict(body or {}))

    def delete(self, *path: str) -> Json:
        """Return the answer to DELETE `/api/<path>`; raise the same errors as `post`."""
        return self._request("DELETE", path, timings.API_LONG_SECONDS)

    def _request(self, method: str, path: Sequence[str], seconds: float, **arguments: Any) -> Json:
        try:
            url_path = "/api/" + "/".join(quote(part, safe="") for part in path)
            response = self._client.request(
                method, url_path, timeout=_timeout(seconds), **arguments
            )
        except UnicodeEncodeError as error:
            raise UsageError("an argument of the command is no UTF-8 text") from error
        except httpx.ReadTimeout as error:
            raise Unreachable(
                f"the manager at {self._shown_url} has not answered for {seconds:g} s"
                + ("" if method == "GET" else "; look what has become of it before you ask again")
            ) from error
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"no manager answers at {self._shown_url}: is it running, is --api-url right?"
            ) from error
        answer = self._read_answer(response)
        if not response.is_success:
            raise self._to_error(response.status_code, answer)
        return answer

    def get_all(self, *path: str, **parameters: str | int | None) -> Json:
        """Return all pages of a list as one page; raise the same errors as `get`."""
        items: list[Json] = []
        cursor: str | None = None
        while True:
            answer = self.get(*path, **parameters, limit=_MAX_PAGE, cursor=cursor)
            items += answer["items"]
            cursor = answer["next_cursor"]
            if cursor is None:
                return {"items": items, "next_cursor": None}

    def _read_answer(self, response: httpx.Response) -> Json:
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not (response.is_success or "error" in answer):
            raise Unreachable(
                f"what answers at {self._shown_url} is no skillq manager: is --api-url right?"
            )
        return answer

    def _to_error(self, status: int, answer: Json) -> SkillqError:
        message = one_line(str(answer["error"]))
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            if self._has_token:
                return Unreachable(
                    f"the manager at {self._shown_url} refuses the token: is --api-token right?"
                )
            return Unreachable(f"the manager at {self._shown_url} wants a token: --api-token")
        if status in {httpx.codes.NOT_FOUND, httpx.codes.CONFLICT}:
            return Refused(message)
        if status < httpx.codes.INTERNAL_SERVER_ERROR:
            return UsageError(message)
        return Unreachable(f"the manager at {self._shown_url} cannot answer: {message}")


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=timings.CONNECT_SECONDS)


def _open_client(url: ServerUrl, token: str) -> httpx.Client:
    headers = {"Accept": "application/json"} | (
        {"Authorization": f"Bearer {token}"} if token else {}
    )
    try:
        return httpx.Client(
            base_url=url.text,
            headers=httpx.Headers(headers, encoding="utf-8"),
            # No connection is kept: the server may close a kept connection just before its next use.
            limits=httpx.Limits(max_keepalive_connections=0),
            # A proxy from the environment cannot reach a manager on this machine.
            trust_env=not is_loopback(url.hosts[0].name.strip("[]")),
        )
    except UnicodeEncodeError as error:
        raise UsageError("--api-token (SKILLQ_API_TOKEN): is no UTF-8 text") from error
    except ImportError as error:
        raise UsageError(
            "ALL_PROXY, HTTP_PROXY or HTTPS_PROXY names a SOCKS proxy, which httpx does not support as it is "
            "installed: unset the variable for skillq, or pip install 'httpx[socks]'"
        ) from error
    except (ValueError, OSError, httpx.InvalidURL) as error:
        # The error may quote the URL of the proxy, with its password.
        raise UsageError(
            "httpx cannot use ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE or SSL_CERT_DIR "
            f"({type(error).__name__}): correct the variable, or unset it for skillq"
        ) from error
