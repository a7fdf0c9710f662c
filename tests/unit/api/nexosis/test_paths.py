"""Paths in letters of any case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.nexosis.paths import fold_path


@pytest.mark.parametrize(
    ("path", "folded"),
    [
        ("/V1/Imports/S3", "/v1/imports/s3"),
        ("/v1/IMPORTS/Url", "/v1/imports/url"),
        ("/v1/imports/AZURE", "/v1/imports/azure"),
        ("/v1/Imports", "/v1/imports"),
        ("/V1/DATA", "/v1/data"),
        ("/V1/Data/Location-A", "/v1/data/Location-A"),
        ("/v1/DATA/Imports/S3", "/v1/data/Imports/S3"),
        ("/V1/IMPORTS/S3X", "/v1/imports/S3X"),
        ("/v1/Imports/015D1D17", "/v1/imports/015D1D17"),
    ],
)
def test_fixed_segments_are_folded_and_names_are_not(path: str, folded: str) -> None:
    assert fold_path(path) == folded


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/V1/Apps/A/jobs/import",
            "/V1/DataSets",
            "/V2/Imports/A",
            "/Event-Import",
            "/API/imports",
            "",
            "/",
            "V1/DATA",
        ),
        *("//V1/DATA", "/V1//DATA", "/V1/İmports", "/V1/Imports\n", "/v1/ımports/S3"),
    ],
)
def test_paths_of_others_stay_as_they_are(path: str) -> None:
    assert fold_path(path) == path


@given(st.text("/vV1iImMpPoOrRtTsS3dDaA"))
def test_a_path_is_folded_once_and_keeps_its_letters(path: str) -> None:
    folded = fold_path(path)
    assert folded.lower() == path.lower()
    assert fold_path(folded) == folded


@given(st.text("aB/éÜ%", max_size=9))
def test_a_name_keeps_its_case(name: str) -> None:
    assert fold_path(f"/V1/Data/{name}") == f"/v1/data/{name}"
