"""Counts of failed authentications: by address and by key at an address, bounded, gone after a minute."""

from __future__ import annotations

import pytest
import redis
from structlog.testing import capture_logs

from common.live import failures
from common.live.connection import Live
from common.live.failures import Failures
from tests.stage import Stage

KEY, OTHER_KEY = "0" * 12, "1" * 12
#: Of something that never opened, and of something that did.
MARK, OPENED = "a" * 64, "b" * 64


@pytest.fixture
def counted(stage: Stage) -> Failures:
    return Failures(Live(stage.settings.redis_url, timeout_seconds=2), most=20)


@pytest.fixture
def client(stage: Stage) -> redis.Redis:
    return redis.Redis.from_url(stage.settings.redis_url)


def test_a_key_at_an_address_is_refused_after_a_tenth_of_what_the_address_may(counted: Failures) -> None:
    assert counted.seconds_to_wait("10.0.0.1", KEY, MARK) == 0
    for _ in range(2):
        counted.count("10.0.0.1", KEY, MARK)

    assert 0 < (counted.seconds_to_wait("10.0.0.1", KEY, MARK) or 0) <= 60
    assert counted.seconds_to_wait("10.0.0.1", OTHER_KEY, MARK) == 0
    assert counted.seconds_to_wait("10.0.0.2", KEY, MARK) == 0

    for _ in range(18):
        counted.count("10.0.0.1", None, MARK)
    assert counted.seconds_to_wait("10.0.0.1", OTHER_KEY, MARK)
    assert counted.seconds_to_wait("10.0.0.1", None, MARK)
    assert counted.seconds_to_wait("10.0.0.2", KEY, MARK) == 0


def test_counts_end_a_minute_after_the_first_and_never_stay(counted: Failures, client: redis.Redis) -> None:
    counted.count("10.0.0.1", KEY, MARK)
    client.expire("penstock:failures", 30)
    counted.count("10.0.0.1", KEY, MARK)
    assert 0 < (counted.seconds_to_wait("10.0.0.1", KEY, MARK) or 0) <= 30, "a later failure made the wait longer"

    client.persist("penstock:failures")
    counted.count("10.0.0.1", KEY, MARK)
    assert client.ttl("penstock:failures") > 0


def test_whoever_has_a_network_of_ipv6_is_one_caller(counted: Failures) -> None:
    for n in range(20):
        counted.count(f"2001:db8:0:7::{n:x}", None, MARK)

    assert counted.seconds_to_wait("2001:db8:0:7:ffff::1", None, MARK)
    assert counted.seconds_to_wait("2001:db8:0:8::1", None, MARK) == 0


def test_an_address_of_ipv4_is_the_same_in_the_dress_of_ipv6(counted: Failures) -> None:
    for _ in range(20):
        counted.count("::ffff:10.0.0.1", None, MARK)

    assert counted.seconds_to_wait("10.0.0.1", None, MARK)


def test_memory_is_bounded_whatever_is_sent(
    counted: Failures, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_MOST_NAMES", 50)
    monkeypatch.setattr(failures, "_MOST_NAMES_FOR_KEYS", 30)
    counted.count("10.0.0.1", None, MARK)
    for n in range(100):
        counted.count("10.0.0.2", f"{n:012x}", MARK)
    assert client.hlen("penstock:failures") == 30
    for n in range(100):
        counted.count(f"10.1.0.{n}", f"{n:012x}", MARK)
    counted.count("x" * 100_000, None, MARK)
    counted.count("", None, MARK)
    counted.count("fe80::1%eth0", None, MARK)

    assert client.hlen("penstock:failures") == 50
    assert client.keys("penstock:failures*") == [b"penstock:failures"]
    assert max(map(len, client.hkeys("penstock:failures"))) < 60
    for _ in range(19):
        counted.count("10.0.0.1", None, MARK)
    assert counted.seconds_to_wait("10.0.0.1", None, MARK), "who is in the hash is counted on"
    assert counted.seconds_to_wait("10.9.9.9", None, MARK) == 0, "who finds no room is not refused"


def test_keys_at_addresses_leave_newcomers_their_room(
    counted: Failures, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_MOST_NAMES", 40)
    monkeypatch.setattr(failures, "_MOST_NAMES_FOR_KEYS", 20)
    for n in range(100):
        counted.count(f"2001:db8:0:{n % 8:x}::1", f"{n:012x}", MARK)
    for _ in range(20):
        counted.count("10.0.0.1", KEY, MARK)

    assert client.hlen("penstock:failures") < 40
    assert counted.seconds_to_wait("10.0.0.1", OTHER_KEY, MARK), "a newcomer found no room"


def test_a_site_of_ipv6_may_have_ten_times_what_an_address_may(counted: Failures, client: redis.Redis) -> None:
    """A /48 has 65,536 networks: without this its owner fills the hash, and is not limited himself."""
    for n in range(300):
        if not counted.seconds_to_wait(f"2001:db8:7:{n:x}::1", None, MARK):
            counted.count(f"2001:db8:7:{n:x}::1", None, MARK)

    assert client.hget("penstock:failures", "2001:db8:7::/48") == b"200"
    assert client.hlen("penstock:failures") == 201
    assert counted.seconds_to_wait("2001:db8:8::1", None, MARK) == 0


def test_what_opened_is_spared_for_ten_minutes_by_every_process_until_it_fails(
    stage: Stage, counted: Failures, client: redis.Redis
) -> None:
    counted.spare(OPENED)
    for _ in range(20):
        counted.count("10.0.0.1", KEY, MARK)
    restarted = Failures(Live(stage.settings.redis_url, timeout_seconds=2), most=20)
    (name,) = client.keys("penstock:opened:*")

    assert restarted.seconds_to_wait("10.0.0.1", KEY, OPENED) == 0
    assert restarted.seconds_to_wait("10.0.0.1", KEY, MARK)
    assert 0 < client.ttl(name) <= 600

    restarted.count("10.0.0.2", KEY, OPENED)
    assert counted.seconds_to_wait("10.0.0.1", KEY, OPENED)
    assert client.keys("penstock:opened:*") == [], "a failure is remembered as what opened"


def test_an_operator_is_told_once_a_minute_who_it_is(counted: Failures) -> None:
    with capture_logs() as told:
        for _ in range(30):
            counted.count("10.0.0.1", KEY, MARK)

    assert [line["who"] for line in told] == [f"10.0.0.1 {KEY}", "10.0.0.1"]


def test_a_limit_of_none_counts_nothing(stage: Stage, client: redis.Redis) -> None:
    off = Failures(Live(stage.settings.redis_url, timeout_seconds=2), most=0)
    off.count("10.0.0.1", KEY, MARK)
    off.spare(OPENED)

    assert off.seconds_to_wait("10.0.0.1", KEY, MARK) == 0
    assert client.keys("penstock:*") == []


def test_without_redis_nobody_is_refused() -> None:
    away = Failures(Live("redis://127.0.0.1:1/0", timeout_seconds=0.2), most=1)
    away.count("10.0.0.1", KEY, MARK)

    assert away.seconds_to_wait("10.0.0.1", KEY, MARK) is None
