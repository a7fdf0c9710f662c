"""``penstock admin`` from outside: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pty
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from click.testing import CliRunner, Result

from api.callers import ALL_SCOPES
from api.collecting import CollectionDesk
from api.command import main
from common.errors import Transient
from common.ledger.database import Database, DriverError
from common.ledger.key_pairs import find_key_pair
from common.ledger.migrate import read_migrations
from common.ledger.projects import find_master_keys
from common.sealing import Sealer
from common.settings import Settings
from deploy.local.servers import Servers
from tests.stage import Stage, event, ndjson

ROOT = Path(__file__).parents[2]
Admin = Callable[..., Result]


@pytest.fixture
def admin(settings: Settings) -> Admin:
    """The command on the stage's database, which needs no other setting."""

    def run(*arguments: str, url: str = settings.database_url, given: str = "", **environment: str) -> Result:
        return CliRunner(env={"DATABASE_URL": url, **environment}).invoke(main, ["admin", *arguments], input=given)

    return run


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def project(admin: Admin) -> str:
    """A project with one key of all scopes."""
    name = f"project {uuid.uuid4()}"
    assert lines(admin("create-project", name))
    return name


def test_a_project_is_made_with_a_key_and_found_again(admin: Admin) -> None:
    name = f"Blumen & Söhne [red] {uuid.uuid4()}"
    (first,), (second,) = lines(admin("create-project", name)), lines(admin("create-project", name))

    assert first["project"] == second["project"]
    assert first["project"]["name"] == name
    assert first["apiKey"] != second["apiKey"]
    (listed,) = [row for row in lines(admin("list-projects")) if row["name"] == name]
    assert (listed["id"], listed["importLimit"]) == (first["project"]["id"], None)
    assert [key["state"] for key in lines(admin("list-keys", first["project"]["id"]))] == ["live", "live"]


def test_the_local_stack_can_start_on_the_same_database_again_and_again(admin: Admin) -> None:
    name = f"local {uuid.uuid4()}"
    made = [lines(admin("create-project", name, "--replace"))[0]["apiKey"].split("_")[1] for _ in range(4)]

    keys = lines(admin("list-keys", name))
    assert [key["id"] for key in keys] == made
    assert [key["state"] for key in keys] == ["revoked", "revoked", "live", "live"]


def test_a_key_is_printed_alone_and_only_its_hash_is_kept(admin: Admin, stage: Stage, project: str) -> None:
    result = admin("create-key", project, "--scope", "push", "--scope", "query", "--scope", "push", "--expires", "90d")
    key = result.stdout.removesuffix("\n")
    _, key_id, secret = key.split("_", 2)

    assert "only this once" in result.stderr
    assert key not in result.stderr
    (row,) = stage.query("SELECT * FROM api_keys WHERE id = %(id)s", id=key_id)
    assert bytes(row.secret_sha256) == hashlib.sha256(secret.encode()).digest()
    listed = admin("list-keys", project)
    assert secret not in str(row) + listed.output
    assert row.secret_sha256.hex() not in listed.output
    shown = lines(listed)[1]
    assert (shown["id"], shown["scopes"], shown["state"]) == (key_id, ["push", "query"], "live")
    assert shown["lastUsedAt"] is None
    assert shown["expiresAt"] > shown["createdAt"]


def test_a_third_key_is_refused_with_what_to_do(admin: Admin, project: str) -> None:
    admin("create-key", project, "--scope", "push")
    refused = admin("create-key", project, "--scope", "push")

    assert (refused.exit_code, refused.stdout) == (1, "")
    keys = lines(admin("list-keys", project))
    assert all(key["id"] in refused.stderr for key in keys)
    assert "Revoke one" in refused.stderr

    replaced = admin("create-key", project, "--scope", "push", "--replace", "--json")
    assert lines(replaced)[0]["apiKey"]
    assert f"{keys[0]['id']}, the key unused for longest, is revoked" in replaced.stderr
    assert lines(admin("list-keys", project))[0]["state"] == "revoked"


def test_a_key_is_revoked_by_its_id_or_by_itself_and_as_often_as_one_likes(admin: Admin, project: str) -> None:
    whole = admin("create-key", project, "--scope", "push").stdout.strip()
    key_id = whole.split("_")[1]
    first = lines(admin("revoke-key", whole))

    assert first[0]["id"] == key_id
    assert lines(admin("revoke-key", key_id)) == first
    assert whole not in admin("revoke-key", whole).output
    assert admin("revoke-key", "0" * 12).exit_code == 1
    assert admin("revoke-key", "nonsense").exit_code == 2


def sealing(*numbers: int) -> str:
    """Return sealing keys, each of one byte."""
    return ",".join(base64.b64encode(bytes([number]) * 32).decode() for number in numbers)


def kept(stage: Stage, key_id: str) -> Any:
    (row,) = stage.query(
        "SELECT sealed, k::text FROM master_keys JOIN api_keys AS k USING (id) WHERE id = %(a)s", a=key_id
    )
    return row


def test_a_master_key_is_printed_alone_and_kept_sealed_for_its_project(
    admin: Admin, stage: Stage, project: str
) -> None:
    result = admin("create-master-key", project, PENSTOCK_SEALING_KEYS=sealing(1))
    key = result.stdout.removesuffix("\n")
    _, listed = lines(admin("list-keys", project))

    assert re.fullmatch("[A-Za-z0-9]{32}", key)
    assert "only this once: what is kept is the key, sealed" in result.stderr
    assert (listed["kind"], listed["state"], listed["scopes"]) == ("master", "live", ALL_SCOPES)
    row = kept(stage, listed["id"])
    for secret in (key.encode(), key.encode().hex().encode(), hashlib.sha256(key.encode()).hexdigest().encode()):
        assert secret not in bytes(row.sealed) + str(row).encode()
    (found,) = [one["id"] for one in lines(admin("list-projects")) if one["name"] == project]
    assert Sealer(sealing(1)).open_master_key(found, bytes(row.sealed)) == key


def test_two_master_keys_live_beside_two_others_and_make_room_for_their_like(admin: Admin, project: str) -> None:
    def make(*options: str) -> Result:
        return admin("create-master-key", project, *options, PENSTOCK_SEALING_KEYS=sealing(1))

    ids = [lines(make("--json"))[0]["id"], lines(make("--strict", "--json"))[0]["id"]]
    refused = make()
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "Two master keys of this project live already" in refused.stderr
    assert all(key_id in refused.stderr for key_id in ids)
    assert admin("create-key", project, "--scope", "push").exit_code == 0
    assert f"{ids[0]}, the key unused for longest, is revoked" in make("--replace").stderr
    assert lines(admin("create-key", project, "--scope", "push", "--replace", "--json"))

    kinds = {"key": 0, "master": 0, "strict master": 0}
    for row in lines(admin("list-keys", project)):
        kinds[row["kind"]] += row["state"] == "live"
    assert kinds == {"key": 2, "master": 1, "strict master": 1}


def test_a_revoked_master_key_is_kept_no_longer(admin: Admin, stage: Stage, project: str) -> None:
    for command in ("revoke-key", "revoke-master-key"):
        made = lines(admin("create-master-key", project, "--json", PENSTOCK_SEALING_KEYS=sealing(1)))[0]
        assert lines(admin(command, made["id"]))[0]["revokedAt"]
        assert kept(stage, made["id"]).sealed is None
        assert lines(admin("list-keys", project))[-1]["state"] == "revoked"


def test_a_master_key_of_ones_own_is_read_from_standard_input(admin: Admin, project: str) -> None:
    def give(text: str) -> Result:
        return admin("create-master-key", project, "--own", given=text, PENSTOCK_SEALING_KEYS=sealing(1))

    assert give("2fMSlDSOGtMWH50wffnCscgGMcJGMQ0s\n").stdout == "2fMSlDSOGtMWH50wffnCscgGMcJGMQ0s\n"
    for wrong, status in (("", 2), ("\n", 2), ("a" * 31, 1), ("a" * 33, 1), ("a" * 31 + "-", 1)):
        refused = give(wrong)
        assert (refused.exit_code, refused.stdout) == (status, ""), wrong
        assert wrong.strip() in ("", "a") or wrong not in refused.stderr


def test_master_keys_outlive_the_sealing_key_that_sealed_them(admin: Admin, servers: Servers) -> None:
    url = servers.create_database("resealed")  # all master keys of a database are sealed anew
    admin("migrate", url=url)
    projects = [lines(admin("create-project", name, url=url))[0]["project"]["id"] for name in ("one", "two")]
    keys = {
        project: admin("create-master-key", project, url=url, PENSTOCK_SEALING_KEYS=sealing(1)).stdout.strip()
        for project in projects
    }
    database = Database(url)

    def opened(*sealing_keys: int) -> dict[str, str | None]:
        sealer = Sealer(sealing(*sealing_keys))
        with database.transaction() as tx:
            found = [one for project in projects for one in find_master_keys(tx, project)]
        return {one.key.project_id: sealer.open_master_key(one.key.project_id, one.sealed) for one in found}

    assert opened(2, 1) == keys
    refused = admin("reseal-keys", url=url, PENSTOCK_SEALING_KEYS=sealing(3))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "No sealing key opens" in refused.stderr
    assert opened(1) == keys, "what could not be read was lost"
    assert len(lines(admin("reseal-keys", url=url, PENSTOCK_SEALING_KEYS=sealing(2, 1)))) == 2
    assert opened(2) == keys
    assert opened(1) == dict.fromkeys(keys)
    database.close()


def test_a_key_pair_is_printed_once_listed_and_revoked(admin: Admin, stage: Stage, project: str) -> None:
    options = ("--scope", "push", "--scope", "query", "--expires", "90d")
    result = admin("create-key-pair", project, *options, PENSTOCK_SEALING_KEYS=sealing(1))
    printed = dict(line.split("=", 1) for line in result.stdout.splitlines())
    assert list(printed) == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert "only this once" in result.stderr
    access_key_id, secret = printed.values()

    listed = admin("list-keys", project)
    shown = lines(listed)[-1]
    assert (shown["id"], shown["kind"], shown["state"]) == (access_key_id, "pair", "live")
    assert (shown["scopes"], shown["expiresAt"] > shown["createdAt"]) == (["push", "query"], True)
    assert secret not in listed.output
    second = lines(admin("create-key-pair", project, *options, "--json", PENSTOCK_SEALING_KEYS=sealing(1)))[0]
    third = admin("create-key-pair", project, *options, PENSTOCK_SEALING_KEYS=sealing(1))
    assert (third.exit_code, third.stdout) == (1, "")
    assert "key pairs" in third.stderr
    third = admin("create-key-pair", project, *options, "--replace", PENSTOCK_SEALING_KEYS=sealing(1))
    assert f"{access_key_id}, the key unused for longest, is revoked" in third.stderr

    first = lines(admin("revoke-key", second["awsAccessKeyId"]))
    assert lines(admin("revoke-key", second["awsAccessKeyId"])) == first
    (row,) = stage.query("SELECT sealed FROM key_pairs WHERE id = %(id)s", id=second["awsAccessKeyId"])
    assert row.sealed is None
    assert admin("revoke-key", "PSAK" + "A" * 16).exit_code == 1
    assert admin("revoke-key", "PSAK").exit_code == 2


def test_key_pairs_are_sealed_anew_with_the_master_keys(admin: Admin, servers: Servers) -> None:
    url = servers.create_database("resealed-pairs")  # all of a database are sealed anew
    admin("migrate", url=url)
    admin("create-project", "one", url=url)
    admin("create-master-key", "one", url=url, PENSTOCK_SEALING_KEYS=sealing(1))
    options = ("one", "--scope", "push", "--json")
    pair = lines(admin("create-key-pair", *options, url=url, PENSTOCK_SEALING_KEYS=sealing(1)))[0]
    assert len(lines(admin("reseal-keys", url=url, PENSTOCK_SEALING_KEYS=sealing(2, 1)))) == 2

    database = Database(url)
    with database.transaction() as tx:
        found = find_key_pair(tx, pair["awsAccessKeyId"])
    database.close()
    assert found
    assert Sealer(sealing(2)).open_secret(found.key.id, found.sealed) == pair["awsSecretAccessKey"]
    refused = admin("reseal-keys", url=url, PENSTOCK_SEALING_KEYS=sealing(1))
    assert refused.exit_code == 1
    assert pair["awsAccessKeyId"] in refused.stderr


def test_a_limit_is_set_and_given_back(admin: Admin, project: str) -> None:
    def limit() -> int | None:
        (found,) = [row["importLimit"] for row in lines(admin("list-projects")) if row["name"] == project]
        return found  # type: ignore[no-any-return]

    assert lines(admin("set-limit", project, "3"))[0]["importLimit"] == limit() == 3
    assert lines(admin("set-limit", project, "default"))[0]["importLimit"] is limit() is None
    for wrong in ("0", "-1", "many", "1e3", "99999999999"):
        assert admin("set-limit", project, "--", wrong).exit_code == 2, wrong


@pytest.mark.parametrize("name", ["", " ", "a ", "a\nb", "a\x1b[31m", "\u202eabc", "\udc80", "x" * 101, "0" * 32])
def test_a_name_that_nobody_could_read_or_tell_from_an_id_is_refused(admin: Admin, name: str) -> None:
    refused = admin("create-project", name)

    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "name" in refused.stderr


@pytest.mark.parametrize("when", ["90", "0d", "-1d", "3651d", "99999d", "soon", "1d2h", "2027-13-01", ""])
def test_an_expiry_that_cannot_be_read_is_refused(admin: Admin, project: str, when: str) -> None:
    assert admin("create-key", project, "--scope", "push", f"--expires={when}").exit_code == 2


def test_an_expiry_may_be_a_while_or_a_time_but_not_the_past(admin: Admin, project: str) -> None:
    for when, shown in (("2099-01-31", "2099-01-31T00:00:00.000Z"), ("2099-01-31T01:00+02:00", "2099-01-30T23:00")):
        assert admin("create-key", project, "--scope", "push", "--expires", when, "--replace").exit_code == 0
        assert lines(admin("list-keys", project))[-1]["expiresAt"].startswith(shown)
    refused = admin("create-key", project, "--scope", "push", "--expires", "2020-01-31", "--replace")
    assert refused.exit_code == 1
    assert "future" in refused.stderr


def test_what_is_not_there_is_said(admin: Admin) -> None:
    for command in (["list-keys", "nobody"], ["set-limit", "nobody", "1"], ["create-key", "nobody", "--scope", "push"]):
        refused = admin(*command)
        assert refused.exit_code == 1
        assert "no project 'nobody'" in refused.stderr


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "DATABASE_URL is not set"),
        ("postgresql://penstock:CANARY@127.0.0.1:1/x", "port 1 failed"),
        ("postgresql://penstock:p@CANARY.invalid/x", "Look at DATABASE_URL"),
        ("CANARY nonsense", "Look at DATABASE_URL"),
    ],
)
def test_without_a_database_there_is_one_sentence_and_no_password(admin: Admin, url: str, said: str) -> None:
    refused = admin("list-projects", url=url)

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert isinstance(refused.exception, SystemExit), "a traceback"
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert "CANARY" not in refused.stderr


def test_a_bare_database_is_migrated_on_request(admin: Admin, servers: Servers) -> None:
    url = servers.create_database("bare")
    refused = admin("create-project", "x", url=url)
    assert refused.exit_code == 1
    assert "penstock admin migrate" in refused.stderr

    assert [line["applied"] for line in lines(admin("migrate", url=url))] == [name for name, _ in read_migrations()]
    assert lines(admin("migrate", url=url)) == []
    assert lines(admin("create-project", "x", url=url))


def test_a_role_that_may_not_is_told_so(admin: Admin, servers: Servers, stage: Stage) -> None:
    url = servers.create_database("guarded")
    assert lines(admin("migrate", url=url))
    stage.query("CREATE ROLE nobody LOGIN PASSWORD 'CANARY'; SELECT 1")
    theirs = urlunsplit(urlsplit(url)._replace(netloc=f"nobody:CANARY@{url.split('@')[1].split('/')[0]}"))
    for command in (["list-projects"], ["create-project", "x"], ["migrate"]):
        refused = admin(*command, url=theirs)
        assert refused.exit_code == 1, refused.output
        assert isinstance(refused.exception, SystemExit), "a traceback"
        assert "The database refused: permission denied" in refused.stderr
        assert "CANARY" not in refused.stderr


@pytest.mark.parametrize("module", ["api.command admin", "api.admin"])
def test_a_person_at_a_terminal_gets_a_table(admin: Admin, servers: Servers, module: str) -> None:
    url = servers.create_database("terminal-" + module.split(".")[1].replace(" ", "-"))
    name = "[red] & Söhne"
    admin("migrate", url=url)
    admin("create-project", name, url=url)

    (key,) = lines(admin("list-keys", name, url=url))
    head, row, *more = at_a_terminal(*module.split(), "list-keys", name, url=url)
    assert "lastUsedAt" in head
    assert (key["id"] in row, key["createdAt"][:10] in row) == (True, True)
    assert [word for line in (row, *more) for word in line.split() if word in ALL_SCOPES] == ALL_SCOPES
    assert name in at_a_terminal(*module.split(), "list-projects", url=url)[1]


def at_a_terminal(*command: str, url: str) -> list[str]:
    """Run a module at a terminal 80 columns wide and return the lines it prints."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    subprocess.run([sys.executable, "-m", *command], env=environment, stdout=theirs, check=True, timeout=30)
    os.close(theirs)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    return shown.splitlines()


def test_a_role_reads_its_projects_live_events_by_sql_and_nothing_else(
    admin: Admin, stage: Stage, settings: Settings
) -> None:
    other = Stage(settings, stage.bucket)
    role = f"reader_{uuid.uuid4().hex}"
    with stage.runtime.database.transaction() as tx:
        tx.run(f"CREATE ROLE {role} LOGIN PASSWORD 'reader'")
    stage.run(ndjson(event("a"), event("b")), collection="orders")
    stage.run(ndjson(event("gone")), collection="gone")
    other.run(ndjson(event("theirs")), collection="orders")
    CollectionDesk(stage.runtime).delete_collection(stage.caller, "gone")
    (granted,) = lines(admin("grant-events", stage.caller.project_id, role))
    assert lines(admin("grant-events", stage.caller.project_id, role)) == [granted]
    view = granted["eventsView"]
    assert view == f"events_of_{stage.caller.project_id}"
    assert view in {row["eventsView"] for row in lines(admin("list-projects"))}

    parts = urlsplit(settings.database_url)
    reader = Database(urlunsplit(parts._replace(netloc=f"{role}:reader@{parts.netloc.split('@')[-1]}")))
    with reader.transaction() as tx:
        rows = tx.all(f"SELECT collection, id, time, payload::text FROM {view}")
    assert {row.collection for row in rows} == {"orders"}
    assert {json.loads(row.payload)["$unique_id"] for row in rows} == {"a", "b"}
    for denied in (
        f"INSERT INTO {view} (collection) VALUES ('orders')",
        f"UPDATE {view} SET time = now()",
        f"DELETE FROM {view}",
        "SELECT FROM events",
        "SELECT FROM collections",
        f"SELECT FROM events_of_{other.caller.project_id}",
        f"SELECT grant_events_view('{other.caller.project_id}', '{role}')",
    ):
        with pytest.raises((DriverError, Transient)), reader.transaction() as tx:
            tx.run(denied)
    reader.close()
    other.close()
    with stage.runtime.database.transaction() as tx:
        tx.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_view_cannot_be_granted_to_nobody(admin: Admin, stage: Stage) -> None:
    result = admin("grant-events", stage.caller.project_id, 'nobody"; DROP TABLE events')
    assert result.exit_code == 1
    assert "does not exist" in result.output


def test_a_project_of_before_gets_its_view_with_the_first_grant(admin: Admin, stage: Stage) -> None:
    view = f"events_of_{stage.caller.project_id}"
    with stage.runtime.database.transaction() as tx:
        tx.run(f"DROP VIEW {view}")
    assert lines(admin("grant-events", stage.caller.project_id, "pg_monitor"))
    assert stage.query("SELECT FROM pg_views WHERE viewname = %(view)s", view=view)


def test_a_collection_gets_an_index_of_its_own_and_gives_it_back(admin: Admin, stage: Stage) -> None:
    stage.run(ndjson(event("a")), collection="shuffled")
    desk = CollectionDesk(stage.runtime)
    for option, indexed in (((), True), ((), True), (("--drop",), False), (("--drop",), False)):
        (row,) = lines(admin("index-time", stage.caller.project_id, "shuffled", *option))
        assert row == {"collection": "shuffled", "timeIndex": indexed}
        assert desk.read_collection(stage.caller, "shuffled").time_index is indexed

    result = admin("index-time", stage.caller.project_id, "unknown")
    assert result.exit_code == 1
    assert "no collection" in result.output


def test_things_are_registered_listed_and_unregistered(admin: Admin, project: str) -> None:
    thing = "0000000A-000a-4000-8000-00000000000b"
    made = [lines(admin("register", project, *of))[0] for of in (("package", thing), ("package", thing.lower()))]

    assert made == [{"kind": "package", "id": thing.lower(), "new": new} for new in (True, False)]
    assert lines(admin("register", project, "pixel", "word"))
    listed = lines(admin("registered", project))
    assert [(row["kind"], row["id"]) for row in listed] == [("package", thing.lower()), ("pixel", "word")]
    assert lines(admin("registered", project, "--kind", "pixel")) == listed[1:]
    assert listed[0]["createdAt"].endswith("Z")

    assert lines(admin("unregister", project, "package", thing)) == [{"kind": "package", "id": thing.lower()}]
    assert lines(admin("registered", project)) == listed[1:]
    again, odd = admin("unregister", project, "package", thing), admin("register", project, "Package", "x")
    assert (again.exit_code, odd.exit_code) == (1, 1)
    assert "registered" in again.stderr
    assert "a-z" in odd.stderr
    assert (
        lines(admin("registered", f"{lines(admin('create-project', uuid.uuid4().hex[:8]))[0]['project']['id']}")) == []
    )
