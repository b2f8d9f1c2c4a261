"""The tables of the store. Another layout is another VERSION: a store says which one it has, and no other is read or written."""

from __future__ import annotations

import sqlalchemy as sa

VERSION = 1

TABLES = sa.MetaData()
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only an INTEGER key numbers itself in SQLite


def _number() -> sa.Column[int]:
    return sa.Column("id", KEY, primary_key=True, autoincrement=True)


def _owner(table: str) -> sa.Column[int]:
    return sa.Column(table, KEY, sa.ForeignKey(f"{table}.id"), nullable=False, index=True)


about = sa.Table(
    "hasten_store", TABLES,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)  # fmt: skip

machine = sa.Table(
    "machine", TABLES,
    sa.Column("id", sa.String(64), primary_key=True),  # the SHA-256 of its facts
    sa.Column("facts", sa.JSON, nullable=False),
)  # fmt: skip

run = sa.Table(
    "run", TABLES,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("machine", sa.ForeignKey("machine.id"), nullable=False),
    sa.Column("began", sa.String(40), nullable=False, index=True),
    sa.Column("ended", sa.String(40), nullable=False),
    sa.Column("revision", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("design", sa.JSON, nullable=False),
    sa.Column("cautions", sa.JSON, nullable=False),
)  # fmt: skip

subject = sa.Table(
    "subject", TABLES, _number(),
    sa.Column("run", sa.ForeignKey("run.id"), nullable=False, index=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("inputs", sa.JSON, nullable=False),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("reference_note", sa.Text, nullable=False),
)  # fmt: skip

entry = sa.Table(
    "entry", TABLES, _number(), _owner("subject"),
    sa.Column("engine", sa.Text, nullable=False),
    sa.Column("threads", sa.Integer, nullable=False),
    sa.Column("about", sa.JSON, nullable=False),
    sa.Column("trouble", sa.Text, nullable=False),
    sa.Column("error", sa.Float),  # infinite where outputs cannot be compared
    sa.Column("error_output", sa.Text, nullable=False),
    sa.Column("cold_start_ns", sa.BigInteger),
    sa.Column("warm_start_ns", sa.BigInteger),
    sa.Column("peak_bytes", sa.BigInteger),
    sa.Column("model_bytes", sa.BigInteger),
    sa.Column("warmup_calls", sa.Integer, nullable=False),
)  # fmt: skip

sample = sa.Table(
    "sample", TABLES, _number(), _owner("entry"),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("loops", sa.BigInteger, nullable=False),
    sa.Column("wall_ns", sa.BigInteger, nullable=False),
    sa.Column("cpu_ns", sa.BigInteger, nullable=False),
    sa.Column("began_ns", sa.BigInteger, nullable=False),
    sa.Column("wait_ns", sa.BigInteger, nullable=False),
)  # fmt: skip

verdict = sa.Table(
    "verdict", TABLES, _number(), _owner("entry"),
    sa.Column("base", KEY, sa.ForeignKey("entry.id"), nullable=False),
    sa.Column("word", sa.String(16), nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
)  # fmt: skip
