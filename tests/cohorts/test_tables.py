from __future__ import annotations

import gzip
import string
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc_brainage.cohorts.tables import MISSING_MARKERS, column_names, read_table, table_stem
from hpc_brainage.errors import CohortError


def write(folder: Path, content: bytes | str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


CELLS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(lambda number: f"{number:.6g}"),
    st.text(alphabet=string.ascii_letters + "äß,;\t\" '", min_size=1, max_size=6).map(
        lambda word: f"w{word}w"
    ),
    st.sampled_from(["n/a", "", "0012", "123456789012"]),
)


@given(
    cells=st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=6),
    separator=st.sampled_from([",", ";", "\t"]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.booleans(),
    last_line=st.sampled_from(["", "end", "end end"]),
    packed=st.booleans(),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_columns_come_back_as_spelled_whatever_the_separator_and_line_end(
    tmp_path: Path,
    cells: list[list[str]],
    separator: str,
    line_end: str,
    bom: bool,
    last_line: str,
    packed: bool,
) -> None:
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"' if set(cell) & set('",;\t') else cell

    rows = [["first", "second", "third"], *[[f"s{i}", *row[1:]] for i, row in enumerate(cells)]]
    text = line_end.join(separator.join(map(quoted, row)) for row in rows)
    text += {"": "", "end": line_end, "end end": line_end * 2}[last_line]
    content = (b"\xef\xbb\xbf" if bom else b"") + text.encode()
    path = write(tmp_path, gzip.compress(content) if packed else content)
    frame = read_table(path, text=("FIRST", "second", "third", "absent"))
    assert list(frame.columns) == rows[0] == column_names(path)
    for column, name in enumerate(rows[0]):
        for value, row in zip(frame[name], rows[1:], strict=True):
            if row[column] in MISSING_MARKERS:
                assert pd.isna(value)
            else:
                assert value == row[column]


def test_numbers_are_numbers_and_a_word_keeps_the_whole_column_as_spelled(tmp_path: Path) -> None:
    frame = read_table(
        write(tmp_path, "id,a,b,c\n007,1,1.50,True\n008,n/a,oops,False\n009,-9999,2,True\n"), ["id"]
    )
    assert frame["id"].tolist() == ["007", "008", "009"]
    np.testing.assert_array_equal(frame["a"], [1, np.nan, np.nan])
    assert frame["b"].tolist() == ["1.50", "oops", "2"]
    assert frame["c"].tolist() == ["True", "False", "True"]


@pytest.mark.parametrize(
    "marker", ["", "n/a", "N/A", "NA", "NaN", "nan", "null", "None", ".", "-9999", "-9999.0", "-9999.00"]
)
def test_every_missing_marker_is_missing_in_a_number_column(tmp_path: Path, marker: str) -> None:
    frame = read_table(write(tmp_path, f"id\tx\na\t1.5\nb\t{marker}\n"))
    np.testing.assert_array_equal(frame["x"], [1.5, np.nan])


def test_blanks_separate_columns_where_nothing_else_does(tmp_path: Path) -> None:
    frame = read_table(
        write(tmp_path, "Measure:volume   Left-Caudate  CSF\nsub-1     3400.5 12\nsub-2 1 2\n", "t.txt")
    )
    assert list(frame.columns) == ["Measure:volume", "Left-Caudate", "CSF"]
    assert frame["CSF"].tolist() == [12, 2]


def test_a_decimal_comma_is_understood_and_noted(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, "id;age\na;23,5\nb;41,25\n"))
    assert frame["age"].tolist() == [23.5, 41.25]
    assert "decimal comma" in frame.attrs["notes"][0]


def test_latin_1_is_read_with_a_note_and_utf_16_without(tmp_path: Path) -> None:
    latin = read_table(write(tmp_path, "id,site\na,Köln\n".encode("latin-1")))
    assert latin["site"].tolist() == ["Köln"]
    assert "Latin-1" in latin.attrs["notes"][0]
    wide = read_table(write(tmp_path, "id,site\na,Köln\n".encode("utf-16")))
    assert wide["site"].tolist() == ["Köln"]
    assert wide.attrs["notes"] == ()


@pytest.mark.parametrize(
    ("content", "what", "line"),
    [
        (b"", "empty", ""),
        (b"\n \n", "empty", ""),
        (b"id,age\n", "no rows", ""),
        (b"id,age,age\na,1,2\n", "more than once: age", "line 1"),
        (b"id,age,sex\na,1,F\nb,2\n", "2 fields and the header has 3", "line 3"),
        (b"id,age,sex\na,1,F\n\nb,2,F,9\n", "4 fields and the header has 3", "line 4"),
        (b"a,b\nx,1,2\n", "3 fields and the header has 2", "line 2"),
        (b"sub-01,34.5,2.25\nsub-02,30.1,2.5\n", "no header", "line 1"),
        (b"PK\x03\x04\0\0", "not a table of text", ""),
        # Without a time of day: the bytes name the test, and tests run side by side must agree on names.
        (gzip.compress(b"id,age\na,1\n" * 500, mtime=0)[:-20], "cannot be read to its end", ""),
    ],
)
def test_a_damaged_table_is_an_error_that_names_file_and_line(
    tmp_path: Path, content: bytes, what: str, line: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(CohortError, match=what) as error:
        read_table(path)
    assert str(path) in str(error.value.where)
    assert line in str(error.value.where)


def test_a_ragged_row_behind_a_quoted_line_break_is_named_by_its_own_line(tmp_path: Path) -> None:
    path = write(tmp_path, 'id,note\na,"two\nlines"\nb,"x, y",z\n')
    with pytest.raises(CohortError) as error:
        read_table(path)
    assert "line 4" in str(error.value.where)


def test_counted_column_names_are_a_header(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, "participant_id,0,1,2\na,0.1,0.2,0.3\n"))
    assert list(frame.columns) == ["participant_id", "0", "1", "2"]


def test_the_empty_column_of_a_trailing_separator_is_no_column(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, "id\tx\t\na\t1\t\nb\t2\t\n"))
    assert list(frame.columns) == ["id", "x"]


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(CohortError, match="missing"):
            read_table(tmp_path / name)


def test_parquet_follows_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pd.DataFrame(
        {"id": [100053248969, 2], "x": [1.5, -9999.0], "word": ["n/a", "b"], "flag": [True, False]}
    ).to_parquet(path)
    frame = read_table(path, text=["id"])
    assert column_names(path) == list(frame.columns) == ["id", "x", "word", "flag"]
    assert frame["id"].tolist() == ["100053248969", "2"]
    np.testing.assert_array_equal(frame["x"], [1.5, np.nan])
    assert pd.isna(frame["word"][0])
    assert frame["flag"].tolist() == ["True", "False"]
    write(tmp_path, b"PAR1 and nothing", "table.parquet")
    with pytest.raises(CohortError, match="not readable as Parquet"):
        read_table(path)


def test_the_stem_of_a_table_keeps_the_dots_of_its_name() -> None:
    assert table_stem("lh.aparc.area.tsv") == "lh.aparc.area"
    assert table_stem("smri_freesurfer6.csv.gz") == "smri_freesurfer6"


@pytest.mark.real
def test_the_males_table_with_semicolons_bom_and_bare_cr(real_data: Path) -> None:
    frame = read_table(real_data / "abide1_males_desikan6" / "FS_features_ABIDE_males.csv", ["FILE_ID"])
    assert frame.shape == (743, 424)
    assert frame.columns[0] == "FILE_ID"
    assert int(frame["FIQ"].isna().sum()) >= 9
    assert not (frame.select_dtypes("number") == -9999).any().any()


@pytest.mark.real
def test_every_participants_table_of_the_samples_is_read(real_data: Path) -> None:
    paths = sorted((real_data / "format_samples" / "participants").rglob("*.tsv"))
    assert len(paths) >= 25
    for path in paths:
        frame = read_table(path)
        assert len(frame) >= 1
        assert list(frame.columns) == column_names(path)


@pytest.mark.real
def test_the_segmentation_table_that_lacks_values_is_refused(real_data: Path) -> None:
    with pytest.raises(CohortError, match="1 fields and the header has 2"):
        read_table(
            real_data / "format_samples" / "freesurfer_tables" / "fs-roi-volumes-fixture-invalid.txt"
        )


def test_codes_stay_text_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "id,code,long,volume,half,flag\na,007,1000000000000000001,12.50,0.5,0\nb,12,2,3,0,1\nc,,,,,\n"
    )
    frame = read_table(path)
    assert frame["code"].tolist()[:2] == ["007", "12"]
    assert frame["long"].tolist()[:2] == ["1000000000000000001", "2"]
    assert frame[["code", "long"]].isna().iloc[2].all()
    assert all(pd.api.types.is_numeric_dtype(frame[name]) for name in ("volume", "half", "flag"))


def test_long_whole_numbers_of_parquet_lose_no_digit_beside_a_missing_cell(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    ids = pd.array([9007199254740993, None, 12], dtype="Int64")
    pd.DataFrame({"id": ids, "scan": ids, "n": pd.array([1, None, 3], dtype="Int64")}).to_parquet(path)
    frame = read_table(path, ["id"])
    assert frame["id"].tolist()[::2] == ["9007199254740993", "12"]
    assert frame["scan"].tolist()[::2] == ["9007199254740993", "12"]
    assert frame["n"].tolist()[::2] == [1, 3]
    assert frame.isna().iloc[1].all()


def test_the_word_none_stays_where_words_are_expected(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,dx,n\na,None,None\nb,MDD,2\nc,,3\n")
    frame = read_table(path, ["dx"])
    assert frame["dx"].tolist()[:2] == ["None", "MDD"]
    assert frame["dx"].isna().tolist() == [False, False, True]
    assert frame["n"].isna().tolist() == [True, False, False]


@pytest.mark.parametrize("place", ["header", "row"])
def test_a_stray_quote_in_a_long_table_is_named_at_once(tmp_path: Path, place: str) -> None:
    path = tmp_path / "t.csv"
    rows = [f"s{i},{i}.5,2.5" for i in range(200_000)]
    head = 'id,"x,y' if place == "header" else "id,x,y"
    if place == "row":
        rows[3] = 's3,"3.5,2.5'
    path.write_text("\n".join([head, *rows]))
    started = time.perf_counter()
    with pytest.raises(CohortError, match="cannot be told apart") as error:
        read_table(path)
    assert time.perf_counter() - started < 5
    assert f"line {1 if place == 'header' else 5}" in str(error.value)
    assert "quote" in str(error.value)
