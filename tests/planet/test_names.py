from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_xr.addresses import safe_name
from darts_xr.errors import CatalogError, UnknownProductError
from darts_xr.planet import product_type, scene_datetime


@pytest.mark.parametrize(
    ("scene_id", "product", "moment"),
    [
        ("20190618_201847_1035", "PSScene", datetime(2019, 6, 18, 20, 18, 47, tzinfo=UTC)),
        ("20230807_195407_62_248c", "PSScene", datetime(2023, 8, 7, 19, 54, 7, 620_000, tzinfo=UTC)),
        ("20190727_160820_1_1020", "PSScene", datetime(2019, 7, 27, 16, 8, 20, 10_000, tzinfo=UTC)),
        ("20190731_000802_1_1053", "PSScene", datetime(2019, 7, 31, 0, 8, 2, 10_000, tzinfo=UTC)),
        ("4975180_2361421_2021-08-01_2414", "PSOrthoTile", datetime(2021, 8, 1, tzinfo=UTC)),
    ],
)
def test_scene_ids_of_every_form_are_read(scene_id: str, product: str, moment: datetime) -> None:
    assert product_type(scene_id) == product
    assert scene_datetime(scene_id) == moment


@pytest.mark.parametrize(
    "scene_id", ["S2A_28QCH_20200714_0_L2A", "", "20190618", "20190618_201847_1035_extra"]
)
def test_other_ids_are_refused_by_name(scene_id: str) -> None:
    with pytest.raises(UnknownProductError, match=repr(scene_id)):
        product_type(scene_id)


def test_an_impossible_date_is_refused() -> None:
    with pytest.raises(UnknownProductError, match="states no date"):
        scene_datetime("20191345_201847_1035")


@pytest.mark.parametrize(
    "item_id", ["20190618_201847_1035", "4975180_2361421_2021-08-01_2414", "esa_worldcover_10m.v200"]
)
def test_ordinary_ids_are_their_own_file_names(item_id: str) -> None:
    assert safe_name(item_id) == item_id


@pytest.mark.parametrize(
    "item_id",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a\nb",
        "a\0b",
        ".",
        "..",
        "a b",
        "é",
        "\ud800",
        "x" * 500,
        "C:\\a",
        "a.",
    ],
)
def test_no_id_leaves_its_folder(item_id: str) -> None:
    name = safe_name(item_id)
    assert not set(name) & set("/\\\n\0 :")
    assert not name.startswith(".")
    assert not name.endswith(".")
    assert len(name.encode()) <= 120
    assert safe_name(item_id) == name


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(CatalogError, match="empty id"):
        safe_name("")


@given(st.lists(st.text(min_size=1, max_size=200), min_size=2, max_size=20, unique=True))
def test_distinct_ids_give_distinct_names(ids: list[str]) -> None:
    assert len({safe_name(item_id) for item_id in ids} | {safe_name(safe_name(i)) for i in ids}) >= len(ids)
    assert len({safe_name(item_id) for item_id in ids}) == len(ids)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(
            ("scene", "Scene"),
            ("SCENE", "Scene"),
            ("a/b", "a\\b"),
            ("a b", "a-b"),
            ("a", "a."),
            ("../a", "a"),
        ),
        *(("x" * 300, "x" * 299), ("é", "e\u0301"), ("a\0", "a\n"), ("\ud800", "\ud801")),
    ],
)
def test_like_ids_differ_also_where_capitals_do_not_count(first: str, second: str) -> None:
    assert safe_name(first).casefold() != safe_name(second).casefold()
