"""Objects that are no imports: the wrong shape, too many bad lines; and objects that are hardly any."""

from __future__ import annotations

import gzip
import json
import zlib
from random import Random

from tests.journeys.audit import audit, audit_complete
from tests.journeys.oracle import Object, make_object
from tests.journeys.stack import Stack

EVENT = b'{"id": "one", "timestamp": "2024-01-01T00:00:00Z"}'


def test_objects_of_the_wrong_shape_fail_before_anything_is_stored(stack: Stack, collection: str) -> None:
    events = [json.loads(EVENT) for _ in range(2_000)]
    contents = {
        "array": json.dumps(events).encode(),
        "printed array": json.dumps(events, indent=2).encode(),
        "gzip": gzip.compress(EVENT * 1_000),
        "zlib": zlib.compress(EVENT * 1_000),
        "binary": Random(141).randbytes(100_000),
        "utf-16": (EVENT + b"\n").decode().encode("utf-16") * 2,
        "parquet": b"PAR1" + bytes(5_000) + b"PAR1",
    }
    started = {name: stack.start(stack.put(content), f"{collection}-{name}") for name, content in contents.items()}
    for import_id in started.values():
        stack.follow(import_id)

    for name, import_id in started.items():
        (found,) = audit(stack, f"{collection}-{name}", (import_id, Object(name, contents[name])))
        native = stack.status(import_id)
        assert (found.state, native["error"]["code"]) == ("failed", "wrong_shape"), name
        assert found.chunks == []
        assert sum(found.counts.values()) == 0
        assert native["progress"]["percent"] == 0


def test_too_many_bad_lines_end_an_import_and_keep_what_was_stored(stack: Stack, collection: str) -> None:
    source = make_object(142, 25_000, bad=0.02)
    import_id = stack.start_native(stack.put(source.content), collection, onError={"maxErrors": 60})
    stack.follow(import_id)

    (found,) = audit(stack, collection, (import_id, source))
    assert (found.state, stack.status(import_id)["error"]["code"]) == ("failed", "too_many_rejects")
    assert 60 < found.counts["rejected"] < len(source.rejects)
    assert found.counts["imported"] > 0


def test_as_many_bad_lines_as_are_allowed_end_nothing(stack: Stack, collection: str) -> None:
    source = make_object(143, 3_000, bad=0.02)
    key = stack.put(source.content)
    allowed = stack.start_native(key, collection, onError={"maxErrors": len(source.rejects)})
    stack.follow(allowed)
    audit_complete(stack, collection, allowed, source)
    too_few = stack.start_native(key, f"{collection}-2", onError={"maxErrors": len(source.rejects) - 1})
    stack.follow(too_few)

    assert stack.status(too_few)["error"]["code"] == "too_many_rejects"
    audit(stack, f"{collection}-2", (too_few, source))


def test_an_empty_object_completes_with_zeros_and_all_of_it(stack: Stack, collection: str) -> None:
    import_id = stack.start(stack.put(b""), collection)
    poll = stack.follow(import_id)

    found = audit_complete(stack, collection, import_id, Object("empty", b""))
    assert (found.state, found.chunks) == ("completed", [])
    assert poll.final["percentComplete"] == 100
    assert (poll.final["importedEvents"], poll.final["duplicateEvents"], poll.final["eventErrors"]) == (0, 0, [])


def test_small_objects_of_every_kind(stack: Stack, collection: str) -> None:
    contents = {
        "a newline": b"\n",
        "blanks": b"\n \n\r\n\t\n",
        "one event": EVENT,
        "one event and a newline": EVENT + b"\n",
        "windows": (EVENT + b"\r\n") * 3,
        "no ids": b'{"a": 1}\n{"a": 1}\n{}',
        "a null id": b'{"id": null, "$unique_id": "x"}\n{"$unique_id": "x"}\n',
        "only bad lines": b"{\n}\n{]\n\nnull",
        "numbers and texts": b'{"id": 1}\n{"id": "1"}\n{"id": 1}\n{"id": "01"}',
        "keys twice": b'{"id": "a", "id": "b"}\n{"id": "b", "id": "a"}\n{"id": "a"}\n{"id": "b"}',
        "upper and lower": (uuid := b'{"id": "6fa459ea-ee8a-4ca4-894e-db77e160355e"}') + b"\n" + uuid.upper().lower()
        + b'\n{"id": "6FA459EA-EE8A-4CA4-894E-DB77E160355E"}',
        "nul": b'{"id": "a\\u0000b"}\n{"id": "a", "text": "\\u0000"}\n{"id": "a\\u0000c"}',
        "one line over several chunks": b'{"id": "long", "text": "' + b"x" * 200_000 + b'"}\n' + EVENT,
    }  # fmt: skip
    # Natively: an event of Connect's has 64 kB at the most, and a chunk here is no smaller.
    started = {name: stack.start_native(stack.put(body), f"{collection}-{name}") for name, body in contents.items()}
    for import_id in started.values():
        stack.follow(import_id)

    for name, import_id in started.items():
        audit_complete(stack, f"{collection}-{name}", import_id, Object(name, contents[name]))
