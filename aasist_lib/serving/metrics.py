"""Prometheus metrics: requests, latency, refusals. Nothing of the content of a request."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Metrics:
    """Counters of one app; `in_flight` returns the number of requests being scored."""

    def __init__(self, in_flight):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor seconds, open files
        labels = ("method", "route", "status")
        self._requests = Counter("aasist_requests", "Requests answered.", labels, registry=self.registry)
        self._seconds = Histogram(
            "aasist_request_seconds", "From a request's headers to the end of its answer.", ("route",),
            buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._audio = Counter("aasist_audio_seconds", "Seconds of recordings scored.", registry=self.registry)
        self._refused = Counter("aasist_rejected", "Requests and files refused.", ("reason",), registry=self.registry)
        gauge = Gauge("aasist_in_flight", "Requests being read or scored.", registry=self.registry)
        gauge.set_function(in_flight)

    @staticmethod
    def method(name: str) -> str:
        """Map unknown methods to "other", so that clients cannot create labels."""
        return name if name in METHODS else "other"

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a finished request, of a `method` mapped by `Metrics.method`; status 0: the client went away."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a request or file that was refused."""
        self._refused.labels(reason).inc()

    def scored(self, seconds: float) -> None:
        """Count a scored recording."""
        self._audio.inc(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)
