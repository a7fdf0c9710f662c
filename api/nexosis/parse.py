"""Nexosis' requests into our vocabulary. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load, validate

from common.errors import Refusal
from common.model.collections import check_collection, unknown_collection
from common.model.columns import TABLE_MAPPING, Columns, ColumnsFault, read_columns
from common.model.formats import Format
from common.model.ids import parse_id
from common.model.imports import Credentials, ImportSpec
from common.model.sources import DEFAULT_REGION, REGION, SourceRef, bucket_fault, key_fault

#: Characters that are shown of what a request says.
_SHOWN = 64

_FORMATS = {"csv": Format.CSV, "json": Format.JSON}


def invalid(faults: dict[str, list[str]]) -> Refusal:
    """Return the answer to a request of which these sentences say what is wrong, by the field or the parameter."""
    return Refusal("invalid_request", "Request is invalid", faults=faults)


def fold_names(said: Any) -> Any:
    """Return an object with the names of its members in lower case: of two spellings of one, the last counts."""
    return {str(name).lower(): value for name, value in said.items()} if isinstance(said, dict) else said


def _check(fault: Callable[[str], str | None]) -> Callable[[str], None]:
    def check(text: str) -> None:
        if found := fault(text):
            raise ValidationError(f"{found[0].upper()}{found[1:]}.")

    return check


def _path_fault(key: str) -> str | None:
    if key.endswith("/"):
        return "it names no object: a slash stands where the path should end"
    if any(ord(character) < 32 or ord(character) == 127 for character in key):
        return "it holds control characters"
    return key_fault(key)


def _region_fault(region: str) -> str | None:
    # It becomes a part of a host's name.
    return None if REGION.fullmatch(region) else "it is no region's name"


def _check_name(name: str) -> None:
    try:
        check_collection(name)
    except Refusal as refusal:
        raise ValidationError(refusal.public) from None


def _required(name: str, check: Callable[[str], None]) -> fields.String:
    said = f"The {name} field is required."
    return fields.String(data_key=name.lower(), required=True, validate=check, error_messages={"required": said})


#: Keys of S3 go into HTTP headers.
_KEY = validate.Regexp(r"[\x21-\x7e]{1,256}\Z", error="Up to 256 printable ASCII characters.")


class ImportRequest(Schema):
    """The body of a request for an import, its names folded. What is null or empty is not there."""

    class Meta:
        """Options of marshmallow."""

        # Later versions of clients may send more.
        unknown = EXCLUDE

    dataSetName = _required("dataSetName", _check_name)  # noqa: N815
    bucket = _required("bucket", _check(bucket_fault))
    path = _required("path", _check(_path_fault))
    region = fields.String(load_default=DEFAULT_REGION, validate=_check(_region_fault))
    columns = fields.Raw(load_default=None)
    accessKeyId = fields.String(data_key="accesskeyid", load_default=None, validate=_KEY)  # noqa: N815
    secretAccessKey = fields.String(data_key="secretaccesskey", load_default=None, validate=_KEY)  # noqa: N815
    contentType = fields.Raw(data_key="contenttype", load_default=None)  # noqa: N815

    @pre_load
    def _fold(self, said: Any, **_: Any) -> Any:
        folded = fold_names(said)
        if not isinstance(folded, dict):
            return folded
        # As one client and a collection of samples spell it.
        renamed = {"accesskeyid" if name == "acceskeyid" else name: value for name, value in folded.items()}
        return {name: value for name, value in renamed.items() if value is not None and value != ""}


#: By the name that a member has when it is folded: its own.
_SPELLED = {(field.data_key or name): name for name, field in ImportRequest().fields.items()}


def import_spec(body: Any) -> ImportSpec:
    """Return the spec of an import. Whoever sends no keys asks for what everybody may read.

    Raises Refusal ``invalid_request`` with everything that is wrong, ``invalid_columns``.
    """
    try:
        asked: dict[str, Any] = ImportRequest().load(body)
    except ValidationError as error:
        raise invalid(_faults(error)) from None
    credentials = _credentials(asked["accessKeyId"], asked["secretAccessKey"])
    return ImportSpec(
        collection=asked["dataSetName"],
        source=SourceRef(asked["bucket"], asked["path"], asked["region"], anonymous=credentials is None),
        mapping=TABLE_MAPPING,
        credentials=credentials,
        format=_format(asked["contentType"]),
        columns=declared_columns(asked["columns"]),
    )


def _credentials(access: str | None, secret: str | None) -> Credentials | None:
    if access and secret:
        return Credentials(access, secret)
    if access or secret:
        lacking = "secretAccessKey" if access else "accessKeyId"
        raise invalid({lacking: [f"The {lacking} field is required."]})
    return None


def _format(said: Any) -> Format | None:
    """Return the format that is declared; any other word than the two leaves it to the content, as none does."""
    return _FORMATS.get(said.lower()) if isinstance(said, str) else None


def declared_columns(said: Any) -> Columns:
    """Return what a request declares of columns. Raises Refusal ``invalid_columns``."""
    try:
        return read_columns(said)
    except ColumnsFault as fault:
        raise Refusal("invalid_columns", str(fault), faults=fault.faults) from None


def _faults(error: ValidationError) -> dict[str, list[str]]:
    messages: dict[str, Any] = error.normalized_messages()  # type: ignore[no-untyped-call]
    if "_schema" in messages:
        return {"body": ["The body of the request is not a JSON object."]}
    return {_SPELLED.get(name, name): list(map(str, texts)) for name, texts in messages.items()}


def import_id(text: str) -> str:
    """Return the id of a path. Raises Refusal ``invalid_request`` where it is none."""
    if parse_id(text) is None:
        raise invalid({"importId": [f"The value '{text[:_SHOWN]}' is not valid for Guid."]})
    return text


def known_name(name: str) -> str:
    """Return the name of a dataset that may be there. Raises Refusal ``not_found`` for what can be no name."""
    try:
        return check_collection(name)
    except Refusal:
        raise unknown_collection(name) from None
