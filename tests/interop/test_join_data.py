"""data.js of the page `/join` in Node.js: a CSV, a drawing, the batches of a round."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridkit.node.join import STATIC
from tests.interop.npm import node

pytestmark = pytest.mark.interop

_CALL = """
import * as data from './data.mjs';
import { readFileSync } from 'node:fs';
const plain = (value) => (ArrayBuffer.isView(value) ? [...value] : value);
const results = JSON.parse(readFileSync(0, 'utf8')).map(([name, ...given]) => {
  try {
    const made = data[name](...given);
    if (!made[Symbol.iterator]) return { made };
    return { made: [...made].map((each) => (each.x ? { ...each, x: plain(each.x) } : each)) };
  } catch (error) {
    return { error: error.message };
  }
});
console.log(JSON.stringify(results));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    shutil.copy(STATIC / "data.js", folder / "data.mjs")
    (folder / "call.mjs").write_text(_CALL)
    return folder


def call(folder: Path, *calls: list[Any]) -> list[Any]:
    """What the functions return, or ``{"error": …}``."""
    command = [node(), str(folder / "call.mjs")]
    done = subprocess.run(command, input=json.dumps(calls), capture_output=True, text=True, check=True)
    return [result.get("made", result) for result in json.loads(done.stdout)]


def test_what_can_be_drawn(folder: Path) -> None:
    asked = (64, 784, 63, 4, 9, 16, 4096, 4225, 0, 0.25)
    assert call(folder, *(["sideOf", n] for n in asked)) == [8, 28, 0, 0, 0, 4, 64, 0, 0, 0]


@pytest.mark.parametrize(
    "text",
    [
        "1,2,0\n3.5,-4e1,1\n",
        "1;2;0\r\n3.5;-4e1;1",
        "a\tb\tlabel\n1\t2\t0\n\n3.5\t-4e1\t1\n\n",
        '\ufeff"height","width","kind"\n"1"," 2 ","0"\n +3.5 ,-40.,1\n',
    ],
)
def test_spellings_of_a_csv(folder: Path, text: str) -> None:
    assert call(folder, ["parseCsv", text, 2, 2]) == [[{"x": [1, 2], "label": 0}, {"x": [3.5, -40], "label": 1}]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file has no examples"),
        ("a,b,label\n", "the file has no examples"),
        ("1,2,0\n1,2\n", "line 2 has 2 values, 3 (2 features and the label) are wanted"),
        ("1,2,3,0\n", "line 1 has 4 values, 3 (2 features and the label) are wanted"),
        ("a,b,label\n\n1,x,0\n", 'line 3, value 2 isn\'t a number: "x"'),
        ("a,2,0\n", 'line 1, value 1 isn\'t a number: "a"'),
        ("1,,0\n", 'line 1, value 2 isn\'t a number: ""'),
        ("1,NaN,0\n", 'line 1, value 2 isn\'t a number: "NaN"'),
        ("1,0x10,0\n", 'line 1, value 2 isn\'t a number: "0x10"'),
        ("1,1e99,0\n", "line 1, value 2 is too large"),
        ("1,2,2\n", "line 1 has the label 2; labels are 0 to 1"),
        ("1,2,-1\n", "line 1 has the label -1; labels are 0 to 1"),
        ("1,2,0.5\n", "line 1 has the label 0.5; labels are 0 to 1"),
        ("<html>\n", "the file has no examples"),
    ],
)
def test_what_is_wrong_in_a_csv_is_named_by_its_line(folder: Path, text: str, said: str) -> None:
    [found] = call(folder, ["parseCsv", text, 2, 2])
    assert found["error"] == said


def test_a_drawing_is_cut_out_scaled_and_centred(folder: Path) -> None:
    """The same picture wherever and however large it was drawn."""
    pictures = []
    for left, top, length in ((10, 12, 40), (30, 5, 80)):
        ink = np.zeros((112, 112), np.float32)
        ink[top : top + length, left : left + length // 2] = 1
        pictures.append(ink)
    empty = np.zeros((112, 112), np.float32)
    asked = [["shrink", ink.ravel().tolist(), 112, side] for side in (8, 28) for ink in (*pictures, empty)]
    small, same, nothing, large, also, none = (np.array(made) for made in call(folder, *asked))
    assert np.array_equal(small, same) and np.allclose(large, also, atol=0.15) and not nothing.any() and not none.any()
    assert np.array_equal(small.reshape(8, 8), np.pad(np.ones((8, 4)), ((0, 0), (2, 2))))  # it fills the height
    rows, columns = np.nonzero(large.reshape(28, 28) > 0.5)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (4, 24, 9, 19)  # 20 of 28, as in MNIST
    assert large.min() >= 0 and large.max() <= 1


def test_ink_is_averaged_over_a_cell(folder: Path) -> None:
    ink = np.zeros((96, 96), np.float32)
    ink[::2, :] = 1  # stripes
    [made] = call(folder, ["shrink", ink.ravel().tolist(), 96, 8])
    assert np.allclose(made, 0.5, atol=0.03)


def test_every_epoch_takes_every_example_once_in_another_order(folder: Path) -> None:
    made, few = call(folder, ["batches", 10, 4, 3], ["batches", 10, 4, 3, 4])
    assert [len(batch) for batch in made] == [4, 4, 2] * 3 and [len(batch) for batch in few] == [4, 4, 2, 4]
    epochs = [[place for batch in made[at : at + 3] for place in batch] for at in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) > 1
