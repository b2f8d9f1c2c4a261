"""The store: what goes in comes out, several write at once, nothing is lost by a kill, nothing strange is touched."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))
pytest.importorskip("sqlalchemy", reason="needs hasten[bench]")

from synthetic import make_entry, make_run  # noqa: E402

import hasten  # noqa: E402
from hasten.base.errors import CorruptFile, InputError  # noqa: E402
from hasten.bench import schema  # noqa: E402
from hasten.bench.results import Run  # noqa: E402
from hasten.bench.store import Store, default_place  # noqa: E402


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "bench.sqlite"


def keep(place: Path, run: Run) -> Run:
    with Store(place) as store:
        store.begin(run)
        store.finish(run)
    return run


def test_what_goes_in_comes_out(place: Path) -> None:
    run = make_run(threads=(1, 2))
    run.cautions, run.design["deep"] = ["load 3.1"], {"a": [1, None, True]}
    run.subjects[0].entries[1].trouble = "crashed: \N{SNOWMAN} 'quoted'"
    run.subjects[1].entries[2].error = float("inf")
    run.subjects[2].entries[0].peak_bytes = 1 << 40
    keep(place, run)
    with Store(place, create=False) as store:
        assert store.load(run.id) == run == store.load("latest") == store.load(run.id[:6])


def test_samples_arrive_round_by_round(place: Path) -> None:
    run = make_run(rounds=9)
    samples = {id(entry): entry.samples for subject in run.subjects for entry in subject.entries}
    subjects, run.subjects = run.subjects, []
    with Store(place) as store, Store(place, create=False) as reader:
        store.begin(run)
        for subject in subjects:
            run.subjects.append(subject)
            for count in (0, 3, 9):
                for entry in subject.entries:
                    entry.samples, entry.warmup_calls = samples[id(entry)][:count], count
                store.append(run)
                store.append(run)  # nothing new: nothing twice
                assert reader.load() == dataclasses.replace(run, status="interrupted", ended=reader.load().ended)
        store.finish(run)
        assert reader.load() == run


def test_a_kill_keeps_what_was_appended(place: Path) -> None:
    program = f"""if True:
        import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
        from synthetic import make_run
        from hasten.bench.store import Store
        run = make_run(); store = Store({str(place)!r}); store.begin(run); print("kept", flush=True)
        while True: pass
    """
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"kept\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    found = Store(place).load()
    assert found.status == "interrupted" and found.subjects == make_run().subjects


def test_several_writers_at_once(place: Path) -> None:
    """Four processes make the file together and write 40 batches each."""
    write_together(str(place), range(4))
    assert sqlite3.connect(place).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def write_together(place: str, seeds: range) -> None:
    program = f"""if True:
        import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
        from synthetic import make_entry, make_run
        from hasten.bench.store import Store
        run = make_run(["hasten"], {{"m.onnx": 1e-3}}, rounds=0, seed=int(sys.argv[1]))
        entry, samples = run.subjects[0].entries[0], make_entry("hasten", 1e-3, rounds=400).samples
        with Store({str(place)!r}) as store:
            store.begin(run)
            for end in range(10, 401, 10):
                entry.samples = samples[:end]
                store.append(run)
            store.finish(run)
    """
    writers = [subprocess.Popen([sys.executable, "-c", program, str(seed)], stderr=subprocess.PIPE, text=True) for seed in seeds]
    for writer in writers:
        assert writer.communicate(timeout=120)[1] == ""
    wanted = make_entry("hasten", 1e-3, rounds=400).samples
    with Store(place) as store:
        for seed in seeds:
            run = store.load(make_run(["hasten"], {"m.onnx": 1e-3}, rounds=0, seed=seed).id)
            assert run.status == "complete" and run.subjects[0].entries[0].samples == wanted


@pytest.mark.skipif("HASTEN_TEST_DATABASE" not in os.environ, reason="needs an empty database: HASTEN_TEST_DATABASE=postgresql+psycopg://...")
def test_another_database() -> None:
    place = os.environ["HASTEN_TEST_DATABASE"]
    write_together(place, range(4))
    run = make_run(threads=(1, 2), rounds=2000, seed=9)
    run.subjects[0].entries[1].error = float("inf")
    with Store(place) as store:
        store.begin(run)
        store.append(run)
        base, peer = run.subjects[0].entries[:2]
        store.finish(run, [{"entry": peer, "base": base, "word": "better", "facts": {"ratio": 1.6}}])
    with Store(place, create=False) as store:
        assert store.load(run.id) == run and len(store.list()) == 5


def test_a_hundred_thousand_samples(place: Path) -> None:
    run = make_run(["hasten", "onnxruntime"], {"m.onnx": 1e-3}, rounds=50_000)
    began = time.monotonic()
    keep(place, run)
    assert Store(place).load() == run
    assert time.monotonic() - began < 60  # hangs are found, speed is not judged


def test_the_list_and_beginnings_of_ids(place: Path) -> None:
    runs = [keep(place, make_run(seed=seed)) for seed in (1, 2)]
    with Store(place) as store:
        newest, oldest = store.list()
        assert (newest.id, oldest.id) == (runs[1].id, runs[0].id)
        assert (newest.models, newest.samples, newest.status) == (3, 300, "complete")
        assert newest.engines == ("hasten", "onnxruntime", "openvino:precision=f32", "openvino", "ncnn")
        with pytest.raises(InputError, match="no run 'zz'; `hasten bench list`"):
            store.load("zz")
        twin = dataclasses.replace(make_run(seed=3), id=runs[0].id[:8] + make_run(seed=3).id[8:])
        keep(place, twin)
        with pytest.raises(InputError, match="2 runs begin with"):
            store.load(runs[0].id[:8])


def test_a_store_that_is_not_there(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no store .* yet"):
        Store(place, create=False)
    assert not place.parent.exists()
    with pytest.raises(InputError, match="holds no run yet"):
        Store(place).load()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be (made|read)"):
        Store(tmp_path / "file" / "bench.sqlite")
    with pytest.raises(InputError, match="cannot be opened"):
        Store("nosuch://database")


def test_another_version_is_left_alone(place: Path) -> None:
    keep(place, make_run())
    with sqlite3.connect(place) as db:
        db.execute("UPDATE hasten_store SET version = 7")
    before = place.read_bytes()
    with pytest.raises(CorruptFile, match="another version of Hasten: its layout is 7"):
        Store(place)
    assert place.read_bytes() == before


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "other.sqlite"
    with sqlite3.connect(place) as db:
        db.execute("CREATE TABLE letters (a)")
    before = place.read_bytes()
    with pytest.raises(CorruptFile, match="something else, with tables letters"):
        Store(place)
    assert place.read_bytes() == before


@pytest.mark.parametrize("damage", ["text", "head", "half", "middle"])
def test_a_damaged_file_is_told_and_left_alone(place: Path, damage: str) -> None:
    keep(place, make_run(rounds=400))
    content = bytearray(place.read_bytes())
    if damage == "text":
        content[:] = b"run,model,seconds\n1,2,3\n"
    elif damage == "head":
        content[:16] = bytes(16)
    elif damage == "half":
        del content[len(content) // 2 :]
    else:
        content[4096 : len(content) - 4096] = os.urandom(len(content) - 8192)
    place.write_bytes(content)
    with pytest.raises(CorruptFile, match="left as it is"):
        Store(place).begin(make_run(seed=5))
    assert place.read_bytes() == content


def test_another_layout_is_another_version() -> None:
    """Whoever changes a table changes VERSION, too, and this fingerprint: else old stores break at the first write, not with a word at the opening."""
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.schema import CreateTable

    layout = "".join(str(CreateTable(table).compile(dialect=sqlite.dialect())) for table in schema.TABLES.sorted_tables)
    assert (schema.VERSION, hashlib.sha256("".join(layout.split()).encode()).hexdigest()[:12]) == (1, "aec5f3470f01")


def test_verdicts_are_kept(place: Path) -> None:
    run = make_run()
    base, peer = run.subjects[0].entries[:2]
    with Store(place) as store:
        store.begin(run)
        store.finish(run, [{"entry": peer, "base": base, "word": "better", "facts": {"ratio": 1.6}}])
    rows = sqlite3.connect(place).execute("SELECT word, facts, entry - base FROM verdict").fetchall()
    assert rows == [("better", '{"ratio": 1.6}', 1)]


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_place() == tmp_path / "hasten" / "bench.sqlite"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_place() == Path.home() / ".local/share/hasten/bench.sqlite"


def test_without_sqlalchemy_one_is_told_what_to_install() -> None:
    program = "import sys; sys.modules['sqlalchemy'] = None; import hasten.bench.store"
    path = {**os.environ, "PYTHONPATH": str(Path(hasten.__file__).parents[1])}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=path).stderr
    assert "MissingDependency" in said and "pip install 'hasten[bench]'" in said


def test_a_url_is_a_place_too(place: Path) -> None:
    place.parent.mkdir()
    with Store(f"sqlite:///{place}") as store:
        store.begin(make_run())
    assert Store(place).load().subjects == make_run().subjects


def test_a_full_disk_is_told(place: Path) -> None:
    run = make_run(["hasten"], {"m.onnx": 1e-3}, rounds=0)
    with Store(place) as store:
        store.begin(run)
        with store._writing() as db:
            db.exec_driver_sql("PRAGMA max_page_count = 1")
        run.subjects[0].entries[0].samples = make_entry("hasten", 1e-3, rounds=20_000).samples
        with pytest.raises(InputError, match="full"):
            store.append(run)
        with store._writing() as db:
            db.exec_driver_sql("PRAGMA max_page_count = 1000000")
        store.finish(run)  # there is room again: nothing is missing
        assert store.load() == run
