"""What somebody who uses dlt writes. Runs in dlt's own environment and knows nothing of Penstock.

The fastest of the forms tried that stores every id once (100,000 events, by itself): id, time and the line as text,
through CSV files, 19.7 k/s; the line as JSON column 16.8 k/s; dlt's own INSERT files 16.1 k/s; two processes made no
difference. ``append`` measured no better (18.8 k/s) and stores repeated ids twice.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from itertools import islice

import dlt
import orjson


def rows(url: str, lines: int) -> Iterator[list[dict[str, str]]]:
    """Yield batches of rows."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url) as answer:
        left = islice(answer, lines)
        while batch := [row(line) for line in islice(left, 5000)]:
            yield batch


def row(line: bytes) -> dict[str, str]:
    """Take the id and the time out of a line."""
    event = orjson.loads(line)
    return {"event_id": event["$unique_id"], "time": event["$time"], "payload": line.decode()}


def main() -> None:
    """Load what standard input names."""
    asked = json.load(sys.stdin)
    begun = time.monotonic()
    resource = dlt.resource(
        rows(asked["url"], asked["lines"]),
        name="events",
        primary_key="event_id",
        write_disposition="merge",
        columns={"time": {"data_type": "timestamp"}, "payload": {"data_type": "text"}},
    )
    with tempfile.TemporaryDirectory() as folder:
        destination = dlt.destinations.postgres(asked["databaseUrl"])
        pipeline = dlt.pipeline("bench", destination=destination, dataset_name="bench_dlt", pipelines_dir=folder)
        pipeline.run(resource, loader_file_format="csv")
    print(json.dumps({"seconds": time.monotonic() - begun, "version": dlt.__version__}))


if __name__ == "__main__":
    main()
