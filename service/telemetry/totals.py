"""Totals of each model over all workers, read from the metrics."""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric

Series = tuple[str, str]
"""The name of a sample, and the value of its label other than model and version (or "")."""


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """Running totals of one model, for `GET /v1/models/…`."""

    steps: int
    predictions: int
    batches: int
    batch_rows: int
    ort_s: float


class Totals:
    """A snapshot of the samples of models. Reads all metrics, which takes some milliseconds."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._models: dict[tuple[str, str], dict[Series, float]] = {}
        for family in families:
            for sample in family.samples:
                labels = dict(sample.labels)
                if "model" not in labels or "version" not in labels or "le" in labels:
                    continue
                model = labels.pop("model"), labels.pop("version")
                series = sample.name, next(iter(labels.values()), "")
                self._models.setdefault(model, {})[series] = sample.value

    def of(self, model: str, version: str, name: str, label: str = "") -> float:
        """A sample; 0 if it does not exist."""
        return self._models.get((model, version), {}).get((name, label), 0.0)

    def live(self, model: str, version: str) -> LiveFigures:
        return LiveFigures(
            steps=int(self.of(model, version, "carry_steps_total")),
            predictions=int(self.of(model, version, "carry_predictions_total")),
            batches=int(self.of(model, version, "carry_batch_rows_count")),
            batch_rows=int(self.of(model, version, "carry_batch_rows_sum")),
            ort_s=self.of(model, version, "carry_ort_seconds_sum"),
        )
