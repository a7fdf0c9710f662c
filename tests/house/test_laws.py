"""The laws that no linter knows."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

import common
from common import dispatch
from common.ledger.database import Database
from common.ledger.migrate import migrate, read_migrations
from common.ledger.queries import load_queries
from common.model.imports import MOVES, ImportState
from common.model.rejects import RejectCode
from common.settings import Settings, SettingsError, variable
from deploy.local.commands import exporter_command, flower_command, walker_command, web_command, worker_command
from workers import tasks

ROOT = Path(__file__).parents[2]
PRODUCT = [path for folder in ("api", "common", "workers") for path in (ROOT / folder).rglob("*.py")]
AGGREGATES = [path.stem for path in (ROOT / "common/ledger/sql").glob("*.sql")]
ENGINE = [*(ROOT / "workers").rglob("*.py"), *(ROOT / "common").rglob("*.py"), *(ROOT / "common").rglob("*.sql")]


def test_the_packages_are_the_ones_of_this_repository() -> None:
    assert Path(str(common.__file__)).is_relative_to(ROOT)


def test_no_dialect_is_named_behind_the_door() -> None:
    for path in ENGINE:
        named = re.findall(r"getconnect|\bscarf\b|pinpoint|nexosis", path.read_text(), re.IGNORECASE)
        assert not named, f"{path}: {named}"


def test_every_task_has_a_sender_and_takes_one_id() -> None:
    names = {
        dispatch.PLAN_IMPORT: tasks.plan_import,
        dispatch.LOAD_CHUNK: tasks.load_chunk,
        dispatch.WALK: tasks.walk_chunk,
        dispatch.WRITE_EXPORT: tasks.write_export,
    }
    found = {task.name for task in vars(tasks).values() if hasattr(task, "apply_async")}
    assert found == set(names)

    for function in ast.parse((ROOT / "workers/tasks.py").read_text()).body:
        if isinstance(function, ast.FunctionDef) and function.name != "runtime":
            (argument,) = function.args.args
            assert argument.arg.endswith("_id")
            assert len(function.body) == 2, "a docstring and one call"


def test_tasks_are_never_run_eagerly() -> None:
    for path in [*PRODUCT, *(ROOT / "tests").rglob("*.py")]:
        if path != Path(__file__):
            assert "task_always_eager" not in path.read_text(), path


def test_every_query_is_used_and_every_used_one_exists() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "common/ledger").glob("*.py"))
    used = set(re.findall(r'_(?:SQL|CHUNKS)\["(\w+)"\]', text))

    assert used == {name for aggregate in AGGREGATES for name in load_queries(aggregate)}


def test_every_query_has_its_own_name() -> None:
    names = [name for aggregate in AGGREGATES for name in load_queries(aggregate)]

    assert len(names) == len(set(names))


def test_only_named_files_hold_sql() -> None:
    """Short statements about the session or the schema's own tables may stand where they are run."""
    for path in PRODUCT:
        inline = re.findall(r'"\s*(?:INSERT INTO|UPDATE|DELETE FROM|SELECT .* FROM) (\w+)', path.read_text())
        assert set(inline) <= {"migrations", "identity_key"}, path


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_every_query_can_be_prepared_against_the_migrated_schema(database_url: str, aggregate: str) -> None:
    database = Database(database_url)
    for name, statement in load_queries(aggregate).items():
        if re.search("^(COPY|CREATE|DROP|SET|TRUNCATE)", statement, re.MULTILINE):
            continue  # Postgres prepares queries only; the engine's tests run these
        with database.transaction() as tx:
            tx.run(load_queries("events")["create_suspects"])
            tx.run(f"PREPARE {name} AS {_numbered(statement)}")
            tx.run("DEALLOCATE ALL")
    database.close()


def _numbered(statement: str) -> str:
    """Return the statement with $1, $2 .. in the place of its names."""
    names: dict[str, int] = {}
    return re.sub(r"%\((\w+)\)s", lambda found: f"${names.setdefault(found[1], len(names) + 1)}", statement)


def test_migrations_are_numbered_without_gaps_and_run_once(database_url: str) -> None:
    numbers = [name.split("_")[0] for name, _ in read_migrations()]
    assert numbers == [f"{n:04}" for n in range(1, len(numbers) + 1)]
    assert all(name.split("_")[1] in ("pre", "post") for name, _ in read_migrations())

    assert migrate(Database(database_url)) == []


def test_every_setting_has_a_sentence_and_a_line_in_the_example() -> None:
    example = (ROOT / "deploy/env.example").read_text()
    for field in dataclasses.fields(Settings):
        assert field.metadata["doc"].endswith("."), field.name
        assert re.search(rf"^#? ?{variable(field.name)}=", example, re.MULTILINE), variable(field.name)
        assert field.metadata["doc"] in example, field.name


def test_a_setting_that_is_missing_or_unreadable_is_named() -> None:
    good = {"DATABASE_URL": "d", "REDIS_URL": "r", "PENSTOCK_SEALING_KEYS": "k"}
    assert Settings.from_environment(good).import_limit == 15
    fine = {"PENSTOCK_BASE_URL": "https://events.example.com:8443/in/", "PENSTOCK_PROXIES": "10.0.0.1, 2001:db8::/32,"}
    assert Settings.from_environment({**good, **fine}).base_url == fine["PENSTOCK_BASE_URL"]
    for change in (
        {"DATABASE_URL": ""},
        {"PENSTOCK_IMPORT_LIMIT": "many"},
        {"PENSTOCK_LEASE_SECONDS": "-1"},
        {"PENSTOCK_CHUNK_BYTES": "0"},
        {"PENSTOCK_SWEEP_SECONDS": "nan"},
        {"PENSTOCK_PROXIES": "10.0.0.0/8, proxy.example.com"},
        {"PENSTOCK_PROXIES": "10.0.0.1/8"},
        {"PENSTOCK_BASE_URL": "events.example.com"},
        {"PENSTOCK_BASE_URL": "ftp://events.example.com"},
        {"PENSTOCK_BASE_URL": "https://"},
        {"PENSTOCK_BASE_URL": "https://events.example.com/?a=b"},
        {"PENSTOCK_BASE_URL": "https://events.example.com/#a"},
        {"PENSTOCK_BASE_URL": "https://events.example.com\n"},
        {"PENSTOCK_LOG_LEVEL": "loud"},
        {"PENSTOCK_LOG_FORMAT": "xml"},
    ):
        with pytest.raises(SettingsError, match=next(iter(change))):
            Settings.from_environment({**good, **change})


def test_no_setting_shows_a_secret_in_its_repr() -> None:
    canary = "CANARY"
    values = {field.name: canary for field in dataclasses.fields(Settings) if field.type == "str"}
    shown = repr(Settings(**values))

    for field in dataclasses.fields(Settings):
        if field.type == "str" and re.search("database|redis|key|secret|roles", field.name):
            assert f"{field.name}=" not in shown


def test_from_every_active_state_there_is_a_way_to_an_end_and_from_an_end_none() -> None:
    assert set(MOVES) == set(ImportState)
    for state in ImportState:
        assert bool(MOVES[state]) != state.ended
        assert state.ended or any(to.ended for to in MOVES[state])


def test_the_readme_tells_every_state_and_code_and_holds_no_placeholder() -> None:
    readme = (ROOT / "README.rst").read_text()
    for word in (*ImportState, *RejectCode):
        assert word.value in readme
    assert not re.search(r"@[A-Z]+@|TODO|FIXME", readme)


def test_the_local_stack_runs_the_lines_of_the_procfile() -> None:
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    ours_of = {
        "web": web_command(),
        "worker": worker_command("w"),
        "walker": walker_command("w"),
        "exporter": exporter_command("w"),
        "flower": flower_command(1),
    }
    assert set(ours_of) == set(lines)
    for role, command in ours_of.items():
        said = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", lines[role]).replace('"', "").split("exec ")[-1]
        ours = " ".join(command[2:])
        for text in (said, ours):
            assert text
        # But for the node's name and the port, which have to differ between processes.
        differing = r" (-n \S+|--port=\d+)"
        assert sorted(re.sub(differing, "", ours).split()) == sorted(re.sub(differing, "", said).split())
