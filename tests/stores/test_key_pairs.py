"""Key pairs: kept sealed, ended at once, noted as used; floods of wrong ones are kept off Postgres."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.callers import ALL_SCOPES, PUSH, QUERY, Caller, create_key
from api.pinpoint.signing import SKEW, Sent, read_claim
from api.signers import ACCESS_KEY_ID, Signers, create_key_pair
from common.errors import Refusal
from common.ledger import key_pairs, projects
from common.ledger.database import Database
from common.live import failures
from common.live.connection import Live
from common.live.failures import Failures
from common.sealing import Sealer
from tests.signed import sign
from tests.stage import Stage

ONE = Sent("GET", "/v1/apps", "page-size=5", {"host": ["events.example.com"]}, b"")
HOME, NEIGHBOUR = "192.0.2.1", "192.0.2.2"


@pytest.fixture(autouse=True)
def a_long_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_SECONDS", 3600)


@pytest.fixture
def signers(stage: Stage) -> Signers:
    return signers_of(stage)


@pytest.fixture
def pair(stage: Stage) -> tuple[str, str]:
    return make_pair(stage)


@pytest.fixture
def no_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Make every further look at the database a mistake of ours."""

    def fail(_: Database) -> None:
        raise AssertionError("Postgres was asked")

    with monkeypatch.context() as patched:
        yield lambda: patched.setattr(Database, "_connection", fail)


def signers_of(stage: Stage, *, redis_url: str = "") -> Signers:
    """Return a process of its own: what another remembers it does not know."""
    live = Live(redis_url or stage.settings.redis_url, timeout_seconds=1.0)
    return Signers(stage.runtime.database, Failures(live, most=100), stage.runtime.sealer)


def make_pair(stage: Stage, scopes: list[str] = ALL_SCOPES, **more: Any) -> tuple[str, str]:
    with stage.runtime.database.transaction() as tx:
        return create_key_pair(tx, stage.runtime.sealer, stage.caller.project_id, scopes, **more)


def ask(signers: Signers, pair: tuple[str, str], *, address: str = HOME, at: datetime | None = None) -> Caller:
    return signers.identify(read_claim(sign(ONE, *pair, at=at)), address=address)


def refused(signers: Signers, pair: tuple[str, str], **more: Any) -> str:
    with pytest.raises(Refusal) as refusal:
        ask(signers, pair, **more)
    return refusal.value.code


def flood(signers: Signers, pairs: Iterator[tuple[str, str]], *, most: int = 200, **more: Any) -> int:
    """Ask until too many have failed, and return how many were refused for themselves before."""
    for n, wrong in zip(range(most), pairs, strict=False):
        if (code := refused(signers, wrong, **more)) == "too_many_failures":
            return n
        assert code == "bad_signature"
    return most


def strangers() -> Iterator[tuple[str, str]]:
    """Yield another access key each time."""
    return ((f"PSAK{n:016d}".translate(str.maketrans("0189", "AIJK")), "secret") for n in range(10**6))


def end(stage: Stage, pair: tuple[str, str]) -> None:
    with stage.runtime.database.transaction() as tx:
        projects.revoke_key(tx, pair[0])


def test_who_signs_is_the_account_of_the_pair(stage: Stage, signers: Signers) -> None:
    pair = make_pair(stage, [PUSH, QUERY])
    caller = ask(signers, pair)

    assert (caller.project_id, caller.key_id) == (stage.caller.project_id, pair[0])
    assert caller.scopes == {PUSH, QUERY}
    assert ACCESS_KEY_ID.fullmatch(pair[0])
    assert len(pair[0]) == 20
    assert len(pair[1]) == 40
    assert make_pair(stage)[1] != pair[1]


def test_every_cause_has_one_refusal(stage: Stage, signers: Signers, pair: tuple[str, str]) -> None:
    expired = make_pair(stage, expires=timedelta(days=1))
    stage.query("UPDATE api_keys SET expires_at = now() WHERE id = %(id)s RETURNING id", id=expired[0])
    revoked = make_pair(stage)
    # As a version of before ends it, which knows of no sealed secrets.
    stage.query("UPDATE api_keys SET revoked_at = now() WHERE id = %(id)s RETURNING id", id=revoked[0])
    texts = set()
    for wrong in (
        expired,
        revoked,
        (pair[0], "x"),
        (revoked[0], pair[1]),
        ("AKIDEXAMPLE", "x"),
        ("PSAK" + "A" * 16, ""),
    ):
        with pytest.raises(Refusal) as refusal:
            ask(signers, wrong)
        assert refusal.value.code == "bad_signature"
        texts.add(refusal.value.public)
    assert len(texts) == 1
    assert ask(signers, pair)


def test_a_revoked_pair_opens_nothing_from_the_next_request_on_and_its_secret_is_gone(
    stage: Stage, signers: Signers, pair: tuple[str, str]
) -> None:
    assert ask(signers, pair)
    end(stage, pair)

    assert refused(signers, pair) == "bad_signature"
    (row,) = stage.query("SELECT sealed FROM key_pairs WHERE id = %(id)s", id=pair[0])
    assert row.sealed is None
    assert flood(signers, iter([pair] * 50)) < 11, "a revoked pair is no longer spared"


def test_old_signatures_are_refused_by_the_clock_of_the_database(
    stage: Stage, signers: Signers, pair: tuple[str, str]
) -> None:
    (row,) = stage.query("SELECT now() AS at")
    near, far = SKEW - timedelta(minutes=1), SKEW + timedelta(minutes=1)
    for off in (near, -near):
        assert ask(signers, pair, at=row.at + off)
    for off in (far, -far):
        assert refused(signers, pair, at=row.at + off) == "expired_signature"


def test_two_live_beside_the_other_keys_and_a_third_is_refused(stage: Stage, pair: tuple[str, str]) -> None:
    second = make_pair(stage)
    with pytest.raises(Refusal, match="Two key pairs of this project live") as refusal:
        make_pair(stage)
    assert sorted(refusal.value.details["keys"]) == sorted([pair[0], second[0]])
    with stage.runtime.database.transaction() as tx:
        for _ in range(2):
            create_key(tx, stage.caller.project_id, [PUSH])
        assert projects.make_room(tx, stage.caller.project_id, kind=projects.PAIR) == [pair[0]]
    make_pair(stage)
    with stage.runtime.database.transaction() as tx:
        found = projects.list_keys(tx, stage.caller.project_id)
    assert sorted(key.kind for key in found if key.state == "live") == ["key", "key", "pair", "pair"]


def test_the_secret_is_in_no_row_and_opens_for_its_pair_alone(stage: Stage, pair: tuple[str, str]) -> None:
    other = make_pair(stage)
    (row,) = stage.query("SELECT * FROM key_pairs AS s JOIN api_keys AS k USING (id) WHERE id = %(id)s", id=pair[0])
    sealed = bytes(row.sealed)
    assert pair[1] not in str(row)
    assert pair[1].encode() not in sealed
    assert bytes(row.secret_sha256) == b""
    assert stage.runtime.sealer.open_secret(pair[0], sealed) == pair[1]
    assert stage.runtime.sealer.open_secret(other[0], sealed) is None


def test_a_pair_is_no_other_kind_of_key(stage: Stage, pair: tuple[str, str]) -> None:
    with stage.runtime.database.transaction() as tx:
        shown = create_key(tx, stage.caller.project_id, [PUSH]).split("_")[1]
        assert key_pairs.find_key_pair(tx, shown) is None
        found = key_pairs.find_key_pair(tx, pair[0])
    assert found
    assert found.key.id == pair[0]


def test_secrets_outlive_the_sealing_key_that_sealed_them(stage: Stage, pair: tuple[str, str]) -> None:
    old, new, other = stage.settings.sealing_keys, *(b64encode(bytes([n]) * 32).decode() for n in (8, 9))

    def reseal(keys: str) -> tuple[list[str], list[str]]:
        with stage.runtime.database.transaction() as tx:
            return projects.seal_anew(tx, {projects.PAIR: Sealer(keys).reseal_secret})

    def opens(keys: str) -> bool:
        runtime = replace(stage.runtime, sealer=Sealer(keys))
        try:
            signers = Signers(runtime.database, runtime.failures, runtime.sealer)
            return bool(ask(signers, pair))
        except Refusal:
            return False

    # Those of other tests are among them, some of which were sealed with keys of their own.
    assert pair[0] in reseal(other)[1]
    assert opens(old)
    try:
        done, left = reseal(f"{new},{old}")
        assert (pair[0] in done, pair[0] in left) == (True, False)
        assert opens(new)
        assert not opens(old)
    finally:
        assert pair[0] not in reseal(f"{old},{new}")[1]


def test_a_use_is_noted_once_a_minute_and_a_failure_writes_nothing(
    stage: Stage, signers: Signers, pair: tuple[str, str]
) -> None:
    def last_used() -> Any:
        (row,) = stage.query("SELECT last_used_at, xmin FROM api_keys WHERE id = %(id)s", id=pair[0])
        return row

    before = last_used()
    assert refused(signers, (pair[0], "x")) == "bad_signature"
    assert last_used() == before
    assert before.last_used_at is None
    assert ask(signers, pair)
    noted = last_used()
    assert noted.last_used_at
    assert ask(signers, pair)
    assert last_used() == noted


def test_wrong_signatures_are_refused_above_the_limit_before_postgres_is_asked(
    signers: Signers, no_database: Callable[[], None]
) -> None:
    assert flood(signers, strangers()) == 100
    no_database()
    assert refused(signers, ("PSAK" + "A" * 16, "x")) == refused(signers, ("nobody", "x")) == "too_many_failures"


def test_one_wrong_pair_is_refused_before_its_address_is(signers: Signers, pair: tuple[str, str]) -> None:
    assert flood(signers, iter([(pair[0], "x")] * 50)) == 10
    assert refused(signers, ("PSAK" + "A" * 16, "x")) == "bad_signature"
    assert ask(signers, pair, address=NEIGHBOUR)


def test_an_old_signature_that_is_right_is_not_tried_without_end(signers: Signers, pair: tuple[str, str]) -> None:
    old = datetime.now(UTC) - timedelta(hours=1)
    codes = [refused(signers, pair, at=old) for _ in range(12)]
    assert codes == ["expired_signature"] * 10 + ["too_many_failures"] * 2


def test_who_signed_before_is_served_beside_a_bad_neighbour(
    stage: Stage, signers: Signers, pair: tuple[str, str]
) -> None:
    assert ask(signers, pair)
    flood(signers, strangers())
    flood(signers, iter([(pair[0], "x")] * 50))

    assert ask(signers, pair)
    assert refused(signers, (pair[0], "x")) == "too_many_failures"
    assert refused(signers_of(stage), pair) == "too_many_failures", "a process that never saw it knows nobody"
    end(stage, pair)
    assert refused(signers, pair) == "bad_signature"
    assert refused(signers, pair) == "too_many_failures"


def test_without_redis_wrong_is_wrong_and_right_is_right(stage: Stage, pair: tuple[str, str]) -> None:
    signers = signers_of(stage, redis_url="redis://127.0.0.1:1/0")
    assert flood(signers, strangers(), most=120) == 120
    assert ask(signers, pair)
