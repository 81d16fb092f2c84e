"""What leaves the clinic: no path, no id where numbers are asked for."""

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from retina_kp.data.records import PairRecord
from retina_kp.notebook import privacy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/li/clinic/003_01/a.png: empty file", "a.png: empty file"),
        ("~/scans/x.tif and ../y/z.txt, line 3", "x.tif and z.txt, line 3"),
        ("C:\\data\\li wei\\x.png", "x.png"),
        ("/home/li wei/clinic/x.png: damaged", "x.png: damaged"),  # only a slash ends a folder's name
        ("/home/O'Brien, Ann/a b/x.png, line 3", "x.png, line 3"),
        ("/a/b.png and C:\\li wei\\c.png or ~/d e/f.png", "b.png and c.png or f.png"),
        ("weights = ['/home/Wang Li/runs/a', '/home/Wang Li/runs/b']", "weights = ['a', 'b']"),
        ("root = '/home/li/clinic'", "root = 'clinic'"),
        ("points 3/4, a/b ratio, 12:30", "points 3/4, a/b ratio, 12:30"),
        ("https://dask.org/a and outputs/runs/x", "https://dask.org/a and outputs/runs/x"),
    ],
)
def test_paths_are_cut_to_their_last_part(text, expected):
    assert privacy.without_paths(text) == expected


def test_below_the_root_the_rest_stays_blanks_and_all():
    text = "/home/li/my clinic/003_01/a b.png: empty; /home/li/other/c.png; /home/li/my clinic"
    assert privacy.without_paths(text, "/home/li/my clinic") == "003_01/a b.png: empty; c.png; my clinic"


def records(tmp_path):
    return [
        PairRecord(pair, eye, "CF", "FA", tmp_path / f"{pair}.png", tmp_path / "m.png")
        for pair, eye in (("wang_od_1", "wang_od"), ("wang_od_2", "wang_od"), ("li_os", "li_os"))
    ]


def test_numbers_instead_of_names(tmp_path):
    names = privacy.pseudonyms(records(tmp_path))
    assert names == {
        "wang_od_1": ("pair 001", "eye 01"),
        "wang_od_2": ("pair 002", "eye 01"),
        "li_os": ("pair 003", "eye 02"),
    }
    rows = privacy.rename(pd.DataFrame({"pair": ["li_os", "new"], "eye": ["li_os", "e"], "x": [1, 2]}), names)
    assert rows.to_numpy().tolist() == [["pair 003", "eye 02", 1], ["new", "e", 2]]
    key = privacy.write_key(tmp_path / "private" / "key.csv", records(tmp_path), names).read_text()
    assert key.splitlines()[1].startswith("pair 001,eye 01,wang_od_1,wang_od,")


def test_a_shared_notebook_holds_no_path(tmp_path):
    cell = new_code_cell(
        "root = '/home/li/clinic'\nshow = True",
        metadata={"tags": ["injected-parameters"], "papermill": {"a": "/home/li"}},
    )
    cell.outputs = [
        new_output("stream", text="read /home/li/clinic/a.png"),
        new_output("display_data", data={"text/plain": "'/home/li/b'"}),
    ]
    path = tmp_path / "executed.ipynb"
    nbformat.write(
        new_notebook(cells=[cell], metadata={"papermill": {"parameters": {"root": "/home/li/clinic"}}}), path
    )
    shared = privacy.share_notebook(path, tmp_path / "shared.ipynb")
    text = shared.read_text()
    assert "/home" not in text and "root = 'clinic'" in text and "read a.png" in text and "show = True" in text
    nbformat.validate(nbformat.read(shared, 4))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('weights = ["/home/Wang Li/runs/03_pke/a b", "lite"]', "weights = ['a b', 'lite']"),
        ("root = '/home/li wei/my, clinic/'", "root = 'my, clinic'"),
        ("root = '../Wang Li/data'\nhide_names = True", "root = '(hidden)'\nhide_names = True"),
        ("turns = [0.5]\nshow = True", "turns = [0.5]\nshow = True"),
    ],
)
def test_an_injected_value_is_cut_as_a_whole(tmp_path, source, expected):
    cell = new_code_cell(source, metadata={"tags": ["injected-parameters"]})
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "executed.ipynb")
    shared = nbformat.read(privacy.share_notebook(tmp_path / "executed.ipynb", tmp_path / "shared.ipynb"), 4)
    assert shared.cells[0].source == expected


def test_kinds_of_reasons_hold_no_word_of_the_reason():
    for reason, kind in {
        "duplicate pair id 'wang': the first one is kept": "its pair id occurs twice",
        "wang: points belong to both images or to none": "points of one image only",
        "wang.txt, line 2: 2 numbers expected, found 'wang li'": "numbers that cannot be read",
        "/mask/wang.jpeg: no such file; check": "a missing file",
        "mode cffa: loaded without vessel mask: wang_seg.png is missing": "no usable vessel mask; the pair itself was kept",
        "wang says hello": privacy.OTHER_REASON,
    }.items():
        assert privacy.reason_kind(reason) == kind and "wang" not in kind
    assert privacy.without_message("error: OSError: /home/wang/a.png: gone") == "error: OSError"
    assert privacy.without_message("low confidence: 0.2") == "low confidence: 0.2"
