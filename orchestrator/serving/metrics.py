"""What the gateway measures, in the text format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from orchestrator.serving.exchange import Ended

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SHARES = tuple(tenth / 10 for tenth in range(1, 11))
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one gateway."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "gammaray_requests",
            "Chat completions by HTTP status; 499: the client went away",
            ["status"],
            registry=registry,
        )
        self._tokens = Counter(
            "gammaray_tokens", "Tokens read and generated", ["kind"], registry=registry
        )
        self.first_token = Histogram(
            "gammaray_time_to_first_token_seconds",
            "From the arrival of a request to the first text of its answer",
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "gammaray_batch_size",
            "Prompts in the batch that a request was answered in",
            buckets=_SIZES,
            registry=registry,
        )
        self._skip = Histogram(
            "gammaray_skip",
            "Measured share of a prompt's tokens that Mixture-of-Depths layers skipped",
            buckets=_SHARES,
            registry=registry,
        )
        self.waiting = Gauge(
            "gammaray_requests_waiting", "Requests whose batch has not begun", registry=registry
        )
        self.running = Gauge(
            "gammaray_requests_running", "Requests that are being answered", registry=registry
        )

    def answered(self, status: int) -> None:
        """Count a request."""
        self._requests.labels(str(status)).inc()

    def ended(self, ended: Ended) -> None:
        """Count what an answer took."""
        self._tokens.labels("prompt").inc(ended.prompt_tokens)
        self._tokens.labels("completion").inc(ended.completion_tokens)
        if ended.skip is not None:
            self._skip.observe(ended.skip)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
