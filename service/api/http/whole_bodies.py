"""A request whose body came whole is answered to by its route, whether its client waits or not.

uvicorn's `receive` says `http.disconnect` as soon as the connection is gone, also for a body that
it holds and has not handed over yet (`RequestResponseCycle.receive`). So a client that sent its
request and closed was not heard, unless the application had asked before. Plain steps, which
`protocol.py` begins itself, always were.
"""

from starlette.types import Message, Receive
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def hand_over_whole_body(receive: Receive) -> Receive:
    """`receive`, which hands over a body that came whole before it tells of a disconnect."""
    cycle = getattr(receive, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):  # another server, or a test without one
        return receive
    is_handed_over = False

    async def receive_body() -> Message:
        nonlocal is_handed_over
        message = await receive()
        if message["type"] == "http.request":
            is_handed_over = not message.get("more_body", False)
        elif cycle.disconnected and not cycle.more_body and not is_handed_over:
            is_handed_over = True
            message = {"type": "http.request", "body": bytes(cycle.body), "more_body": False}
        return message

    return receive_body
