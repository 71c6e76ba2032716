"""Every error answer: one exception, one table from code to HTTP status, one place that renders.

A view raises `ApiError` with a code of the table; whatever else goes wrong, in Flask, in the
store or in our own code, becomes the same envelope here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NoReturn

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from common.errors import StoreUnavailable
from common.logging import get_logger
from common.task import Failure

__all__ = [
    "ApiError",
    "Problem",
    "ValidationFailed",
    "failure_error",
    "init_app",
    "status_of",
    "task_not_found",
]

# code -> HTTP status and type. A failed task's code is looked up here as well.
_CODES: Mapping[str, tuple[int, str]] = {
    "invalid_json": (400, "invalid_request_error"),
    "invalid_value": (400, "invalid_request_error"),
    "missing_required_parameter": (400, "invalid_request_error"),
    "content_policy_violation": (400, "invalid_request_error"),
    "model_not_found": (404, "invalid_request_error"),
    "bad_request": (400, "invalid_request_error"),
    "invalid_api_key": (401, "invalid_api_key"),
    "expired_api_key": (401, "invalid_api_key"),
    "quota_exceeded": (402, "insufficient_balance"),
    "model_not_allowed": (403, "access_denied"),
    "key_not_allowed": (403, "access_denied"),
    "invalid_signature": (403, "access_denied"),
    "metrics_not_allowed": (403, "access_denied"),
    "not_found": (404, "invalid_request_error"),
    "async_task_not_found": (404, "invalid_request_error"),
    "method_not_allowed": (405, "invalid_request_error"),
    "task_not_cancellable": (409, "invalid_request_error"),
    "task_not_retryable": (409, "invalid_request_error"),
    "webhook_not_deliverable": (409, "invalid_request_error"),
    "cancelled": (409, "invalid_request_error"),
    "payload_too_large": (413, "invalid_request_error"),
    "unsupported_media_type": (415, "invalid_request_error"),
    "range_not_satisfiable": (416, "invalid_request_error"),
    "idempotency_key_reused": (422, "invalid_request_error"),
    "rate_limit_exceeded": (429, "rate_limit_exceeded"),
    "concurrency_limit_exceeded": (429, "rate_limit_exceeded"),
    "queue_full": (429, "rate_limit_exceeded"),
    "internal_error": (500, "server_error"),
    "upstream_error": (502, "upstream_error"),
    "outcome_unknown": (502, "upstream_error"),
    "attempts_exhausted": (502, "upstream_error"),
    "service_unavailable": (503, "service_unavailable"),
    "model_unavailable": (503, "service_unavailable"),
    "all_channels_failed": (503, "all_channels_failed"),
    "timeout": (504, "timeout_error"),
}

# What Flask and Werkzeug raise, as codes of ours.
_HTTP_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
}

log = get_logger(__name__)


def status_of(code: str) -> int:
    """The HTTP status that goes with an error code; 502 for one that only a task can have."""
    return _CODES.get(code, (502, ""))[0]


class ApiError(Exception):
    """An answer that is an error.

    `details` go into the `error` object: did_you_mean, suggestions, alternatives, hint,
    retryable, retry_after (seconds, sent as a header as well), limit, resets_in, task_id.
    `status` is for the code that answers with two: model_not_found is 400 at submit and 404 at the
    model's own address.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.status = status or status_of(code)
        self.headers = dict(headers or {})
        self.details = {name: value for name, value in details.items() if value is not None}

    def body(self) -> dict[str, Any]:
        """The envelope: `{"error": {"message", "type", "code", "param", …}}`."""
        kind = _CODES.get(self.code, (0, "upstream_error"))[1]
        error = {"message": self.message, "type": kind, "code": self.code, "param": self.param}
        return {"error": error | self.details}

    def response(self) -> Response:
        response = jsonify(self.body())
        response.status_code = self.status
        response.headers.update(self.headers)
        if "retry_after" in self.details:
            response.headers["Retry-After"] = str(self.details["retry_after"])
        return response


class Problem(ApiError):
    """One thing that is wrong with a request; `param` names the field."""


class ValidationFailed(ApiError):
    """All that is wrong with a request. The first problem gives the error its code."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__(
            first.code,
            first.message,
            param=first.param,
            status=HTTPStatus.BAD_REQUEST,
            **first.details,
        )
        self.problems = problems

    def body(self) -> dict[str, Any]:
        failures = [{"field": p.param, "message": p.message} for p in self.problems]
        return super().body() | {"validation_errors": failures}


def task_not_found() -> NoReturn:
    """The same for unknown, expired and other people's tasks: nobody learns which ids exist."""
    raise ApiError("async_task_not_found", "Task not found or no longer available.")


def failure_error(failure: Failure, task_id: str) -> ApiError:
    """A failed task as an error answer, for the caller who waited for it.

    `X-Should-Retry` is read by OpenAI's SDK, which otherwise repeats every 5xx: after a failure
    that may have cost money it would buy again.
    """
    return ApiError(
        failure.code,
        failure.message,
        headers={"X-Should-Retry": "true" if failure.retryable else "false", "X-Task-ID": task_id},
        retryable=failure.retryable,
        billed=failure.billed,
        task_id=task_id,
    )


def init_app(app: Flask) -> None:
    """Let `app` answer every error with the envelope."""
    app.register_error_handler(ApiError, ApiError.response)
    app.register_error_handler(StoreUnavailable, _store_unavailable)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def _store_unavailable(error: StoreUnavailable) -> Response:
    log.warning("store unavailable", reason=repr(error.__cause__))
    return ApiError("service_unavailable", str(error), retry_after=2, retryable=True).response()


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    code = _HTTP_CODES.get(status, "bad_request" if status < 500 else "internal_error")
    match code:
        case "not_found":
            message = f"There is nothing at {request.method} {request.path}."
        case "method_not_allowed":
            message = f"{request.method} is not allowed here; the Allow header says what is."
        case "payload_too_large":
            message = "The request body is too large: at most 1 MB."
        case _:
            message = error.description or HTTPStatus(status).phrase
    kept = ("allow", "content-range")
    headers = {name: value for name, value in error.get_headers() if name.lower() in kept}
    return ApiError(code, message, status=status, headers=headers).response()


def _unexpected(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    return ApiError(
        "internal_error",
        "Something went wrong on our side. The request id helps to find out what.",
        request_id=g.get("request_id"),
    ).response()
