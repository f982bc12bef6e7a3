"""The client's events, texts and tables against the real service, on its own thread."""

import json

import numpy as np
import pytest

from service.client import AsyncClient, Client, KeyRefusedError
from tests.api.keys import keys_file
from tests.api.support import listening_apart

ROWS = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 6.0]], np.float32)


@pytest.fixture(scope="module")
def url():
    with listening_apart() as service:
        yield str(service.base_url)


def test_events_tell_what_another_client_steps_until_the_session_ends(url):
    with Client(url) as client, Client(url) as other:
        session = client.open("load", session="told", start="2016-08-22", replay=4)
        events = session.events()
        assert next(events).name == "open"
        reply = other.resume("told").step(ROWS)
        told = next(events)
        assert (told.name, told.step) == ("step", 3)
        assert told.data["prediction"] == reply.prediction
        other.delete("told")
        assert [each.name for each in events] == ["end"]


async def test_events_of_asyncio_tell_the_same(url):
    async with AsyncClient(url) as client:
        session = await client.open("load", session="heard", start="2016-08-22", replay=4)
        await session.step(ROWS)
        names = []
        async for event in session.events(after=0):
            names.append((event.name, event.step))
            if event.name == "step":
                await session.close()
        assert names == [("open", 0), ("step", 3), ("end", None)]


def test_a_text_as_it_is_written_is_the_text_that_is_answered(url):
    writing = {"text": "ab", "max_tokens": 20, "seed": 5}
    with Client(url) as client:
        whole = client.open("verse", session="whole").generate(**writing)
        session = client.open("verse", session="pieces")
        pieces = list(session.generate_stream(**writing))
        assert "".join(pieces) == whole.text
        assert len(pieces) == len(whole.text)
        assert session.prediction == whole.prediction
        stopped = client.open("verse", session="stopped")
        for _ in stopped.generate_stream(**writing):
            break
        stopped.step("a")
        assert stopped.count == session.count + 1


async def test_a_text_of_asyncio_is_the_same(url):
    async with AsyncClient(url) as client:
        session = await client.open("verse", session="a")
        pieces = [each async for each in session.generate_stream(text="ab", max_tokens=20, seed=5)]
        other = await client.open("verse", session="b")
        assert "".join(pieces) == (await other.generate(text="ab", max_tokens=20, seed=5)).text


def test_rows_of_every_kind_are_the_same_rows(url):
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    with Client(url) as client:
        columns = _columns(client)
        times = pandas.date_range("2016-08-22", periods=3)
        frame = pandas.DataFrame(ROWS, columns=columns, index=times)
        [expected] = client.predict("load", [json.loads(frame_json(frame))])
        assert client.predict("load", [frame]) == [expected]
        asked = {"start": times[0], "observations": polars.from_pandas(frame)}
        assert client.predict("load", [asked]) == [expected]
        session = client.open("load", history=frame.iloc[:1])
        session.step(frame.iloc[1])
        assert session.step(list(ROWS[2])).prediction["mean"] == pytest.approx(
            expected["mean"], abs=1e-4
        )
        fed = client.open("load", start=times[0].date(), replay=4)
        with fed.stream() as stream:
            steps = [reply.step for reply in stream.replies(frame)]
        assert steps == [1, 2, 3]
        table = fed.step(ROWS[0], emit="all").to_frame()
        assert list(table["step"]) == [4] * len(expected["mean"])


def frame_json(frame):
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return json.dumps({"start": "2016-08-22", "observations": rows})


def _columns(client):
    document = client.run(_read("/v1/models/load"))
    return [each["name"] for each in document["columns"]]


def _read(path):
    from service.client.retry import Request, Retries, RetryBudget

    return (yield from RetryBudget(Retries()).run(Request("GET", path))).body()


def test_readiness_and_models_of_a_service_with_keys(tmp_path):
    path, keys = keys_file(tmp_path, ada="user")
    with listening_apart(api_keys_file=path) as service:
        url = str(service.base_url)
        with Client(url) as client:
            assert client.ready()
            with pytest.raises(KeyRefusedError):
                client.models()
        with Client(url, key=keys["ada"]) as client:
            assert {each["name"] for each in client.models()} == {"load", "mood", "verse", "phase"}
            assert keys["ada"] not in repr(client)
    with Client(url) as client:
        assert not client.ready()
