"""The reference for HTTP: FastAPI with pydantic models and bodies of the same size, no model.

python -m tests.benchmarks.noop_server PORT
"""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from tests.benchmarks.bundle import LEVELS, K


class Step(BaseModel):
    step: int | None = None
    observations: list[list[float | None]]


class Forecast(BaseModel):
    start: str | None
    frequency: str
    mean: list[float]
    quantiles: dict[str, list[float]]


class Answer(BaseModel):
    session: str
    step: int
    expires_at: str
    prediction: Forecast


app = FastAPI()
_MEAN = [round(0.1234567 * (place + 1), 7) for place in range(K)]
_QUANTILES = {f"{level:g}": _MEAN for level in LEVELS}


@app.post("/v1/sessions/{session}/steps")
async def step(session: str, body: Step) -> Answer:
    forecast = Forecast(start=None, frequency="PT1H", mean=_MEAN, quantiles=_QUANTILES)
    return Answer(
        session=session,
        step=len(body.observations),
        expires_at="2026-01-01T00:00:00.000Z",
        prediction=forecast,
    )


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    return {"status": "ready"}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
