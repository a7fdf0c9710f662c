"""Memory is flat (P10): neither the size of an object nor that of a line counts."""

from __future__ import annotations

import tracemalloc

from common.model.imports import ImportState
from common.model.sources import SourceRef
from tests.stage import Stage
from tests.stores.faulty_s3 import Answer, serving
from workers.imports.load import load_chunk
from workers.imports.plan import plan_import

MIB = 1024 * 1024


def test_an_endless_line_is_one_reject_and_little_memory(stage: Stage) -> None:
    """A gigabyte without a line end, in chunks of 64 MiB; made as it is asked for."""
    size, head = 1024 * MIB, b'{"$unique_id":"a"}\n{"$unique_id":"'

    def script(method: str, first: int, last: int) -> Answer:
        if method == "HEAD":
            return Answer(200, b"", {"ETag": '"v1"', "Content-Length": str(size)})
        last = min(last, size - 1)
        body = (head + b"x" * MIB)[first : last + 1] if first < len(head) else b""
        body += b"x" * (last + 1 - first - len(body))
        return Answer(206, body, {"ETag": '"v1"', "Content-Range": f"bytes {first}-{last}/{size}"})

    with serving(script) as (endpoint, seen):
        stage.runtime = stage.worker(s3_endpoint_url=endpoint, chunk_bytes=64 * MIB, max_line_bytes=MIB)
        import_id = stage.start(SourceRef("bucket", "endless"))
        plan_import(stage.runtime, import_id)
        chunk_ids = stage.chunk_ids(import_id)
        tracemalloc.start()
        load_chunk(stage.runtime, chunk_ids[1])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        for chunk_id in (chunk_ids[0], *chunk_ids[2:4]):
            load_chunk(stage.runtime, chunk_id)

    counts = stage.status(import_id).progress.counts
    assert len(chunk_ids) == 16
    assert (counts.lines, counts.imported, counts.rejected) == (2, 1, 1)
    assert peak < 3 * 64 * MIB, "the stub itself makes each body of 64 MiB whole, once or twice"
    assert stage.status(import_id).state is ImportState.RUNNING
    assert max(int(line.split()[2].split("-")[1]) for line in seen[-1:]) <= 4 * 64 * MIB + MIB, "read past its end"
    stage.desk.cancel_import(stage.caller, import_id)
