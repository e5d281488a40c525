"""Marks: edits against sets of positions, undo across restarts, several people, a kill between history and file."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from tests.unit.studio.conftest import SIDE, flags_of
from xaikit.cli.data import image_folder
from xaikit.core.errors import InvalidInputError
from xaikit.explainers import Gradient
from xaikit.files.marks import MarkFolder, MarkKey, from_runs, safe_path, to_runs
from xaikit.files.pictures import Preparation
from xaikit.runs import explain_dataset
from xaikit.studio.marks import MarkEditor

KEY = MarkKey("must-not-matter", "sample", "a/b.png")


@pytest.fixture
def editor(tmp_path):
    return MarkEditor(MarkFolder.begin(tmp_path / "marks", "image", (8, 9)))


def positions(*numbers):
    return np.array(sorted(numbers), np.int64)


def changed(editor, added=(), removed=(), base=0, identifier="", key=KEY, **facts):
    return editor.change(key, positions(*added), positions(*removed), base=base, identifier=identifier, facts=facts)


def marked(editor, key=KEY):
    return set(editor.state(key).mark.positions.tolist())


def test_runs_and_positions_are_the_same_set():
    random = np.random.default_rng(0)
    for _ in range(50):
        flags = random.random(200) < random.random()
        runs = to_runs(np.flatnonzero(flags).astype(np.int64))
        assert np.array_equal(flags_of(runs, 200), flags)
        assert np.array_equal(from_runs(runs), np.flatnonzero(flags))
    for wrong in ([1], [-1, 2], ["a", "b"], [0, 2**40], None):
        with pytest.raises(InvalidInputError, match="positions"):
            from_runs(wrong)


def test_a_mark_is_a_picture_at_once(editor, tmp_path):
    changed(editor, [0, 10, 71], sample=3)
    with Image.open(tmp_path / "marks/must-not-matter/sample/a/b.png") as picture:
        pixels = np.array(picture)
    assert pixels.shape == (8, 9)
    assert set(np.flatnonzero(pixels == 255)) == {0, 10, 71}
    assert set(np.unique(pixels)) == {0, 255}
    assert editor.folder.read(KEY).facts == {"sample": 3}
    with pytest.raises(InvalidInputError, match=r"marks lie in 0\.\.71, got 72"):
        changed(editor, [72])


def test_random_edits_and_undos_are_a_stack(editor):
    random, now, stack, undone = np.random.default_rng(1), set(), [], []
    for step in range(60):
        way = random.integers(4)
        if way == 0 and stack:
            undone.append(now)
            now = stack.pop()
            editor.undo(KEY)
        elif way == 1 and undone:
            stack.append(now)
            now = undone.pop()
            editor.undo(KEY, redo=True)
        else:
            added, removed = ({int(n) for n in random.integers(0, 72, 5)} for _ in range(2))
            stack, undone = [*stack, now], []
            now = (now | added) - removed
            changed(editor, added, removed)
        if step % 10 == 0:
            editor = MarkEditor(MarkFolder(editor.folder.path))  # as after a restart
        assert marked(editor) == now
        state = editor.state(KEY)
        assert (state.can_undo, state.can_redo) == (bool(stack), bool(undone))
    while stack:
        editor.undo(KEY)
        assert marked(editor) == stack.pop()
    with pytest.raises(InvalidInputError, match="nothing to undo"):
        editor.undo(KEY)


def test_two_people_lose_nothing_and_are_told(editor):
    other = MarkEditor(MarkFolder(editor.folder.path))
    assert not changed(editor, [1, 2], base=0).merged
    state = changed(other, [5], [2], base=0)  # had not seen the first edit
    assert state.merged
    assert set(state.mark.positions.tolist()) == {1, 5}
    editors = [editor, other]

    def work(number):
        for i in range(12):
            changed(editors[number], [10 + 12 * number + i], base=0)

    threads = [threading.Thread(target=work, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert marked(editor) == {1, 5, *range(10, 34)}
    assert editor.state(KEY).mark.edit == 26


def test_an_edit_sent_twice_counts_once(editor):
    changed(editor, [4], identifier="a")
    changed(editor, [], [4], identifier="b")
    assert changed(editor, [4], identifier="a").mark.positions.tolist() == []
    assert editor.state(KEY).mark.edit == 2


def test_names_that_differ_in_their_ending_do_not_share_a_mark(editor):
    keys = [MarkKey("must-not-matter", "sample", name) for name in ("a.jpg", "a.png")]
    changed(editor, [3], key=keys[0], name="a.jpg")
    with pytest.raises(InvalidInputError, match=r"is the mark of a\.jpg, whose name differs from a\.png in its ending"):
        changed(editor, [4], key=keys[1], name="a.png")
    assert marked(editor, keys[0]) == {3}


def test_an_undo_sent_twice_counts_once(editor):
    for position in (3, 4, 5):
        changed(editor, [position])
    for _ in range(2):  # the answer was lost with the server, and the page sent it again
        state = editor.undo(KEY, identifier="u")
        assert state.mark.positions.tolist() == [3, 4]
    assert editor.undo(KEY, identifier="v").mark.positions.tolist() == [3]
    assert editor.undo(KEY, redo=True, identifier="w").mark.positions.tolist() == [3, 4]
    assert editor.undo(KEY, redo=True, identifier="w").mark.positions.tolist() == [3, 4]


def test_a_kill_between_history_and_file_loses_nothing(editor, monkeypatch):
    changed(editor, [3])
    before = editor.folder.file_of(KEY).read_bytes()
    monkeypatch.setattr(
        MarkFolder, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device", "x"))
    )
    with pytest.raises(OSError, match="No space left"):
        changed(editor, [7], identifier="a")
    monkeypatch.undo()
    assert editor.folder.file_of(KEY).read_bytes() == before
    assert marked(editor) == {3, 7}
    assert editor.recover() == 1
    assert set(editor.folder.read(KEY).positions.tolist()) == {3, 7}
    assert editor.recover() == 0


def test_a_line_that_was_cut_off_is_left_out(editor):
    changed(editor, [3])
    path = next((editor.folder.path / ".history").rglob("*.jsonl"))
    with path.open("a") as file:
        file.write('{"number": 2, "added": [5,')
    assert marked(editor) == {3}
    changed(editor, [6])
    assert marked(MarkEditor(MarkFolder(editor.folder.path))) == {3, 6}


def test_a_long_history_is_cut_and_still_undone(editor, monkeypatch):
    monkeypatch.setattr("xaikit.studio.marks.KEPT", 10)
    monkeypatch.setattr("xaikit.studio.marks.MOST", 20)
    for i in range(35):
        changed(editor, [i % 72], [(i + 1) % 72])
    before = marked(editor)
    assert len(next((editor.folder.path / ".history").rglob("*.jsonl")).read_text().splitlines()) <= 22
    editor.undo(KEY)
    editor.undo(KEY, redo=True)
    assert marked(editor) == before


def test_a_mark_of_another_sample_of_that_name_is_refused(editor):
    changed(editor, [3], fingerprint="one")
    with pytest.raises(InvalidInputError, match=r"another sample of the same name \(a/b.png.*--marks"):
        changed(editor, [4], fingerprint="two")
    with pytest.raises(InvalidInputError, match="another sample of the same name"):
        editor.state(KEY, {"fingerprint": "two"})
    assert set(editor.state(KEY, {"fingerprint": "one"}).mark.positions) == {3}
    with pytest.raises(InvalidInputError, match=r"holds marks of image samples of shape \(8, 9\)"):
        MarkFolder.begin(editor.folder.path, "image", (9, 9))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("cat.jpg", "cat.png"), ("a/b/c.PNG", "a/b/c.png"), ("scan.2", "scan.2.png"), ("row 5", "row 5.png"),
        ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd.png"), ("/etc/x", "%/etc/x.png"), (".hidden", "%2Ehidden.png"),
        ("a\\b:c?", "a%5Cb%3Ac%3F.png"), ("50 %", "50 %25.png"), ("a\nb\0", "a%0Ab%00.png"), ("", "%.png"),
    ],
)  # fmt: skip
def test_every_name_is_a_file_inside_the_folder(name, path, tmp_path):
    assert str(safe_path(name, ".png")) == path
    assert (tmp_path / safe_path(name, ".png")).resolve().is_relative_to(tmp_path.resolve())


def test_long_names_stay_apart():
    one, two = (str(safe_path("ä" * 300 + end, ".png")) for end in "ab")
    assert one != two
    assert len(one.encode()) < 255


def test_the_page_marks_a_sample_a_class_and_all(called, runs):
    page = called(runs[0])
    edits = {"sample": [0, 2], "class": [6, 1], "all": [35, 1]}
    for scope, runs_of_edit in edits.items():
        answer = page.post("/api/marks", {"meaning": "must-not-matter", "scope": scope, "position": 3, "base": 0,
                                          "added": runs_of_edit, "removed": [], "identifier": scope})  # fmt: skip
        assert answer == {"edit": 1, "runs": runs_of_edit, "merged": False, "undo": True, "redo": False}
    home = runs[0] / "marks" / "must-not-matter"
    assert sorted(p.relative_to(home).as_posix() for p in home.rglob("*.png")) == [
        "all.png",
        "class/1.png",
        "sample/train/3.png",
    ]
    expected = {3: {0, 1, 6, 35}, 5: {6, 35}, 4: {35}}
    for position, inside in expected.items():
        row = page.session.catalogues[0].at(position)
        flags = page.session.marked(row, page.session.catalogues[0].run.sample(row["shard"], row["row"]))
        assert set(np.flatnonzero(flags)) == inside
    answer = page.post("/api/marks", {"meaning": "must-not-matter", "scope": "all", "position": 3, "undo": True})
    assert answer["runs"] == []
    assert page.get("/api/state")["marked"]["must-not-matter"] == {"all": 1, "class": 1, "cluster": 0, "sample": 1}
    for wrong in ({"meaning": "x"}, {"scope": "../all"}, {"position": "1"}, {"position": 10**6}, {"added": [0, 99]}):
        content = {"meaning": "must-matter", "scope": "all", "position": 3, "base": 0, "added": [1, 1], **wrong}
        assert "error" in page.post("/api/marks", content, status=400)


def test_coco_out_and_in_is_the_same_mark(called, runs, tmp_path):
    page = called(runs[0])
    random = np.random.default_rng(0)
    for position in (0, 2, 5):
        flags = random.random(SIDE * SIDE) < 0.4
        page.post("/api/marks", {"meaning": "must-matter", "scope": "sample", "position": position, "base": 0,
                                 "added": to_runs(np.flatnonzero(flags).astype(np.int64))})  # fmt: skip
    page.post("/api/marks", {"meaning": "must-not-matter", "scope": "all", "position": 0, "base": 0, "added": [0, 7]})
    coco = page.get("/api/coco")
    again = called(runs[0], marks=tmp_path / "again")
    assert again.post("/api/coco", {"coco": coco}) == {"marked": 4, "unknown": 0}
    for query in ("scope=sample&position=0", "scope=sample&position=2", "scope=sample&position=5"):
        path = f"/api/marks?meaning=must-matter&{query}"
        assert again.get(path)["runs"] == page.get(path)["runs"] != []
    assert again.get("/api/marks?meaning=must-not-matter&scope=all&position=9")["runs"] == [0, 7]
    assert "no COCO" in again.post("/api/coco", {"coco": {"a": 1}}, status=400)["error"]


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (40, 40)])
def test_coco_of_the_pictures_goes_the_way_of_the_pictures(called, tmp_path, monkeypatch, size):
    """Pictures of several forms whose centre square the model saw: marks lie where their pictures' pixels are."""
    monkeypatch.chdir(tmp_path)
    height, width = size
    pixels = np.zeros((height, width), np.uint8)
    pixels[16:26, 12:24] = 255  # what is annotated is what is white
    Path("photos").mkdir()
    Image.fromarray(pixels).save("photos/a.png")
    data = image_folder(Path("photos"), Preparation((8,), crop=0.8, grey=True))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    explain_dataset(Gradient(model), data, out="run", keep_inputs=True, progress=False)
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [12, 16, 12, 10]}],
        "categories": [{"id": 1, "name": "ruler"}],
    }
    page = called(Path("run"), model="m:make", data="photos")
    assert page.post("/api/coco", {"coco": coco}) == {"marked": 1, "unknown": 0}
    marked = flags_of(page.get("/api/marks?meaning=must-not-matter&scope=sample&position=0")["runs"], 64)
    seen = data[0].reshape(-1).numpy()
    assert marked[seen > 0.75].all()
    assert not marked[seen < 0.25].any()
    assert 4 < marked.sum() < 40
    coco["images"][0] |= {"height": 40, "width": 100}
    assert "a.png was annotated at 40x100" in page.post("/api/coco", {"coco": coco}, status=400)["error"]
