"""What a reference names, on servers: their listings show what their objects do, and what they refuse is told."""

from __future__ import annotations

import bz2
import gzip
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import boto3
import pytest

from common import objects
from common.errors import Terminal, Transient
from common.model.formats import Format
from common.model.imports import Credentials
from common.model.sources import Source, SourceKind, SourceRef
from common.objects import Objects
from deploy.local.servers import Servers
from tests.stores.faulty_s3 import Answer, serving
from workers.imports.finding import find_sources
from workers.imports.sniffing import sniff_compression

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BUCKET = "found"
KEYS = [
    "in/Z.json",
    "in/a b+c%20&<>'\".json",
    "in/a.json",
    "in/sub/b.csv.gz",
    "in/ü.json",
    "in/日本",
    "in/\uffee",
    "in/\U0001f600",
]


def connect(endpoint: str) -> Objects:
    return objects.connect(
        Credentials("caller", "secret"),
        region="us-east-1",
        endpoint_url=endpoint,
        addressing="path",
        checksums="when_required",
        timeout=5,
    )


@pytest.fixture(scope="module")
def localbucket(servers: Servers) -> Iterator[str]:
    server = servers.another_s3("localbucket")
    yield server.endpoint
    server.stop()


@pytest.fixture(params=["moto", "localbucket"])
def store(request: pytest.FixtureRequest, servers: Servers, localbucket: str) -> Iterator[tuple[Objects, Any]]:
    """Our side and the caller's of a bucket with odd keys, one of them uploaded in parts."""
    endpoint = servers.s3_endpoint if request.param == "moto" else localbucket
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET)
    for key in KEYS:
        client.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    parts = client.create_multipart_upload(Bucket=BUCKET, Key="in/parts")
    part = client.upload_part(Bucket=BUCKET, Key="in/parts", PartNumber=1, UploadId=parts["UploadId"], Body=b"x" * 999)
    client.complete_multipart_upload(
        Bucket=BUCKET,
        Key="in/parts",
        UploadId=parts["UploadId"],
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    ours = connect(endpoint)
    yield ours, client
    ours.close()
    client.close()


def test_a_listing_pins_what_asking_for_each_object_does(
    store: tuple[Objects, Any],
) -> None:
    ours, _ = store
    listed = find_sources(ours, SourceRef(BUCKET, "in/", kind=SourceKind.PREFIX), most=100)

    assert [source.key for source in listed] == sorted([*KEYS, "in/parts"], key=str.encode)
    assert listed == [ours.pin(SourceRef(BUCKET, source.key)) for source in listed]
    for source in listed:
        assert len(b"".join(ours.read_from(source, 0, source.size))) == source.size


def test_a_listing_goes_on_over_pages(store: tuple[Objects, Any]) -> None:
    ours, _ = store
    ours.client.meta.events.register(
        "provide-client-params.s3.ListObjectsV2", lambda params, **_: {**params, "MaxKeys": 2}
    )
    heard: list[None] = []
    ref = SourceRef(BUCKET, "in/*", kind=SourceKind.GLOB)
    found = find_sources(ours, ref, most=100, advance=lambda: heard.append(None))

    assert [source.key for source in found] == sorted(
        [key for key in [*KEYS, "in/parts"] if "sub/" not in key], key=str.encode
    )
    assert len(heard) == 5


@pytest.mark.parametrize("suffix", ["", ".gz", ".ZST"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, zstd.compress])
def test_a_list_of_keys_is_read_from_its_object_as_its_bytes_say_and_not_its_name(
    store: tuple[Objects, Any], compress: Callable[[bytes], bytes], suffix: str
) -> None:
    ours, client = store
    text = "# all of them\n" + "\n".join(reversed(KEYS)) + f"\ns3://{BUCKET}/in/parts\n"
    key = f"lists/keys ?versionId=1.txt{suffix}"
    client.put_object(Bucket=BUCKET, Key=key, Body=compress(text.encode()))
    found = find_sources(ours, SourceRef(BUCKET, key, kind=SourceKind.MANIFEST), most=100)

    assert [source.key for source in found] == sorted([*KEYS, "in/parts"], key=str.encode)


@pytest.mark.parametrize(
    ("compress", "named"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (zstd.compress, "zstd")]
)
def test_a_list_that_cannot_be_decompressed_is_refused(
    store: tuple[Objects, Any], compress: Callable[[bytes], bytes], named: str
) -> None:
    ours, client = store
    client.put_object(Bucket=BUCKET, Key="lists/broken", Body=compress(b"in/a.json\n" * 99)[:-9])
    with pytest.raises(Terminal) as refused:
        find_sources(ours, SourceRef(BUCKET, "lists/broken", kind=SourceKind.MANIFEST), most=9)
    assert refused.value.code == "source_unreadable"
    assert f"begins as {named} does" in refused.value.public


def test_a_list_that_changes_while_it_is_read_is_refused(store: tuple[Objects, Any]) -> None:
    ours, client = store
    client.put_object(Bucket=BUCKET, Key="lists/moving", Body=b"in/a.json")
    pinned = ours.pin(SourceRef(BUCKET, "lists/moving"))
    client.put_object(Bucket=BUCKET, Key="lists/moving", Body=b"in/Z.json")
    with pytest.raises(Terminal) as refused:
        ours.read_whole(pinned, most=100, sniff=sniff_compression)
    assert refused.value.code == "source_changed"


def test_a_missing_key_of_a_list_is_named_and_a_missing_bucket_too(store: tuple[Objects, Any]) -> None:
    ours, _ = store
    for ref, words in (
        (SourceRef(BUCKET, "", kind=SourceKind.MANIFEST, keys=("in/a.json", "in/nothing")), "'in/nothing'"),
        (SourceRef(BUCKET, "lists/nothing", kind=SourceKind.MANIFEST), "no such"),
        (SourceRef("no-such-bucket", "", kind=SourceKind.PREFIX), "no such bucket in S3"),
        (SourceRef(BUCKET, "nothing/", kind=SourceKind.PREFIX), "'nothing/'"),
    ):
        with pytest.raises(Terminal) as refused:
            find_sources(ours, ref, most=9)
        assert refused.value.code == "source_not_found"
        assert words in refused.value.public


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_FIRST_PAUSE", 0.001)


NEXT = b"<NextContinuationToken>t</NextContinuationToken>"
PAGE = b"<ListBucketResult><IsTruncated>true</IsTruncated>" + NEXT + b"</ListBucketResult>"


@pytest.mark.parametrize(
    ("answer", "code", "requests"),
    [
        (
            Answer(403, b"<Error><Code>AccessDenied</Code><Message>AKIACANARY</Message></Error>"),
            "source_access_denied",
            1,
        ),
        (Answer(404, b"<Error><Code>NoSuchBucket</Code></Error>"), "source_not_found", 1),
        (Answer(301, headers={"Location": "http://127.0.0.1:1/elsewhere"}), "source_wrong_region", 1),
        (Answer(307, headers={"Location": "http://169.254.169.254/latest"}), "source_wrong_region", 1),
        (Answer(503, b"<Error><Code>SlowDown</Code></Error>"), "unavailable", 5),
        (Answer(200, PAGE), "unavailable", 2),
        (Answer(200, PAGE.replace(NEXT, b"")), "unavailable", 1),
        (Answer(200, b"<ListBucketResult>"), "unavailable", 5),
    ],
    ids=["403", "404", "301", "307", "503", "a page that follows itself", "no next page", "no XML"],
)
def test_what_a_server_does_instead_of_listing_is_told_and_followed_nowhere(
    answer: Answer, code: str, requests: int
) -> None:
    with serving(lambda *_: answer) as (endpoint, seen), pytest.raises((Terminal, Transient)) as refused:
        find_sources(connect(endpoint), SourceRef("bucket", "p/", kind=SourceKind.PREFIX), most=9)

    assert refused.value.code == code
    assert "AKIA" not in refused.value.public + str(refused.value)
    assert ("s3:ListBucket" in refused.value.public) == (code == "source_access_denied")
    assert len(seen) == requests
    assert all(line.startswith("GET /bucket?") for line in seen)


def test_a_key_goes_into_the_path_of_the_server_of_the_settings_whatever_it_looks_like() -> None:
    head = Answer(200, b"", {"ETag": '"v1"', "Content-Length": "5"})
    odd = [
        "@evil.example/x",
        "http://evil.example/",
        "//evil.example",
        "a?versionId=1",
        "a#b",
        "a%2f..%2fb",
        ":80/a",
        "a\\b",
    ]
    with serving(lambda *_: head) as (endpoint, seen):
        ours = connect(endpoint)
        for key in odd:
            assert ours.pin(SourceRef("bucket", key)) == Source("bucket", key, "us-east-1", 5, '"v1"')
        ours.close()

    assert len(seen) == len(odd)
    assert all(line.startswith("HEAD /bucket/") and "?" not in line for line in seen)


def test_a_reference_that_may_be_either_is_the_object_of_its_key_and_without_one_all_that_begin_with_it(
    store: tuple[Objects, Any],
) -> None:
    ours, client = store
    for key in ("either/a.json", "either/a.json.csv", "either/b/c.csv"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"1")

    def find(key: str, declared: Format | None = None) -> list[str]:
        ref = SourceRef(BUCKET, key, kind=SourceKind.OBJECT_OR_PREFIX)
        return [source.key for source in find_sources(ours, ref, most=100, declared=declared)]

    assert find("either/a.json") == ["either/a.json"], "others begin with it too"
    assert find("either/a.json", Format.CSV) == ["either/a.json"], "named, it is taken whatever its name says"
    assert find("either/a") == ["either/a.json", "either/a.json.csv"]
    assert find("either/", Format.CSV) == ["either/a.json.csv", "either/b/c.csv"]
    assert find("either/b/") == ["either/b/c.csv"]
    with pytest.raises(Terminal, match="begins with the prefix"):
        find("nothing/of/it")
