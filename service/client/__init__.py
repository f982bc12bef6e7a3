"""The Python client: sessions that number their steps and retry them safely.

It needs httpx and websockets (`pip install 'carry-serving[client]'`), and no other part of the
service.
"""

from service.client.asynchronous import AsyncClient, AsyncSession
from service.client.event_stream import SessionEvent
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
    UnreachableError,
)
from service.client.requests import Observed, Opening, StepReply, Writing
from service.client.retry import Retries
from service.client.streaming.asynchronous import AsyncSessionStream
from service.client.streaming.synchronous import SessionStream
from service.client.synchronous import Client, Session
from service.client.tables import to_frame

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "AsyncSessionStream",
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
    "SessionEvent",
    "SessionExistsError",
    "SessionStream",
    "StepReply",
    "SteppedElsewhereError",
    "StepsLostError",
    "UnansweredError",
    "UnreachableError",
    "Writing",
    "to_frame",
]
