"""Receiving and iterating, which differ between asyncio and threads: one function for each."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

from websockets.asyncio.client import ClientConnection as AsyncConnection
from websockets.sync.client import ClientConnection

from service.client.json_values import requests_of
from service.client.requests import Rows


async def receive_async(socket: AsyncConnection, timeout_s: float) -> bytes:
    """The next message.

    Raises:
        TimeoutError: no message arrived in time.
    """
    async with asyncio.timeout(timeout_s):
        return await socket.recv(decode=False)


def receive(socket: ClientConnection, timeout_s: float) -> bytes:
    """As `receive_async`."""
    return socket.recv(timeout_s, decode=False)


async def each_async(requests: Iterable[Rows] | AsyncIterable[Rows]) -> AsyncIterator[Rows]:
    """The rows of each request, in order."""
    if isinstance(requests, AsyncIterable):
        async for rows in requests:
            yield rows
    else:
        for rows in requests_of(requests):
            yield rows


def each(requests: Iterable[Rows]) -> Iterator[Rows]:
    """As `each_async`."""
    yield from requests_of(requests)
