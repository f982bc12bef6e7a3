"""Exceptions of the client. Problem documents become exceptions by their code."""

import json
from collections.abc import Mapping
from typing import Any

_URN = "urn:carry:"
_NO_DETAIL = "the response has no explanation"


class ClientError(Exception):
    """Base of every error that the client raises on purpose."""


class ProblemError(ClientError):
    """The service refused a request: `code` and `members` are for programs, `detail` for people."""

    def __init__(self, code: str, status: int, detail: str, members: Mapping[str, Any]) -> None:
        super().__init__(f"{detail} ({status} {code})")
        self.code = code
        self.status = status
        self.detail = detail
        self.members = members


class InvalidRequestError(ProblemError):
    """The request is malformed, too large, or does not fit the model."""


class KeyRefusedError(ProblemError):
    """The API key is missing, invalid, or does not allow the request."""


class NotFoundError(ProblemError):
    """The model or session does not exist, or the session expired."""


class ConflictError(ProblemError):
    """The session is not in the state that the request expects."""


class SessionClosedError(ConflictError):
    pass


class SessionExistsError(ConflictError):
    """Another request has opened a session of this name."""


class DigestMismatchError(ConflictError):
    """Another request was applied at this step: from another client, or an earlier one of this
    client that got no response and was not repeated unchanged."""


class SteppedElsewhereError(ConflictError):
    """The session is ahead of this client: another client steps it too."""


class StepsLostError(ConflictError):
    """The store lost acknowledged steps, some of which the client no longer keeps."""


class UnreachableError(ClientError):
    """The first connection of this client was refused."""


class UnansweredError(ClientError):
    """The time is up. The message says whether the request may have been applied; it is safe to
    repeat unchanged.

    `problem` is the last refusal, if the last failure was one.
    """

    def __init__(self, detail: str, problem: ProblemError | None = None) -> None:
        super().__init__(detail)
        self.problem = problem


BY_CODE: dict[str, type[ProblemError]] = {
    "session-closed": SessionClosedError,
    "session-exists": SessionExistsError,
    "digest-mismatch": DigestMismatchError,
}
BY_STATUS: dict[int, type[ProblemError]] = {
    400: InvalidRequestError,
    401: KeyRefusedError,
    403: KeyRefusedError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    426: InvalidRequestError,
}


def problem_of(status: int, content: bytes) -> ProblemError:
    """The exception for a response that reports an error."""
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):  # from a proxy, not from the service
        document = {"detail": content[:200].decode(errors="replace") or _NO_DETAIL}
    urn = str(document.pop("type", ""))
    code = urn.removeprefix(_URN) if urn.startswith(_URN) else f"http-{status}"
    detail = str(document.pop("detail", _NO_DETAIL))
    members = {key: value for key, value in document.items() if key not in ("title", "status")}
    error = BY_CODE.get(code) or BY_STATUS.get(status, ProblemError)
    return error(code, status, detail, members)
