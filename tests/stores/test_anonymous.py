"""Objects that everybody may read are asked for without a signature, and only where nobody ever sent keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from common.errors import Refusal, Terminal
from common.ledger import imports
from common.model.imports import Credentials, ImportState
from common.model.sources import SourceKind, SourceRef
from common.settings import Settings
from tests.failing_s3 import FailingS3
from tests.stage import Stage, event, ndjson

BODY = ndjson(*(event(f"id-{n}") for n in range(4)))


@pytest.fixture
def front(stage: Stage) -> Iterator[FailingS3]:
    """A server before S3 that sees what is signed; the stage's workers are behind it."""
    with FailingS3(stage.settings.s3_endpoint_url) as proxy:
        stage.runtime.settings = replace(stage.settings, s3_endpoint_url=proxy.endpoint)
        yield proxy


def put(stage: Stage) -> SourceRef:
    """Store an object that everybody may read."""
    ref = stage.put(BODY)
    stage.s3.put_object_acl(Bucket=ref.bucket, Key=ref.key, ACL="public-read")
    return replace(ref, anonymous=True)


def test_an_import_without_keys_signs_nothing(stage: Stage, front: FailingS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-machine")
    status = stage.run(put(stage), credentials=None)

    assert status.state is ImportState.COMPLETED
    assert status.progress.counts.imported == 4
    assert len(front.signatures) >= 3
    assert set(front.signatures) == {None}


def test_a_prefix_is_listed_without_a_signature_too(stage: Stage, front: FailingS3) -> None:
    stage.s3.put_bucket_acl(Bucket=stage.bucket, ACL="public-read")
    status = stage.run(replace(put(stage), kind=SourceKind.PREFIX), credentials=None)
    stage.s3.put_bucket_acl(Bucket=stage.bucket, ACL="private")

    assert status.progress.counts.imported == 4
    assert set(front.signatures) == {None}


def test_what_not_everybody_may_read_fails_with_a_reason(stage: Stage, front: FailingS3) -> None:
    status = stage.run(replace(stage.put(BODY), anonymous=True), credentials=None)

    assert status.error is not None
    assert (status.state, status.error.code) == (ImportState.FAILED, "source_access_denied")
    assert "missing" in status.error.message


def test_who_sends_keys_is_never_answered_as_everybody_is(stage: Stage, front: FailingS3) -> None:
    status = stage.run(put(stage))

    assert status.state is ImportState.COMPLETED
    assert all(signature and "Credential=caller-key/" in signature for signature in front.signatures)


def test_nor_once_the_keys_are_gone(stage: Stage, front: FailingS3) -> None:
    import_id = stage.start(put(stage))
    stage.query("DELETE FROM import_secrets WHERE import_id = %(id)s RETURNING 1", id=import_id)
    with stage.runtime.database.transaction() as tx:
        job = imports.read_import(tx, import_id)
    with pytest.raises(Terminal) as caught:
        stage.runtime.objects_of(job)

    assert caught.value.code == "credentials_expired"
    assert front.signatures == []


def test_our_own_buckets_are_read_with_our_keys(stage: Stage, front: FailingS3, settings: Settings) -> None:
    stage.runtime.settings = replace(stage.runtime.settings, own_buckets=stage.bucket)
    status = stage.run(put(stage), credentials=None)

    assert status.state is ImportState.COMPLETED
    assert all(signature and "Credential=own-key/" in signature for signature in front.signatures)


def test_whoever_neither_sends_keys_nor_asks_for_it_is_refused(stage: Stage) -> None:
    with pytest.raises(Refusal) as caught:
        stage.start(stage.put(BODY), credentials=None)

    assert caught.value.code == "credentials_required"


def test_keys_that_are_empty_are_keys(stage: Stage, front: FailingS3) -> None:
    """Nobody who sent something becomes somebody who sent nothing."""
    stage.run(put(stage), credentials=Credentials("", ""))

    assert None not in front.signatures
