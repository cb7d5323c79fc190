"""The OpenTelemetry SDK counts and exports to the socket; prints what its exporter thinks of each export.

Counts 1 + 2 + ... + ROUNDS orders, as the SDK does it: cumulative, on several attribute sets, again and
again; and a histogram and a level, which are no usage.
"""

import json
import sys

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from link import session

ROUNDS = 5


class Told(MetricExporter):
    """Passes on, and says what came of it."""

    def __init__(self, inner):
        super().__init__(inner._preferred_temporality, inner._preferred_aggregation)
        self.inner = inner

    def export(self, metrics_data, timeout_millis=10_000, **kwargs):
        result = self.inner.export(metrics_data, timeout_millis, **kwargs)
        print(json.dumps({"success": result is MetricExportResult.SUCCESS}))
        return result

    def force_flush(self, timeout_millis=10_000):
        return self.inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis=30_000, **kwargs):
        self.inner.shutdown(timeout_millis, **kwargs)


def main(path):
    exporter = Told(OTLPMetricExporter(endpoint="http://localhost/v1/metrics", session=session(path)))
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    resource = Resource.create({"service.name": "shop", "service.instance.id": "one"})
    provider = MeterProvider(metric_readers=[reader], resource=resource)
    meter = provider.get_meter("shop")
    orders = meter.create_counter("shop.orders")
    sent = meter.create_counter("shop.sent", unit="By")
    level = meter.create_up_down_counter("shop.open")
    length = meter.create_histogram("shop.length")
    for more in range(1, ROUNDS + 1):
        orders.add(more, {"country": "de" if more % 2 else "fr"})
        sent.add(1_000 * more)
        level.add(1)
        length.record(more)
        provider.force_flush()
    provider.shutdown()


main(sys.argv[1])
