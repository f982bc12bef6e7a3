"""Why the service closes a stream: every WebSocket close code that it sends, in one place.

What a request is answered with has nothing to do with these: a step that is refused is answered by
a problem document, and the stream goes on. A client that is closed by any of them loses nothing:
it connects again, and sends again, with their steps, the requests that were not answered.
"""

from enum import IntEnum


class CloseCode(IntEnum):
    """The code, and what a client should do."""

    NORMAL = 1000  # the client ended its side of the connection: what it had sent is answered
    PROTOCOL = 1002  # a frame that breaks the WebSocket protocol, such as one without a mask
    UNSUPPORTED = 1003  # a binary message: send JSON as text
    NOT_UTF8 = 1007  # a text message that is no UTF-8
    POLICY = 1008  # more than `MAX_FRAGMENTS` fragments of one message
    TOO_BIG = 1009  # a message over 256 KiB: send it over HTTP, or in parts
    INTERNAL = 1011  # the server failed, or a ping was not answered in time
    RESTART = 1012  # the server shuts down; every message it took was answered: connect again
    KEY_GONE = 4401  # the key was revoked, has expired or was changed: nothing more is begun
    IDLE = 4408  # no message for an hour


MEANINGS = {
    CloseCode.NORMAL: "The client ended its side of the connection without a close frame.",
    CloseCode.PROTOCOL: "A frame that breaks the WebSocket protocol, such as one without a mask.",
    CloseCode.UNSUPPORTED: "A binary message: send JSON as text.",
    CloseCode.NOT_UTF8: "A text message that is no UTF-8.",
    CloseCode.POLICY: "One message in too many fragments.",
    CloseCode.TOO_BIG: "A message over 256 KiB: send it over HTTP, or in parts.",
    CloseCode.INTERNAL: "The server failed, or a ping was not answered in time: connect again.",
    CloseCode.RESTART: "The server shuts down; what it had read is answered: connect again.",
    CloseCode.KEY_GONE: "The key was revoked, has expired or was changed: use a valid one.",
    CloseCode.IDLE: "No message for an hour: connect again when there is something.",
}
"""For the AsyncAPI document. A client that does not read its answers is cut off without a code."""
