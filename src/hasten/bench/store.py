"""Where measurements are kept: machines, runs, raw samples, verdicts. SQLite in WAL mode by default, any database by its SQLAlchemy URL.

    with Store() as store:              # ~/.local/share/hasten/bench.sqlite
        store.begin(run)                # from here on whatever is appended survives a kill
        store.append(run)               # after each round: writes what the run has and the store has not
        store.finish(run, verdicts)
        run = store.load("latest")

Several processes may write at once. A file that is damaged, belongs to something else or has another layout is refused with CorruptFile and
left as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hasten.base.errors import CorruptFile, InputError, MissingDependency
from hasten.bench.results import Entry, Run, Sample, Subject

try:
    import sqlalchemy as sa
except ImportError:
    raise MissingDependency("measurements are kept with SQLAlchemy, which is not installed: pip install 'hasten[bench]'") from None

from hasten.bench import schema as t

SQLITE_HEAD = b"SQLite format 3\0"
LOCK_SECONDS = 60  # how long a writer waits for the others
RETRY_SECONDS = 0.5
DAMAGE = ("malformed", "not a database", "disk i/o error", "corrupt")
SAMPLE_FIELDS = tuple(field.name for field in fields(Sample))
OTHER_PLACE = "It is left as it is; give another place with --store, or move it away."


def default_place() -> Path:
    """The store of this user."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "hasten" / "bench.sqlite"


@dataclass(frozen=True)
class RunLine:
    """A kept run in a list."""

    id: str
    began: str
    status: str
    revision: str
    models: int
    samples: int
    engines: tuple[str, ...]


class Store:
    """A place where runs are kept. `place`: a file, an SQLAlchemy URL, or None for the user's own.

    Raises CorruptFile for what is no store of this layout; InputError where the place cannot be used, or, with `create=False`, is empty.
    """

    def __init__(self, place: str | Path | None = None, *, create: bool = True) -> None:
        self.place = str(place or default_place())
        self._rows: dict[int, _Row] = {}  # by the id() of a subject or an entry of the run being written
        if "://" in self.place:
            try:
                self._engine = sa.create_engine(self.place)
            except (sa.exc.ArgumentError, ImportError) as error:
                raise InputError(f"the store {self.place} cannot be opened: {error}") from None
            self._file = Path(self._engine.url.database) if self._sqlite and self._engine.url.database else None
        else:
            self._file = Path(self.place).expanduser()
            self._engine = sa.create_engine(f"sqlite:///{self._file}")
        self._check_file(create)
        if self._sqlite:
            sa.event.listen(self._engine, "connect", _set_up_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        with self._told():
            self._open(create)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the database go."""
        self._engine.dispose()

    # -- writing ---------------------------------------------------------------------------------------------------------------------------

    def begin(self, run: Run) -> None:
        """Enter a run; until `finish` it counts as interrupted. Raises CorruptFile where the store is damaged."""
        facts = json.dumps(run.machine, sort_keys=True, default=str)
        digest = hashlib.sha256(facts.encode()).hexdigest()
        with self._writing() as db:
            if self._sqlite and (found := db.exec_driver_sql("PRAGMA quick_check(1)").scalar()) != "ok":
                raise self._damaged(str(found).strip().replace("\n", " "))
            if db.execute(sa.select(t.machine.c.id).where(t.machine.c.id == digest)).first() is None:
                with contextlib.suppress(sa.exc.IntegrityError), db.begin_nested():  # another writer may enter the same machine now
                    db.execute(t.machine.insert(), {"id": digest, "facts": json.loads(facts)})
            db.execute(t.run.insert(), {"id": run.id, "machine": digest, **_run_columns(run), "status": "interrupted"})
        self._rows.clear()
        self.append(run)

    def append(self, run: Run) -> None:
        """Write the subjects, entries and samples that are new or changed since the last call."""
        before = {key: replace(row) for key, row in self._rows.items()}
        try:
            with self._writing() as db:
                for subject in run.subjects:
                    kept = self._keep(db, t.subject, subject, {"run": run.id, **_columns(subject, "entries")})
                    for entry in subject.entries:
                        row = self._keep(db, t.entry, entry, {"subject": kept.id, **_columns(entry, "samples")})
                        if len(entry.samples) < row.samples:  # a check after the rounds dropped what was measured
                            db.execute(t.sample.delete().where(t.sample.c.entry == row.id))
                            row.samples = 0
                        if fresh := entry.samples[row.samples :]:
                            db.execute(t.sample.insert(), [{"entry": row.id, **vars(sample)} for sample in fresh])
                            row.samples = len(entry.samples)
        except BaseException:
            self._rows = before  # the database took it all back
            raise

    def finish(self, run: Run, verdicts: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write the rest, the verdicts that were given, and how the run ended.

        A verdict is `{"entry": Entry, "base": Entry, "word": str, "facts": {...}}`, both entries of this run.
        """
        self.append(run)
        with self._writing() as db:
            db.execute(t.run.update().where(t.run.c.id == run.id), _run_columns(run))
            if verdicts:
                rows = [{**verdict, "entry": self._rows[id(verdict["entry"])].id, "base": self._rows[id(verdict["base"])].id} for verdict in verdicts]
                db.execute(t.verdict.insert(), rows)

    def _keep(self, db: sa.Connection, table: sa.Table, record: object, columns: dict[str, Any]) -> _Row:
        """The row of a subject or an entry, written if it is new or changed."""
        row = self._rows.get(id(record))
        if row is None:
            key = db.execute(table.insert(), columns).inserted_primary_key
            assert key is not None
            row = self._rows[id(record)] = _Row(key[0], columns, record)
        elif row.columns != columns:
            db.execute(table.update().where(table.c.id == row.id), columns)
            row.columns = columns
        return row

    # -- reading ---------------------------------------------------------------------------------------------------------------------------

    def list(self) -> list[RunLine]:
        """The runs that are kept, the newest first."""
        with self._reading() as db:
            runs = db.execute(sa.select(t.run).order_by(t.run.c.began.desc(), t.run.c.id)).all()
            models = dict(_pairs(db, sa.select(t.subject.c.run, sa.func.count()).group_by(t.subject.c.run)))
            joined = t.subject.join(t.entry, t.entry.c.subject == t.subject.c.id)
            counted = sa.select(t.subject.c.run, sa.func.count()).select_from(joined.join(t.sample, t.sample.c.entry == t.entry.c.id))
            samples = dict(_pairs(db, counted.group_by(t.subject.c.run)))
            engines: dict[str, dict[str, None]] = {}
            for key, engine in _pairs(db, sa.select(t.subject.c.run, t.entry.c.engine).select_from(joined).order_by(t.entry.c.id)):
                engines.setdefault(key, {})[engine] = None
        return [
            RunLine(row.id, row.began, row.status, row.revision, models.get(row.id, 0), samples.get(row.id, 0), tuple(engines.get(row.id, ())))
            for row in runs
        ]  # fmt: skip

    def find(self, key: str) -> str:
        """The whole id of "latest" or of the beginning of an id; InputError where none or several have it."""
        with self._reading() as db:
            ids = db.execute(sa.select(t.run.c.id).order_by(t.run.c.began.desc())).scalars().all()
        if not ids:
            raise InputError(f"the store {self.place} holds no run yet: measure with `hasten bench MODEL --peers onnxruntime`.")
        found = ids[:1] if key == "latest" else [name for name in ids if key and name.startswith(key)]
        if not found:
            raise InputError(f"the store {self.place} has no run {key!r}; `hasten bench list` shows those it has, `latest` means the last.")
        if len(found) > 1:
            raise InputError(f"{len(found)} runs begin with {key!r}: {', '.join(name[: len(key) + 4] for name in found[:5])}; give more of the id.")
        return found[0]

    def load(self, key: str = "latest") -> Run:
        """A run with all its samples, by its id, the beginning of it, or "latest"."""
        key = self.find(key)
        with self._reading() as db:
            row = db.execute(sa.select(t.run, t.machine.c.facts).join(t.machine).where(t.run.c.id == key)).one()
            subjects = {s.id: Subject(**_fields(s, "id", "run")) for s in db.execute(_of(t.subject, t.subject.c.run, key))}
            entries = {}
            for e in db.execute(sa.select(t.entry).join(t.subject).where(t.subject.c.run == key).order_by(t.entry.c.id)):
                entries[e.id] = Entry(**_fields(e, "id", "subject"))
                subjects[e.subject].entries.append(entries[e.id])
            columns = [t.sample.c[name] for name in ("entry", *SAMPLE_FIELDS)]
            chosen = sa.select(*columns).join(t.entry, t.sample.c.entry == t.entry.c.id).join(t.subject)
            for owner, *values in db.execute(chosen.where(t.subject.c.run == key).order_by(t.sample.c.id)):
                entries[owner].samples.append(Sample(*values))
        return Run(machine=row.facts, subjects=list(subjects.values()), **_fields(row, "machine", "facts"))

    # -- the database ----------------------------------------------------------------------------------------------------------------------

    @property
    def _sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    def _check_file(self, create: bool) -> None:
        """What can be told of a file before SQLite touches it."""
        if self._file is None:
            return
        try:
            with self._file.open("rb") as file:
                head = file.read(len(SQLITE_HEAD))
        except FileNotFoundError:
            head = b""
            if not create:
                raise InputError(f"there is no store {self.place} yet: measure with `hasten bench MODEL --peers onnxruntime`.") from None
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"the store {self.place} cannot be made: {error.strerror or error}. Give another place with --store.") from None
        except OSError as error:
            raise InputError(f"the store {self.place} cannot be read: {error.strerror or error}. Give another place with --store.") from None
        if head and head != SQLITE_HEAD:
            raise CorruptFile(f"{self.place} is no SQLite database, or its beginning is damaged. {OTHER_PLACE}")

    def _open(self, create: bool) -> None:
        """Where two make the tables of one database at once, one of them fails and finds them made when it looks again."""
        try:
            self._check_tables(create)
        except sa.exc.DBAPIError:
            time.sleep(RETRY_SECONDS)
            self._check_tables(create)

    def _check_tables(self, create: bool) -> None:
        """The version of the store; an empty database gets its tables."""
        with self._engine.execution_options(writes=create).begin() as db:
            there = sa.inspect(db).get_table_names()
            if t.about.name in there:
                if (version := db.execute(sa.select(t.about.c.version)).scalar()) != t.VERSION:
                    raise CorruptFile(f"{self.place} was written by another version of Hasten: its layout is {version}, this one's {t.VERSION}. {OTHER_PLACE}")
                return
            if there:
                raise CorruptFile(f"{self.place} is a database of something else, with tables {', '.join(sorted(there)[:4])}. {OTHER_PLACE}")
            if create:
                t.TABLES.create_all(db)
                db.execute(t.about.insert(), {"version": t.VERSION})

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._told(), self._engine.execution_options(writes=True).begin() as db:
            yield db

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._told(), self._engine.begin() as db:
            yield db

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """The database's errors in words."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            reason = str(error.orig).strip().partition("\n")[0]
            if any(word in reason.lower() for word in DAMAGE):
                raise self._damaged(reason) from None
            raise InputError(f"the store {self.place} cannot be used: {reason}. Give another place with --store.") from None

    def _damaged(self, reason: str) -> CorruptFile:
        return CorruptFile(f"the store {self.place} is damaged ({reason}). {OTHER_PLACE} SQLite's own `.recover` command may save what it holds.")


@dataclass
class _Row:
    """What is written of a record. The record is held so that its id() stays its own."""

    id: int
    columns: dict[str, Any]
    record: object
    samples: int = 0


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, not at the first change
    connection.execute(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: a crash of the machine may lose the last rounds, never the store


def _begin_sqlite(db: sa.Connection) -> None:
    """A writer takes its lock at once: one that began as a reader could not wait for it."""
    if not db.get_execution_options().get("writes"):
        db.exec_driver_sql("BEGIN")
        return
    if db.exec_driver_sql("PRAGMA schema_version").scalar() == 0:  # a new file; the mode stays with it
        with contextlib.suppress(sa.exc.OperationalError):  # another process is making it
            db.exec_driver_sql("PRAGMA journal_mode = WAL")
    db.exec_driver_sql("BEGIN IMMEDIATE")


def _columns(record: Subject | Entry, left_out: str) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(record).items() if name != left_out}


def _run_columns(run: Run) -> dict[str, Any]:
    made = {name: value for name, value in vars(run).items() if name not in ("id", "machine", "subjects")}
    return json.loads(json.dumps(made, default=str))


def _fields(row: Any, *left_out: str) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name not in left_out}


def _of(table: sa.Table, column: sa.Column[Any], key: str) -> sa.Select[Any]:
    return sa.select(table).where(column == key).order_by(table.c.id)


def _pairs(db: sa.Connection, query: sa.Select[Any]) -> Iterator[tuple[Any, Any]]:
    return (tuple(row) for row in db.execute(query))  # type: ignore[misc]
