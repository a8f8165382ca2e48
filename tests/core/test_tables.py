from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_lpd.core.errors import DataError, one_line
from napari_lpd.core.text import read_table, table_bytes, write_table

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cf"))).map(one_line)
LINES = "path,A,B\nt0.png,1,0\nt1.png,0,1\n"
READ = [{"path": "t0.png", "A": "1", "B": "0"}, {"path": "t1.png", "A": "0", "B": "1"}]


def test_a_table_begins_with_the_mark_by_which_excel_knows_utf_8(tmp_path):
    path = write_table(tmp_path / "a.csv", [["mm²"], [1.5]])
    assert path.read_bytes() == b"\xef\xbb\xbfmm\xc2\xb2\r\n1.5\r\n"


@given(st.lists(st.tuples(TEXT, TEXT, st.floats(allow_nan=False)), max_size=5))
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "a.csv"
    write_table(path, [["a", "=b", "c"], *rows])
    columns, lines = read_table(path)
    assert columns == ["a", "=b", "c"]
    assert [tuple(line.cells.values()) for line in lines] == [(a, b, str(c)) for a, b, c in rows]


@given(st.lists(st.text(), min_size=2, max_size=4))
def test_other_programs_find_as_many_cells(cells):
    (row,) = csv.reader(table_bytes([cells]).decode("utf-8-sig").splitlines())
    assert len(row) == len(cells)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", ", ", "; "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoted", [False, True])
def test_tables_are_read_as_spreadsheets_save_them(tmp_path, encoding, separator, end, quoted):
    cells = [line.split(",") for line in LINES.splitlines()]
    lines = [separator.join(f'"{cell}"' if quoted else cell for cell in row) for row in cells]
    (tmp_path / "a.csv").write_bytes((end.join(lines) + end).encode(encoding))
    columns, read = read_table(tmp_path / "a.csv")
    assert columns == ["path", "A", "B"]
    assert [line.cells for line in read] == READ
    assert [line.number for line in read] == [2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "path,A,B,,\nt0.png,1,0,,\nt1.png,0,1,,\n,,,,\n,,,,\n",
        "sep=;\npath;A;B\nt0.png;1;0\nt1.png;0;1\n",
        ",path,A,B\n0,t0.png,1,0\n1,t1.png,0,1\n",
        "path,A,B\n\nt0.png,1,0\n\nt1.png,0,1",
    ],
)
def test_empty_columns_empty_lines_and_first_lines_of_excel_are_passed_over(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    assert [line.cells for line in read_table(tmp_path / "a.csv")[1]] == READ


def test_a_short_line_ends_in_empty_cells(tmp_path):
    (tmp_path / "a.csv").write_text("path,A,B\nt0.png\n")
    assert read_table(tmp_path / "a.csv")[1][0].cells == {"path": "t0.png", "A": "", "B": ""}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "first line is empty"),
        (b"path,A,A\n", "two columns are called A"),
        (b"path,A\nt.png,1,2\n", "line 2 has more cells"),
        ("path,Drüse\n".encode("latin-1"), "can't decode"),
        (b"path,A\nt.png," + b"x" * 200_000, "field"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line_that_says_why(tmp_path, content, why):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.csv: not readable as a table \(.*{why}.*\); save it as CSV in UTF-8"):
        read_table(tmp_path / "a.csv")
