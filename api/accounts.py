"""What can be asked about the projects of an account, without HTTP and without a dialect."""

from __future__ import annotations

from dataclasses import replace

from api.callers import PUSH, QUERY, Caller
from common.errors import Refusal
from common.ledger import accounts, answers
from common.ledger.answers import Answer
from common.model.accounts import Owned
from common.runtime import Runtime
from common.telemetry import bind

_CREATED = 201


class AccountDesk:
    """The use cases. The caller is the account: who signs with a key pair of a project. Raises Refusal, Transient."""

    def __init__(self, runtime: Runtime) -> None:
        """Take the process's runtime."""
        self._runtime = runtime

    def enter(self, caller: Caller, project_id: str) -> Caller:
        """Return the caller as it acts in a project of its account. Raises Refusal ``not_found`` for another's too."""
        found = self._find(caller, project_id)
        bind(project_id=found.id)
        return replace(caller, project_id=found.id, project_name=found.name, import_limit=found.import_limit)

    def read_project(self, caller: Caller, project_id: str) -> Owned:
        """Return a project of the account. Raises Refusal ``not_found`` for another's too."""
        caller.require(PUSH, QUERY)
        return self._find(caller, project_id)

    def list_projects(self, caller: Caller) -> list[Owned]:
        """Return all projects of the account, itself among them, the oldest first: a hundred and one at most."""
        caller.require(PUSH, QUERY)
        with self._runtime.database.transaction() as tx:
            return accounts.list_owned(tx, caller.project_id)

    def create_project(self, caller: Caller, title: str, *, request: bytes) -> Owned:
        """Make a project of the account, or return the one that the same request has made.

        ``request`` is 32 bytes that stand for it. Raises Refusal ``too_many_projects``. May block while the same one is
        under way.
        """
        caller.require(PUSH)
        with self._runtime.database.transaction() as tx:
            answer = answers.answer_once(
                tx,
                lambda: Answer(_CREATED, accounts.create_owned(tx, caller.project_id, title).encode()),
                api_key_id=caller.key_id,
                request=request,
            )
            owned = accounts.find_owned(tx, caller.project_id, answer.body.decode())
        assert owned, "projects are not deleted"
        return owned

    def _find(self, caller: Caller, project_id: str) -> Owned:
        with self._runtime.database.transaction() as tx:
            found = accounts.find_owned(tx, caller.project_id, project_id)
        if found is None:
            raise Refusal("not_found", f"There is no project with the id {project_id[:64]!r} in this account.")
        return found
