"""Work in a thread of its own: in order, back on the loop that put it, through before the end."""

import asyncio
import threading

from service.work_thread import WorkThread


class Piece:
    def __init__(self):
        self.may_end = threading.Event()
        self.thread = None

    def run(self):
        self.may_end.wait(5)
        self.thread = threading.current_thread()


class Done:
    """Takes what comes back, with the loop on which it does."""

    def __init__(self):
        self._back = asyncio.Queue()

    def __call__(self, piece):
        self._back.put_nowait((piece, asyncio.get_running_loop()))

    async def next(self):
        return await asyncio.wait_for(self._back.get(), 5)


async def test_pieces_run_one_after_another_and_come_back_in_order():
    done, pieces = Done(), [Piece() for _ in range(5)]
    thread = WorkThread("work", done)
    for piece in pieces:
        thread.put(piece)
    for piece in reversed(pieces):
        assert piece.thread is None
        piece.may_end.set()
    here = asyncio.get_running_loop()
    assert [await done.next() for _ in pieces] == [(piece, here) for piece in pieces]
    assert {piece.thread.name for piece in pieces} == {"work"}
    thread.close()


def test_each_piece_comes_back_on_the_loop_that_put_it():
    ended = []

    def end_loop(piece):
        ended.append(asyncio.get_running_loop())
        ended[-1].stop()

    thread, piece = WorkThread("work", end_loop), Piece()
    piece.may_end.set()
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.call_soon(thread.put, piece)
        loop.call_later(5, loop.stop)
        loop.run_forever()
        loop.close()
        assert ended.pop() is loop
    thread.close()


async def test_without_a_thread_to_be_had_the_loop_does_the_work(monkeypatch):
    done, pieces = Done(), [Piece(), Piece()]
    for piece in pieces:
        piece.may_end.set()
    thread = WorkThread("work", done)
    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", no_thread)
        thread.put(pieces[0])
    thread.put(pieces[1])
    assert [(await done.next())[0] for _ in pieces] == pieces
    assert [piece.thread.name for piece in pieces] == ["MainThread", "work"]
    thread.close()


def no_thread(_):
    raise RuntimeError("can't start new thread")


async def test_to_close_waits_for_what_runs_and_without_work_there_is_no_thread():
    thread, piece = WorkThread("work", Done()), Piece()
    WorkThread("idle", Done()).close()
    thread.put(piece)
    threading.Timer(0.05, piece.may_end.set).start()
    thread.close()
    assert piece.thread is not None
    assert not {"work", "idle"} & {each.name for each in threading.enumerate()}
