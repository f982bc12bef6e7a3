"""What can go wrong for a user of the client. Problem documents become exceptions by their code."""

import json
from collections.abc import Mapping
from typing import Any

_URN = "urn:carry:"


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
    """Malformed, too large, or not what the model takes."""


class KeyRefusedError(ProblemError):
    """No key, a bad one, or one that does not allow it."""


class NotFoundError(ProblemError):
    """No such model or session; or the session expired."""


class ConflictError(ProblemError):
    """The session is not as the request takes it to be."""


class SessionClosedError(ConflictError):
    pass


class SessionExistsError(ConflictError):
    """The name is taken, from another request."""


class DigestMismatchError(ConflictError):
    """Something else was applied at this step: by another client, or by a call that went
    unanswered here and was not repeated as it was."""


class SteppedElsewhereError(ConflictError):
    """The session is further than this client took it: somebody else steps it too."""


class StepsLostError(ConflictError):
    """The store lost steps that it had acknowledged, from before what is kept here."""


class UnreachableError(ClientError):
    """Nothing took the connection, and this client never had an answer from there."""


class UnansweredError(ClientError):
    """Time was up. Whether the request was applied is not known, unless the message says that it
    was not sent; to repeat it as it was is exact.

    `problem` is the last refusal, if there was an answer at all.
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
    """The exception for an answer that is none of success."""
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):  # from something between here and the service
        document = {"detail": content[:200].decode(errors="replace") or "no explanation came"}
    told = str(document.pop("type", ""))
    code = told.removeprefix(_URN) if told.startswith(_URN) else f"http-{status}"
    detail = str(document.pop("detail", "no explanation came"))
    members = {key: value for key, value in document.items() if key not in ("title", "status")}
    error = BY_CODE.get(code) or BY_STATUS.get(status, ProblemError)
    return error(code, status, detail, members)
