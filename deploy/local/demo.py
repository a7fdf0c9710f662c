"""
``python3 run.py demo``: import a large file with good and bad lines of every kind, and check what came of it.

The file comes from `generator`, which knows of each line what it must come to. It is uploaded to the
stack's S3, imported over HTTP with the request of Connect's own documentation, and followed as a caller
would follow it. The collection is exported to S3 again. Then the receipt, the whole table, row for row, and the
lines of the export are held against the generator's second pass. No more than a few parts of the file are in
memory at a time. Ends with 0 only if all is equal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.message import Message
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, cast

import psycopg2
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError
from psycopg2 import sql
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from deploy.local import up
from deploy.local.family import StartFailed
from deploy.local.finding import NotFound
from deploy.local.generator import FEWEST_EVENTS, MAX_LINE, EventFile, EventStream, Receipt
from deploy.local.servers import Servers
from deploy.local.service import Service, create_bucket, s3_client

BUCKET = "penstock-demo"
PART_BYTES = 8 * 1024 * 1024
POLL_SECONDS = 0.2
#: Where output is no terminal, a line this often takes the place of the bar.
LINE_SECONDS = 2.0
#: An import that has not moved for so long will not move any more.
STALL_SECONDS = 60.0
#: Differences of one check that are told; all are counted.
SHOWN = 5
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

console = Console(highlight=False)


class Failed(Exception):
    """The demo cannot go on, or what it found is not what it expected."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo; 0 if all is equal, 1 if anything is not, 130 when a signal stopped it."""
    asked = parse(argv)
    for number in up.STOP_SIGNALS:
        signal.signal(number, up.stop_once)
    try:
        run(asked.events, asked.workers, keep=asked.keep)
    except up.Stopped:
        up.say("The demo was stopped.")
        return 130
    except (NotFound, StartFailed) as failure:
        up.say(f"Penstock did not start: {failure}", to=sys.stderr)
        return 1
    except Failed as failure:
        up.say(f"The demo failed: {failure}", to=sys.stderr)
        return 1
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    description = "Start everything, import a large file, check every row, and stop."
    parser = argparse.ArgumentParser(prog="run.py demo", description=description)
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N", help="events (default: 1000000)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes (default: 2)")
    parser.add_argument("--keep", action="store_true", help="leave the stack up afterwards, until Ctrl-C")
    asked = parser.parse_args(argv)
    if asked.events < FEWEST_EVENTS:
        parser.error(f"--events must be {FEWEST_EVENTS} or more, so that there is an event of every kind")
    if asked.workers < 1:
        parser.error("--workers must be 1 or more")
    return asked


def run(events: int, workers: int, *, keep: bool) -> None:
    """Start, import, check, stop. Raises `Failed` where anything differs."""
    begun = time.monotonic()
    # The one setting that decides about a line, so it has to be the generator's.
    settings = {"PENSTOCK_MAX_LINE_BYTES": str(MAX_LINE)}
    with up.only_one() if keep else contextlib.nullcontext(), log_folder(keep=keep) as logs:
        with (
            Servers.start(announce=up.say) as servers,
            Service.start(servers, logs=logs, workers=workers, flower=keep, settings=settings) as service,
        ):
            up.say(f"Penstock  API and {workers} workers, {time.monotonic() - begun:.1f} s after the start\n")
            differing = import_and_check(servers, service, EventFile(events))
            if keep:
                # The demo then ends as it would have ended without.
                with contextlib.suppress(up.Stopped):
                    up.stay(servers, service)
        if differing:
            raise Failed(differing)
    if not keep:
        up.say(f"\nEverything is as expected; {time.monotonic() - begun:.1f} s in all, with starting and stopping.")


@contextlib.contextmanager
def log_folder(*, keep: bool) -> Iterator[Path]:
    """Give a folder for the service's logs: that of ``up``, or one that only a failure leaves behind."""
    folder = up.LOGS if keep else up.STATE / f"demo-{os.getpid()}"
    for old in folder.glob("*.log"):
        old.unlink()
    with contextlib.ExitStack() as undo:
        if not keep:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            yield folder
        except (Failed, StartFailed):
            undo.pop_all()
            up.say(f"The logs of the service's processes are in {folder}.", to=sys.stderr)
            raise


def import_and_check(servers: Servers, service: Service, file: EventFile) -> str | None:
    """Upload the file, import it, print what came of it; return what is wrong with that, or None."""
    # A collection of its own: a database that the environment gave may hold those of earlier demos.
    collection = f"demo-{secrets.token_hex(3)}"
    url, receipt = upload(servers, f"{collection}.ndjson", file)
    client = Client(service)
    location = start_import(client, servers, collection, url)
    status = follow(client, location, service)
    if status["status"] != "complete":
        return f"the import ended as {status['status']}: {status['error']}"
    print_speed(status, file.events)
    exported = export(client, servers, collection, service)
    if exported["status"] != "completed":
        return f"the export ended as {exported['status']}: {exported['error']}"
    print_export(exported)
    with console.status("Holding every row of the table and every line of the export against the file ..."):
        checks, stored = check_receipt(client, location, status, receipt), Bag()
        checks.append(check_table(servers.database_url, location, status, file, stored))
        checks.append(check_export(servers, exported, stored))
    print_checks(checks)
    wrong = [check.name for check in checks if not check.is_equal]
    return f"not as expected: {'; '.join(wrong)}." if wrong else None


# --- the file and its import


def upload(servers: Servers, key: str, file: EventFile) -> tuple[str, Receipt]:
    """Make the file while it is sent, part by part; return where it is and what it must come to."""
    begun = time.monotonic()
    client = s3_client(servers)
    create_bucket(client, BUCKET)
    stream = EventStream(file)
    url = f"s3://{BUCKET}/{key}"
    try:
        with console.status(f"Making {url} ..."):
            parts = TransferConfig(multipart_chunksize=PART_BYTES, max_concurrency=2)
            client.upload_fileobj(cast("BinaryIO", stream), BUCKET, key, Config=parts)
    except (BotoCoreError, ClientError, S3UploadFailedError) as error:
        raise Failed(f"{url} could not be uploaded: {error}") from error
    finally:
        client.close()
    receipt, seconds = stream.receipt, time.monotonic() - begun
    up.say(f"{url}: {receipt.lines:,} lines, {receipt.size / 1e6:,.1f} MB, made and uploaded in {seconds:.1f} s")
    return url, receipt


class Client:
    """Speaks HTTP as callers of the service do, on Connect's wire and the native one."""

    def __init__(self, service: Service) -> None:
        """Take the service; its own project and key are used."""
        self.api = service.api
        # A proxy of the environment would look for 127.0.0.1 at itself.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._headers = {
            "X-Project-Id": service.project.id,
            "X-API-Key": service.api_key,
            "Authorization": f"Bearer {service.api_key}",
            "Content-Type": "application/json",
        }

    def get(self, url: str) -> dict[str, Any]:
        """Return the document that is there. Raises `Failed` where there is none."""
        document: dict[str, Any] = json.loads(self._call("GET", url)[1])
        return document

    def post(self, url: str, document: dict[str, Any]) -> str:
        """Send a document and return the answer's Location. Raises `Failed` where it is not taken."""
        headers, _ = self._call("POST", url, json.dumps(document).encode())
        return str(headers["Location"])

    def _call(self, method: str, url: str, body: bytes | None = None) -> tuple[Message, bytes]:
        request = urllib.request.Request(url, body, self._headers, method=method)  # noqa: S310 -- http, our own
        try:
            with self._opener.open(request, timeout=30) as answer:
                return answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            text = error.read(2000).decode(errors="replace")
            raise Failed(f"{method} {url} was answered with {error.code}: {text}") from None
        except OSError as error:
            raise Failed(f"{method} {url} was not answered: {error}") from None


def start_import(client: Client, servers: Servers, collection: str, url: str) -> str:
    """Send the request of Connect's documentation; return the address at which to watch the import."""
    asked = {
        "collection": collection,
        "s3Path": url,
        "s3AccessKeyId": servers.s3_access_key_id,
        "s3SecretAccessKey": servers.s3_secret_access_key,
    }
    location = client.post(f"{client.api}/event-import", asked)
    up.say(f"POST /event-import: 201 Created, Location: {location}")
    return location


# --- watching it


def follow(client: Client, location: str, service: Service) -> dict[str, Any]:
    """Show how the import goes until it has ended; return its last status. Raises `Failed` if it stands still."""
    begun = moved = time.monotonic()
    last: tuple[str, float] | None = None
    with Bar() if console.is_terminal else Lines() as view:
        while True:
            status, now = client.get(location), time.monotonic()
            ended = status["status"] in ("complete", "failed")
            view.show(status["percentComplete"], tell(status, now - begun), ended=ended)
            if ended:
                return status
            if (state := (status["status"], status["percentComplete"])) != last:
                last, moved = state, now
            elif now - moved > STALL_SECONDS:
                raise Failed(f"the import has been {state[0]} at {state[1]} % for {STALL_SECONDS:.0f} s.")
            service.watch()
            time.sleep(POLL_SECONDS)


def tell(status: dict[str, Any], elapsed: float) -> str:
    """Say in a few words how the import goes."""
    percent, rate = status["percentComplete"], int(status["insertRate"].removesuffix("/s"))
    left = f"{elapsed * (100 - percent) / percent:.0f} s left" if percent else "waiting"
    left = left if percent < 100 else "done"
    duplicates, errors = status["duplicateEvents"], len(status["eventErrors"])
    return f"{rate:>7,} events/s  {left:>9}  {duplicates:,} duplicates  {errors} errors"


class Bar:
    """A live bar, for a terminal."""

    def __init__(self) -> None:
        """Show nothing before ``with``."""
        columns = (BarColumn(bar_width=None), TextColumn("{task.percentage:>5.1f} %  {task.description}"))
        self._progress = Progress(*columns, console=console, expand=True)
        self._task = self._progress.add_task("", total=100)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, percent: float, words: str, *, ended: bool) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=percent, description=words, refresh=ended)


class Lines:
    """A line now and then, for a pipe or a file."""

    def __init__(self) -> None:
        """Say nothing in the first moments."""
        self._due = time.monotonic() + LINE_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, percent: float, words: str, *, ended: bool) -> None:
        """Print a line if it is time for one, or the last."""
        if ended or time.monotonic() >= self._due:
            up.say(f"{percent:>5.1f} %  {words}")
            self._due = time.monotonic() + LINE_SECONDS


def print_speed(status: dict[str, Any], events: int) -> None:
    """Say how long the import took by the service's own clock."""
    seconds = _seconds(status["started"], status["finished"])
    up.say(f"Imported in {seconds:.1f} s: {events / seconds:,.0f} events/s")


# --- its export


def export(client: Client, servers: Servers, collection: str, service: Service) -> dict[str, Any]:
    """Export the collection to S3, and return its last status. Raises `Failed` if it does not end."""
    destination = {
        "url": f"s3://{BUCKET}/{collection}/",
        "accessKeyId": servers.s3_access_key_id,
        "secretAccessKey": servers.s3_secret_access_key,
    }
    asked = {"collection": collection, "destination": destination, "compression": "gzip"}
    begun, location = time.monotonic(), client.post(f"{client.api}/api/exports", asked)
    with console.status(f"Exporting to {destination['url']} ..."):
        while (status := client.get(location))["finishedAt"] is None:
            if time.monotonic() - begun > STALL_SECONDS:
                raise Failed(f"the export has not ended after {STALL_SECONDS:.0f} s: {status['progress']}.")
            service.watch()
            time.sleep(POLL_SECONDS)
    return status


def print_export(status: dict[str, Any]) -> None:
    """Say how long the export took by the service's own clock."""
    seconds = _seconds(status["startedAt"], status["finishedAt"])
    (written,) = status["objects"]
    up.say(
        f"Exported in {seconds:.1f} s: {written['events'] / seconds:,.0f} events/s, {written['bytes'] / 1e6:,.1f} MB of"
        f" gzip at s3://{BUCKET}/{written['key']}"
    )


def _seconds(started: str, finished: str) -> float:
    return max((datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds(), 0.001)


# --- checking it


class Check(NamedTuple):
    """One thing that was looked at: how much of it was expected and found, and where the two differ."""

    name: str
    expected: int
    found: int
    #: How many; of many only the first are told.
    differing: int = 0
    differences: Sequence[str] = ()

    @property
    def is_equal(self) -> bool:
        """Return whether it is what it should be."""
        return self.expected == self.found and not self.differing


def check_receipt(client: Client, location: str, status: dict[str, Any], receipt: Receipt) -> list[Check]:
    """Hold the counts and the errors of both wires against what the file must come to."""
    native = f"{client.api}/api/imports/{import_id(location)}"
    counts = client.get(native)["counts"]
    texts = [{"index": bad.line, "error": bad.code.sentence} for bad in receipt.rejects]
    places = [
        {"index": bad.line, "byteOffset": bad.offset, "length": bad.length, "code": bad.code.value}
        for bad in receipt.rejects
    ]
    listed = client.get(f"{native}/errors?limit=1000")["items"]
    found_places = [{name: error[name] for name in ("index", "byteOffset", "length", "code")} for error in listed]
    return [
        Check("lines", receipt.lines, counts["lines"]),
        Check("blank lines", receipt.blank, counts["blank"]),
        Check("imported events", receipt.stored, status["importedEvents"]),
        Check("duplicate events", receipt.duplicates, status["duplicateEvents"]),
        Check("rejected lines", len(receipt.rejects), counts["rejected"]),
        compare_lists("  index and text of each", texts, status["eventErrors"]),
        compare_lists("  place, length and code of each", places, found_places),
    ]


def compare_lists(name: str, expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> Check:
    """Hold one short list against another, member by member."""
    differences = [f"expected {one}, found {other}" for one, other in zip_longest(expected, found) if one != other]
    return Check(name, len(expected), len(found), len(differences), differences[:SHOWN])


class Bag:
    """Lines in no order: their number, and the sum of their hashes, which have a key that each process draws anew.

    Of two bags that hold other lines the sums are the same once in 2**64 times.
    """

    def __init__(self) -> None:
        """Hold nothing."""
        self.count = 0
        self.total = 0

    def add(self, lines: Sequence[bytes]) -> None:
        """Take lines without their ends."""
        self.count += len(lines)
        self.total += sum(map(hash, lines))


def check_export(servers: Servers, status: dict[str, Any], stored: Bag) -> Check:
    """Hold the lines of the export against those that were stored."""
    found = Bag()
    client = s3_client(servers)
    try:
        for written in status["objects"]:
            _read_lines(client.get_object(Bucket=BUCKET, Key=written["key"])["Body"].iter_chunks(PART_BYTES), found)
    except (BotoCoreError, ClientError, zlib.error) as error:
        raise Failed(f"the export could not be read: {error}") from error
    finally:
        client.close()
    same = (found.count, found.total) == (stored.count, stored.total)
    differences = () if same else ("the lines of the export are others than those that were stored",)
    return Check("exported lines, every byte", stored.count, found.count, len(differences), differences)


def _read_lines(compressed: Iterator[bytes], bag: Bag) -> None:
    unpack, rest = zlib.decompressobj(wbits=31), b""
    for piece in compressed:
        *lines, rest = (rest + unpack.decompress(piece)).split(b"\n")
        bag.add(lines)
    if rest or not unpack.eof:
        raise Failed("the export ends in the middle of a line.")


def check_table(database_url: str, location: str, status: dict[str, Any], file: EventFile, stored: Bag) -> Check:
    """Hold the whole collection, in the order of the file, against the generator's second pass; fill ``stored``."""
    try:
        # Memory for sorting: the rows are stored by id, and what does not fit is sorted on disk.
        options = "-c work_mem=64MB -c statement_timeout=120s"
        connection = psycopg2.connect(database_url, options=options, client_encoding="UTF8")
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(_IMPORT, {"id": import_id(location)})
            collection_id, created = cursor.fetchone() or (0, 0)
            compared = Comparison(copy_lines(file, created, stored))
            cursor.copy_expert(_ROWS.format(sql.Literal(collection_id)), compared)
            compared.finish()
    except psycopg2.Error as error:
        raise Failed(f"the table could not be read: {error}") from error
    if (told := microseconds(datetime.fromisoformat(status["created"]))) != created // 1000 * 1000:
        compared.note(f"lines without a time have {show_time(created)}, but the import says {show_time(told)}")
    return Check(
        "rows: place, time, every byte", compared.expected, compared.found, compared.differing, compared.differences
    )


_IMPORT = "SELECT collection_id, (extract(epoch FROM created_at) * 1000000)::bigint FROM imports WHERE id = %(id)s"
_ROWS = sql.SQL(
    "COPY (SELECT byte_offset, (extract(epoch FROM time) * 1000000)::bigint, payload FROM events"
    " WHERE collection_id = {} ORDER BY import_number, source_ordinal, byte_offset) TO STDOUT"
)


def copy_lines(file: EventFile, created: int, stored: Bag) -> Iterator[bytes]:
    """Yield the rows that must be there as COPY writes them, so that a row costs one comparison and no parsing.

    Their payloads go into ``stored``.
    """
    for offset, micros, payload in file.rows():
        stored.add((payload,))
        text = payload.replace(b"\\", b"\\\\").replace(b"\t", b"\\t")
        yield b"%d\t%d\t%b\n" % (offset, created if micros is None else micros, text)


class Comparison:
    """Takes a table's rows in order, as COPY sends them, and holds each against the next that is expected."""

    def __init__(self, expected: Iterator[bytes]) -> None:
        """Take the rows that must be there, in order."""
        self.expected = 0
        self.found = 0
        self.differing = 0
        self.differences: list[str] = []
        self._rows = expected
        self._next: bytes | None = None
        self._advance()

    def write(self, row: bytes) -> None:
        """Take one row: psycopg2 hands over what Postgres sends, and that is one row a message."""
        self.found += 1
        if row != self._next:
            self._skip_missing(_place(row))
            if self._next is None or _place(row) < _place(self._next):
                self.note(f"a row that should not be there, {_show(row)}")
                return
            if row != self._next:
                self.note(_tell_apart(self._next, row))
        self._advance()

    def finish(self) -> None:
        """Note what is still expected after the last row."""
        while self._next is not None:
            self._skip_missing(_place(self._next) + 1)

    def note(self, difference: str) -> None:
        """Count a difference, and keep it if it is one of the first."""
        self.differing += 1
        if len(self.differences) < SHOWN:
            self.differences.append(difference)

    def _skip_missing(self, place: int) -> None:
        while self._next is not None and _place(self._next) < place:
            self.note(f"no row of {_show(self._next)}")
            self._advance()

    def _advance(self) -> None:
        self._next = next(self._rows, None)
        self.expected += self._next is not None


def _place(row: bytes) -> int:
    return int(row[: row.index(b"\t")])


def _show(row: bytes) -> str:
    place, _, payload = row.rstrip(b"\n").split(b"\t", 2)
    return f"byte {int(place):,}: {payload[:100].decode(errors='replace')} ..."


def _tell_apart(expected: bytes, found: bytes) -> str:
    """Say how two rows of one place differ."""
    place, expected_time, expected_payload = expected.split(b"\t", 2)
    _, found_time, found_payload = found.split(b"\t", 2)
    if expected_time != found_time:
        times = f"{show_time(int(expected_time))}, found {show_time(int(found_time))}"
        return f"byte {int(place):,}: expected the time {times}"
    pairs = zip_longest(expected_payload, found_payload)
    at = next(at for at, (one, other) in enumerate(pairs) if one != other)
    texts = f"{expected_payload[at : at + 40]!r}, found {found_payload[at : at + 40]!r}"
    return f"byte {int(place):,}: at byte {at} of the row expected {texts}"


def microseconds(time: datetime) -> int:
    """Return a time in microseconds since 1970."""
    return (time - EPOCH) // timedelta(microseconds=1)


def show_time(micros: int) -> str:
    """Return a time for people."""
    return (EPOCH + timedelta(microseconds=micros)).isoformat()


def import_id(location: str) -> str:
    """Return the import's id, which both wires call it by."""
    return location.rpartition("/")[2]


def print_checks(checks: list[Check]) -> None:
    """Print what was checked, and below it the first differences of each check."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("Checked")
    for title in ("expected", "found"):
        table.add_column(title, justify="right")
    table.add_column("")
    for check in checks:
        verdict = "[green]ok[/]" if check.is_equal else "[red]DIFFERENT[/]"
        table.add_row(check.name, f"{check.expected:,}", f"{check.found:,}", verdict)
    console.print()
    console.print(table)
    for check in checks:
        for difference in check.differences:
            up.say(f"  {difference}")
        if check.differing > len(check.differences):
            up.say(f"  ... and {check.differing - len(check.differences):,} more")


if __name__ == "__main__":
    sys.exit(main())
