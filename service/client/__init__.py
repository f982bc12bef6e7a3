"""A client of the service: sessions that count their steps and repeat them safely.

It needs httpx (`pip install 'carry-serving[client]'`) and nothing else of the service.
"""

from service.client.asynchronous import AsyncClient, AsyncSession
from service.client.exchange import Retries
from service.client.problems import (
    ClientError,
    ConflictError,
    DigestMismatchError,
    InvalidRequestError,
    KeyRefusedError,
    NotFoundError,
    ProblemError,
    SessionClosedError,
    SessionExistsError,
    SteppedElsewhereError,
    StepsLostError,
    UnansweredError,
)
from service.client.requests import Observed, Opening, StepReply
from service.client.synchronous import Client, Session

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "Client",
    "ClientError",
    "ConflictError",
    "DigestMismatchError",
    "InvalidRequestError",
    "KeyRefusedError",
    "NotFoundError",
    "Observed",
    "Opening",
    "ProblemError",
    "Retries",
    "Session",
    "SessionClosedError",
    "SessionExistsError",
    "StepReply",
    "SteppedElsewhereError",
    "StepsLostError",
    "UnansweredError",
]
