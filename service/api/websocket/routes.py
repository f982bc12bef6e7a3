"""The URLs of streams, asked by a plain GET: a stream is opened by a WebSocket handshake."""

from fastapi import APIRouter

from service.errors import UpgradeRequiredError

router = APIRouter(include_in_schema=False)


@router.get("/v1/stream")
@router.get("/v1/sessions/{session}/stream")
async def need_handshake() -> None:
    """Handshakes never come here: they are answered by `protocol.py`."""
    raise UpgradeRequiredError(
        "a stream is opened by a WebSocket handshake: expected the headers"
        " Upgrade: websocket and Connection: Upgrade, which a proxy must let through"
    )
