"""One streaming socket: steps in, answers out, many in flight. Knows neither sockets nor frames.

Rule 1: of one session, answers leave in the order in which its messages came, each exactly once.
        Sessions of one socket do not wait for each other.
Rule 2: of one session, at most as many steps are in flight as it keeps replies (`replay`); the
        others wait here. So whatever was committed and not answered, because the socket broke, is
        still in the ring when the client sends it again.
Rule 3: at most `_MAX_OPEN_MESSAGES`, or `_MAX_OPEN_BYTES`, are open on a socket; while
        there are more, nothing is read from it. While the client does not read, nothing is begun.
Rule 4: there is no task for a message, unless the store must be asked which model it is for. What
        is under way ends with its answer or with the socket, whichever comes first.
Rule 5: a stream ends behind the messages that it took: each of them is applied and answered, and
        then the socket closes, whether the client said that no more follows or the server stops.
        What a client sent before its close frame is applied even if it does not wait for answers.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol

import orjson

from service.api.auth.keys import Caller
from service.api.codec.decode import decode_step
from service.api.codec.schemas import StepBody
from service.api.codec.stream_schemas import StreamStep, StreamStepOfAny, echo_of_any
from service.api.codec.validation import parse_body
from service.api.context import Context
from service.api.sessions.steps import reply_to_step, step_answer
from service.api.websocket.timing import StreamFollower
from service.engine.session.rules import Reply
from service.engine.timing import RequestTiming, on
from service.errors import CarryError
from service.stores.record.record import Key, Record

_MAX_OPEN_MESSAGES = 128
_MAX_OPEN_BYTES = 1 << 20
_AS_JSON = orjson.OPT_SERIALIZE_NUMPY


class Wire(Protocol):
    """The socket, as a stream sees it. None of these may call back before it returns."""

    def send(self, data: bytes) -> None: ...

    def hold_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class _Message:
    """A message that has no answer yet, or whose answer waits for those before it."""

    __slots__ = ("answer", "body", "echo", "num_bytes", "timing", "work")

    def __init__(self, body: StepBody | None, echo: dict[str, Any], num_bytes: int) -> None:
        self.body = body
        self.echo = echo
        self.num_bytes = num_bytes
        self.answer: bytes | None = None
        self.timing: RequestTiming | None = None
        self.work: asyncio.Future[Any] | None = None


class _Channel:
    """What of one session is open on a socket: begun, in order, and behind it waiting."""

    __slots__ = ("begun", "is_asking", "key", "session", "waiting")

    def __init__(self, session: str, key: Key) -> None:
        self.session = session
        self.key = key
        self.begun: deque[_Message] = deque()
        self.waiting: deque[_Message] = deque()
        self.is_asking = False


class Stream:
    """Owned by its socket, which calls `take` for each message, `finish` when no more is taken, and
    `lost` when it is gone.

    Without `session` every message names its own.
    """

    def __init__(
        self,
        context: Context,
        caller: Caller,
        wire: Wire,
        follower: StreamFollower,
        session: str | None = None,
    ) -> None:
        self.is_idle = True
        self.has_dropped = False
        """Whether a message came that was not taken, because the stream was ending."""
        self._context = context
        self._caller = caller
        self._wire = wire
        self._follower = follower
        self._session = session
        self._schema: type[StepBody] = StreamStepOfAny if session is None else StreamStep
        self._channels: dict[str, _Channel] = {}
        self._num_open = 0
        self._open_bytes = 0
        self._is_holding = False
        self._is_blocked = False
        self._is_client_done = False
        self._on_finished: Callable[[], None] | None = None

    @staticmethod
    def hello(record: Record) -> bytes:
        """What a client of one session gets first: where to go on."""
        name, ring_size = record.header.name, record.header.ring_size
        return orjson.dumps({"session": name, "step": record.step, "replay": ring_size})

    def take(self, data: bytes) -> None:
        """A message came."""
        self.is_idle = False
        if self._on_finished is not None:
            self.has_dropped = True
            return
        session = self._session
        try:
            body = parse_body(self._schema, data)
        except CarryError as error:
            echo = echo_of_any(data)
            session = session or echo.get("session")
            message = _Message(None, echo, len(data))
            message.answer = self._follower.problem(error, echo)
        else:
            assert isinstance(body, StreamStep), "both schemas are"
            echo = {} if body.id is None else {"id": body.id}
            message = _Message(body, echo, len(data))
            if isinstance(body, StreamStepOfAny):
                session = body.session
        self._num_open += 1
        self._open_bytes += len(data)
        if session is None:  # nobody's: nothing that it could wait for
            self._send(message)
            return
        channel = self._channels.get(session)
        if channel is None:
            key = self._context.key(self._caller, session)
            channel = self._channels[session] = _Channel(session, key)
        channel.waiting.append(message)
        self._pump(channel)
        if not self._is_holding and self._is_full():
            self._is_holding = True
            self._wire.hold_reading()

    def block(self) -> None:
        """The client does not read: begin nothing more."""
        self._is_blocked = True
        self._hold_or_resume()

    def unblock(self) -> None:
        """It reads again."""
        self._is_blocked = False
        self._pump_all()
        self._hold_or_resume()

    def finish(self, on_finished: Callable[[], None], *, is_client_done: bool = False) -> None:
        """Take no more: answer what was taken, then call the `on_finished` that was given last."""
        self._on_finished = on_finished
        self._is_client_done = is_client_done
        self._finish_if_answered()

    def lost(self) -> None:
        """The socket is gone: drop what the engine has not begun, unless the client had ended."""
        if self._is_client_done:  # what is still taken up is bounded, and nobody can add to it
            self._is_blocked = False
            self._pump_all()
        else:
            self.drop()

    def drop(self) -> None:
        """Begin and answer nothing more; what the engine has not begun is dropped."""
        self._on_finished = _nothing
        for channel in self._channels.values():
            channel.waiting.clear()  # an answer to what has begun would begin it
            for message in channel.begun:
                if message.work is not None:
                    message.work.cancel()
        self._channels.clear()

    # From here on in the order in which things happen to a message.

    def _pump_all(self) -> None:
        for channel in list(self._channels.values()):
            self._pump(channel)

    def _pump(self, channel: _Channel) -> None:
        """Begin what may begin, and answer what is answered."""
        engine, key = self._context.engine, channel.key
        while channel.waiting and not channel.is_asking and not self._is_blocked:
            message = channel.waiting[0]
            if message.body is not None:
                ring_size = engine.cached_ring_size(key)
                if len(channel.begun) >= (ring_size or 1):
                    break
                if ring_size is None or not self._begin(channel, message, message.body):
                    self._begin_slowly(channel, message, message.body)
            channel.begun.append(channel.waiting.popleft())
        self._answer_in_order(channel)

    def _begin(self, channel: _Channel, message: _Message, body: StepBody) -> bool:
        """Submit a step to the engine; False, with nothing done, if the store must be asked."""
        context = self._context
        model = context.engine.cached_model(channel.key)
        if model is None:
            return False
        try:
            request = decode_step(context.view_of(model).reads, body)
        except CarryError:  # the cached model may be that of an earlier session of this name
            return False
        message.timing = timing = self._follower.begin()
        on_reply = partial(self._on_reply, channel, message, request.emit)
        message.work = context.engine.submit(channel.key, request, timing, on_reply)
        return True

    def _begin_slowly(self, channel: _Channel, message: _Message, body: StepBody) -> None:
        """The same by a task; the others of this session wait for its answer."""
        channel.is_asking = True
        reply = reply_to_step(self._context, self._caller, channel.session, body)
        message.timing = self._follower.begin()
        with on(message.timing):
            message.work = task = asyncio.ensure_future(reply)
        task.add_done_callback(partial(self._on_slow_reply, channel, message))

    def _on_slow_reply(
        self,
        channel: _Channel,
        message: _Message,
        task: "asyncio.Task[tuple[Reply, Literal['last', 'all']]]",
    ) -> None:
        if task.cancelled():
            return
        channel.is_asking = False
        try:
            reply, emit = task.result()
        except Exception as error:  # the task's boundary
            self._on_reply(channel, message, "last", error)
        else:
            self._on_reply(channel, message, emit, reply)

    def _on_reply(
        self,
        channel: _Channel,
        message: _Message,
        emit: Literal["last", "all"],
        outcome: Reply | Exception,
    ) -> None:
        failure = outcome if isinstance(outcome, Exception) else None
        if isinstance(outcome, Reply):
            try:
                answer = step_answer(self._context, outcome, emit) | message.echo
                if outcome.is_replay:
                    answer["replayed"] = True
                    self._follower.resumed()
                message.answer = orjson.dumps(answer, option=_AS_JSON)
            except Exception as error:  # the message's boundary
                failure = error
        if failure is not None:
            echo = message.echo | {"session": channel.session}
            if message.body is not None and message.body.step is not None:
                echo["step"] = message.body.step
            message.answer = self._follower.problem(failure, echo, message.timing)
        message.work = None
        if message.timing is not None:
            self._follower.answered(channel.session, message.timing, failure)
        self._answer_in_order(channel)
        if channel.waiting:
            self._pump(channel)

    def _answer_in_order(self, channel: _Channel) -> None:
        begun = channel.begun
        while begun and begun[0].answer is not None:
            self._send(begun.popleft())
        if not begun and not channel.waiting and self._session is None:
            self._channels.pop(channel.session, None)

    def _send(self, message: _Message) -> None:
        assert message.answer is not None, "the caller knows it"
        self._wire.send(message.answer)
        self._num_open -= 1
        self._open_bytes -= message.num_bytes
        if self._on_finished is not None:
            self._finish_if_answered()
        elif self._is_holding:
            self._hold_or_resume()

    def _is_full(self) -> bool:
        return self._num_open >= _MAX_OPEN_MESSAGES or self._open_bytes >= _MAX_OPEN_BYTES

    def _hold_or_resume(self) -> None:
        should_hold = self._is_blocked or self._is_full()
        if should_hold == self._is_holding:
            return
        self._is_holding = should_hold
        if should_hold:
            self._wire.hold_reading()
        else:
            self._wire.resume_reading()

    def _finish_if_answered(self) -> None:
        if self._num_open == 0 and self._on_finished is not None:
            self._on_finished()


def _nothing() -> None:
    """What is left to do for a socket that is gone."""
