"""What README.md and docs/sessions.md show is what a reader gets."""

import json

import httpx
import pytest

from tests.e2e.readme_tour import LEFT_OUT, PAGES, run_stop, shortened, tour_stops
from tests.e2e.server import running_server
from tests.system import require_program

CHANGING = {"created_at", "updated_at", "expires_at", "age_s"}


SERVED = {
    "text": ("my-review", "sentiment-en"),
    "classify": ("my-review", "sentiment-en"),
    "generate": ("my-word", "hello"),
    "vector": ("my-digit", "digit-names"),
}
"""By kind of example: the session and the model that it is sent to."""


def assert_shown(printed, got, where="answer"):
    """What is printed is what comes, to the printed digits; times of the day may differ."""
    if where.rpartition(".")[2] in CHANGING:
        assert type(got) is type(printed), where
    elif isinstance(printed, dict):
        assert printed.keys() == got.keys(), where
        for key, value in printed.items():
            assert_shown(value, got[key], f"{where}.{key}")
    elif isinstance(printed, list):
        assert len(printed) == len(got), where
        for place, value in enumerate(printed):
            assert_shown(value, got[place], f"{where}[{place}]")
    elif isinstance(printed, int | float):
        assert got == pytest.approx(printed, rel=1e-3), where
    else:
        assert got == printed, where


def test_the_tour_gives_what_it_shows(tmp_path):
    require_program("curl", package="curl")
    pages = [tour_stops(page.read_text(encoding="utf-8")) for page in PAGES]
    assert all(len(stops) >= 5 for stops in pages)
    with running_server(tmp_path, store=f"sqlite:///{tmp_path}/carry.db") as server:
        for command, printed in [stop for stops in pages for stop in stops]:
            answer = shortened(run_stop(command, server.url))
            assert_shown(json.loads(printed), answer, command)


def test_a_long_answer_is_shortened_where_the_page_says_so():
    quantiles = {"0.1": [1, 2, 3, 4, 5], "0.9": [6, 7, 8, 9, 10]}
    answer = {"mean": [1, 2, 3, 4], "quantiles": quantiles, "models": [{"name": "a"}] * 5}
    assert shortened(answer) == {
        "mean": [1, 2, 3, 4],
        "quantiles": {"0.9": [6, 7, 8, LEFT_OUT], LEFT_OUT: "1 more"},
        "models": [{"name": "a"}, LEFT_OUT],
    }


def test_every_example_of_the_documentation_works_in_order(tmp_path):
    with (
        running_server(tmp_path, store="memory://") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        document = client.get("/openapi.json").json()
        posts = [(path, item["post"]) for path, item in document["paths"].items() if "post" in item]
        posts = [post for post in posts if not post[0].startswith("/v2/repository")]
        posts.sort(key=lambda post: "{session}" in post[0])
        assert len(posts) == 17
        for path, operation in posts:
            media = operation["requestBody"]["content"]["application/json"]
            for kind, example in media["examples"].items():
                session, model = SERVED.get(kind, ("my-station", "transit-ridership"))
                url = path.replace("{session}", session)
                url = url.replace("{model}", model).replace("{version}", "1")
                answer = client.post(url, json=example["value"])
                assert answer.status_code in (200, 201), (url, answer.text)
                if not answer.headers["content-type"].startswith("application/json"):
                    continue  # a stream of events
                for row in answer.json().get("results", ()):  # in bulk each has its own status
                    assert row["status"] == 200, (url, row)
