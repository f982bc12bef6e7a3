"""The client against real processes: a kill in the middle is a step that takes longer."""

import asyncio
import re
import signal
from contextlib import ExitStack

import pytest

from service.client import AsyncClient, Client, NotFoundError, SessionExistsError
from tests.e2e.readme_tour import ADDRESS, README
from tests.e2e.server import ROOT, running_server
from tests.fakes.bundles import write_classifier, write_forecaster
from tests.system import in_thread

ROWS = [[float(number % 7), None if number % 5 == 0 else 1.5] for number in range(24)]
HISTORY = {"start": "2016-08-22", "observations": ROWS[:4]}
HOST = ADDRESS.removeprefix("http://")


@pytest.fixture
def settings(tmp_path):
    write_forecaster(tmp_path / "models")
    write_classifier(tmp_path / "models")
    return {"models": tmp_path / "models", "store": f"sqlite:///{tmp_path}/carry.db"}


def whole(client):
    instance = {"start": HISTORY["start"], "observations": ROWS}
    return client.predict("load", [instance])[0]["mean"]


def test_a_session_goes_on_through_a_kill_without_its_caller_noticing(tmp_path, settings):
    with (
        running_server(tmp_path, **settings) as server,
        Client(server.url) as client,
        ExitStack() as stack,
    ):
        session = client.open("load", session="s", history=HISTORY)
        assert session.count == 4
        for number, row in enumerate(ROWS[4:], start=4):
            if number == 12:
                server.stop(signal.SIGKILL)
                stack.enter_context(in_thread(server.start))
            previewed = session.preview([row])
            reply = session.step([row])
            assert reply.step == session.count == number + 1
            assert previewed.prediction["mean"] == pytest.approx(reply.prediction["mean"], abs=1e-4)
        assert session.prediction["mean"] == pytest.approx(whole(client), abs=1e-4)


async def test_many_sessions_of_asyncio_go_on_through_a_kill_under_load(tmp_path, settings):
    with running_server(tmp_path, **settings) as server:
        async with AsyncClient(server.url) as client:
            num_answered = 0
            killed = asyncio.Event()

            async def stream(name):
                nonlocal num_answered
                session = await client.open("load", session=name, history=HISTORY)
                for row in ROWS[4:]:
                    await session.step([row])
                    num_answered += 1
                    if num_answered == 60:
                        killed.set()
                return session

            async def kill():
                await killed.wait()
                await asyncio.to_thread(server.restart, signal.SIGKILL)

            sessions, _ = await asyncio.gather(
                asyncio.gather(*(stream(f"s{number}") for number in range(8))), kill()
            )
        with Client(server.url) as client:
            expected = whole(client)
            for session in sessions:
                assert session.count == len(ROWS)
                assert session.prediction["mean"] == pytest.approx(expected, abs=1e-4)
                again = client.open(
                    "load", session=session.name, history=HISTORY, if_exists="resume"
                )
                assert again.count == len(ROWS)


def test_text_forks_and_closing_work_as_the_service_means_them(tmp_path, settings):
    with running_server(tmp_path, **settings) as server, Client(server.url) as client:
        session = client.open("mood", metadata={"of": "a film"})
        session.step(text="a wonder")
        fork = session.fork()
        ended = fork.step(text="ful film", final=True)
        alone = client.predict("mood", [{"text": "a wonderful film"}])[0]
        assert ended.prediction["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-4)
        assert (session.count, fork.count) == (1, 2)
        with pytest.raises(SessionExistsError):
            client.open("load", session=session.name, start="2016-08-22")
        session.close()
        session.close()
        with pytest.raises(NotFoundError) as caught:
            client.open("nothing")
        assert caught.value.code == "model-not-found"


def test_the_examples_of_the_pages_run(tmp_path, capsys):
    """In order, as a reader tries them, beside the session that the tour has opened."""
    pages = [ROOT / "docs/transports.md", README, ROOT / "docs/client.md"]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    known = {}
    with running_server(tmp_path, store="memory://") as server:
        with Client(server.url) as client:
            client.open("transit-ridership", session="clark-lake", start="2016-08-15")
        for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            assert HOST in example
            here = example.replace(HOST, server.url.removeprefix("http://"))
            exec(compile(here, "a page", "exec"), known)
    by_socket, in_readme, stepped, previewed, *streamed = capsys.readouterr().out.splitlines()
    assert by_socket.startswith("[")
    assert in_readme.startswith("8 [")
    assert stepped.startswith("8 [")
    assert previewed.endswith("if it rains; the session stays at 8")
    assert [line.partition(" ")[0] for line in streamed] == [str(step) for step in range(1, 8)]
