"""The metrics of the service, as its own registry declares them."""

from service.telemetry.metrics import Metrics


def declared_metrics() -> dict[str, tuple[str, frozenset[str]]]:
    """Name as one would query it (a histogram's without its three ends) → (kind, labels)."""
    found = {}
    # prometheus_client offers no public way to the labels of a metric without samples.
    for collector in Metrics("0").registry._collector_to_names:
        [family] = collector.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = frozenset(collector._labelnames)
        found[name] = (family.type, labels | ({"le"} if family.type == "histogram" else set()))
    return found


METRICS = declared_metrics()


def series_names() -> set[str]:
    """The names as Prometheus stores them: a histogram is three series."""
    names = set()
    for name, (kind, _) in METRICS.items():
        ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        names |= {name + end for end in ends}
    return names
