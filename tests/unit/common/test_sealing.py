"""Callers' S3 keys are sealed: only a key of ours, and the same import, opens them."""

from __future__ import annotations

import base64

import pytest

from common.errors import Terminal
from common.model.imports import Credentials
from common.sealing import Sealer
from common.settings import SettingsError

OLD, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
KEYS = Credentials("id", "secret", "token")
IMPORT = "a" * 32


def test_what_was_sealed_opens_for_the_same_import() -> None:
    sealed = Sealer(NEW).seal(IMPORT, KEYS)

    assert Sealer(NEW).open(IMPORT, sealed) == KEYS
    assert b"secret" not in sealed
    assert Sealer(NEW).seal(IMPORT, KEYS) != sealed, "two seals are alike"


def test_a_seal_moved_to_another_import_or_changed_does_not_open() -> None:
    sealed = Sealer(NEW).seal(IMPORT, KEYS)
    for import_id, wrong in (("b" * 32, sealed), (IMPORT, sealed[:-1] + bytes([sealed[-1] ^ 1])), (IMPORT, b"")):
        with pytest.raises(Terminal):
            Sealer(NEW).open(import_id, wrong)


def test_a_master_key_opens_for_its_project_and_for_nothing_else() -> None:
    sealed = Sealer(NEW).seal_master_key(IMPORT, "m" * 32)

    assert Sealer(f"{OLD},{NEW}").open_master_key(IMPORT, sealed) == "m" * 32
    assert b"mmm" not in sealed
    assert Sealer(NEW).seal_master_key(IMPORT, "m" * 32) != sealed, "two seals are alike"
    for sealer, project_id, wrong in (
        (NEW, "b" * 32, sealed),
        (OLD, IMPORT, sealed),
        (NEW, IMPORT, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (NEW, IMPORT, b""),
        (NEW, IMPORT, Sealer(NEW).seal(IMPORT, KEYS)),
    ):
        assert Sealer(sealer).open_master_key(project_id, wrong) is None
    with pytest.raises(Terminal):
        Sealer(NEW).open(IMPORT, sealed)


def test_keys_rotate_old_seals_open_until_their_key_is_taken_away() -> None:
    sealed = Sealer(OLD).seal(IMPORT, KEYS)

    assert Sealer(f"{NEW},{OLD}").open(IMPORT, sealed) == KEYS
    assert Sealer(f"{OLD},{NEW}").open(IMPORT, Sealer(f"{NEW},{OLD}").seal(IMPORT, KEYS)) == KEYS
    with pytest.raises(Terminal):
        Sealer(f"{OLD}").open(IMPORT, Sealer(f"{NEW},{OLD}").seal(IMPORT, KEYS))
    with pytest.raises(Terminal):
        Sealer(NEW).open(IMPORT, sealed)


@pytest.mark.parametrize("keys", ["", ",", "short", "!" * 44, OLD[:-4]])
def test_a_key_that_is_none_ends_the_start(keys: str) -> None:
    with pytest.raises(SettingsError, match="PENSTOCK_SEALING_KEYS"):
        Sealer(keys)


def test_keys_in_the_url_alphabet_are_keys_too() -> None:
    key = base64.urlsafe_b64encode(b"\xff" * 32).decode()

    assert Sealer(key).open(IMPORT, Sealer(key).seal(IMPORT, KEYS)) == KEYS
