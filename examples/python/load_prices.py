#!/usr/bin/env python3
"""Loads prices from a CSV file, or made-up ones, into a table of varve's, and tells what became of them.

Needs Python 3.11 and asyncpg. The server is the one that PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD, or --dsn name.
Each batch is a transaction of its own: a load that stopped half-way is begun again from the start, since rows that are
there already change nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gzip
import random
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import IO, Any

import asyncpg

TABLE = "prices"
SINK = "prices_in"

CREATE_TABLE = """
    CREATE TABLE prices (
        symbol text, ts timestamptz,
        open float8, high float8, low float8, close float8, volume bigint,
        PRIMARY KEY (symbol, ts));
    SELECT create_hypertable('prices', 'ts', chunk_time_interval => interval '30 days');
    SELECT varve.enable('prices');
"""


def timestamp(text: str) -> datetime:
    """A point in time as ISO 8601 writes it; UTC where no zone is named."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=timezone.utc)


def bigint(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{text} is out of range for bigint")
    return number


# The table's columns in its order, and how each is read. An empty field is NULL.
COLUMNS: dict[str, Callable[[str], Any]] = {
    "symbol": str,
    "ts": timestamp,
    "open": float,
    "high": float,
    "low": float,
    "close": float,
    "volume": bigint,
}

# Other names that files have for them.
ALIASES = {"ticker": "symbol", "date": "ts", "time": "ts", "timestamp": "ts", "datetime": "ts"}

Values = tuple[Any, ...]
Numbered = tuple[int, Values]


class LoadError(Exception):
    """What the user is told when a load fails."""


@dataclass(frozen=True)
class Source:
    """Where rows come from. They can be read again and again."""

    name: str
    # What the number of a row counts.
    unit: str
    # Columns that the rows have, in the table's order.
    columns: list[str]
    rows: Callable[[], Iterator[Numbered]]


def open_text(path: Path) -> IO[str]:
    """A file as text, unpacked if it is packed with gzip."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    # A file may begin with a byte order mark; the csv module sees to the ends of lines.
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open("rt", encoding="utf-8-sig", newline="")


def csv_source(path: Path) -> Source:
    """The rows of a CSV file, whose header names the columns."""
    with open_text(path) as file:
        header = next(csv.reader(file, strict=True), [])
    names = [ALIASES.get(name, name) for name in (field.strip().lower() for field in header)]
    for name in COLUMNS:
        if names.count(name) > 1:
            raise LoadError(f"{path}: two columns for {name}: {', '.join(header)}")
    for name in ("symbol", "ts"):
        if name not in names:
            raise LoadError(f"{path}: no column {name} among: {', '.join(header)}")
    for name, field in zip(names, header):
        if name not in COLUMNS:
            print(f"{path}: column {field!r} is left out", file=sys.stderr)
    columns = [name for name in COLUMNS if name in names]
    places = [(name, names.index(name), COLUMNS[name]) for name in columns]

    def rows() -> Iterator[Numbered]:
        with open_text(path) as file:
            reader = csv.reader(file, strict=True)
            next(reader, None)
            for fields in reader:
                if not fields:
                    continue
                where = f"{path}, line {reader.line_num}"
                if len(fields) != len(names):
                    raise LoadError(f"{where}: {len(fields)} fields where the header has {len(names)}")
                values = []
                for name, place, read in places:
                    try:
                        values.append(read(fields[place]) if fields[place] else None)
                    except ValueError as error:
                        raise LoadError(f"{where}: column {name}: {error}") from error
                yield reader.line_num, tuple(values)

    return Source(str(path), "line", columns, rows)


def made_up_source(count: int) -> Source:
    """Minute bars of a hundred symbols that walk at random, the same ones each time."""

    def rows() -> Iterator[Numbered]:
        chance = random.Random(17)
        begin = datetime(2025, 1, 1, tzinfo=timezone.utc)
        closes = [100.0 + number for number in range(100)]
        for number in range(count):
            minute, symbol = divmod(number, len(closes))
            open_ = closes[symbol]
            close = round(max(1.0, open_ + chance.uniform(-0.5, 0.5)), 2)
            closes[symbol] = close
            high, low = round(max(open_, close) + 0.1, 2), round(min(open_, close) - 0.1, 2)
            at = begin + timedelta(minutes=minute)
            yield number + 1, (f"S{symbol:02}", at, open_, high, low, close, chance.randrange(1_000_000))

    return Source("made-up rows", "row", list(COLUMNS), rows)


async def set_up(connection: asyncpg.Connection) -> None:
    """Makes what is missing: the extension, the table, the sink."""
    await connection.execute("CREATE EXTENSION IF NOT EXISTS varve CASCADE")
    async with connection.transaction():
        if await connection.fetchval("SELECT to_regclass($1) IS NULL", TABLE):
            await connection.execute(CREATE_TABLE)
        if await connection.fetchval("SELECT to_regclass($1) IS NULL", SINK):
            await connection.execute("SELECT varve.create_sink($1, $2::text::regclass)", SINK, TABLE)


async def by_sink(connection: asyncpg.Connection, columns: list[str], rows: list[Values]) -> Mapping[str, int]:
    """COPY into the sink, the fastest way. Columns that are not given keep what is stored, or take their default."""
    # One transaction, so that a pool between us and the server asks the session that copied.
    async with connection.transaction():
        await connection.copy_records_to_table(SINK, columns=columns, records=rows)
        return await connection.fetchrow("SELECT * FROM varve.last_upsert()")


async def by_rows(connection: asyncpg.Connection, columns: list[str], rows: list[Values]) -> Mapping[str, int]:
    """An array of rows as a parameter, for who has a few rows and wants no second statement."""
    if columns != list(COLUMNS):
        raise LoadError("--via rows: a row of the table has all columns, these lack some; --via sink takes them")
    return await connection.fetchrow(f"SELECT * FROM varve.upsert_rows('{TABLE}', $1::{TABLE}[])", rows)


WAYS = {"sink": by_sink, "rows": by_rows}


def explain(error: Exception, source: Source, batch: list[Numbered]) -> str:
    """The server's message, with the line of the file in place of the number within the batch."""
    if not isinstance(error, asyncpg.PostgresError):
        return f"{source.name}, {source.unit}s {batch[0][0]} to {batch[-1][0]}: {error}"
    where = source.name
    # "COPY prices_in, line 3" in the context, or "row 3 of the batch" in it or in the message.
    told = re.search(rf"COPY {SINK}, line (\d+)|row (\d+) of the batch", f"{error.context}\n{error.message}")
    if told:
        number = int(told[1] or told[2])
        where += f", {source.unit} {batch[number - 1][0]}"
    lines = [f"{where}: {error.message}"]
    if error.detail:
        lines.append(f"  {error.detail}")
    if error.hint:
        lines.append(f"  {error.hint}")
    return "\n".join(lines)


async def load(connection: asyncpg.Connection, source: Source, via: str, size: int) -> Counter[str]:
    """Loads all rows, batch by batch; what became of them."""
    counts: Counter[str] = Counter()
    rows = source.rows()
    while batch := list(islice(rows, size)):
        try:
            summary = await WAYS[via](connection, source.columns, [values for _, values in batch])
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise LoadError(explain(error, source, batch)) from error
        counts.update(dict(summary))
    return counts


async def run(args: argparse.Namespace) -> None:
    source = csv_source(args.file) if args.file else made_up_source(args.rows)
    try:
        # asyncpg asks the catalogue for each new type; compiling that query would take seconds.
        connection = await asyncpg.connect(args.dsn, server_settings={"jit": "off"})
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise LoadError(f"no connection: {error}") from error
    try:
        await set_up(connection)
        for what in [args.via, f"{args.via}, again"] if args.again else [args.via]:
            begin = time.perf_counter()
            counts = await load(connection, source, args.via, args.batch)
            seconds = time.perf_counter() - begin
            became = ", ".join(f"{counts[n]} {n}" for n in ("inserted", "updated", "unchanged", "duplicates"))
            rows = counts["rows_in"]
            print(f"{what}: {rows} rows in {seconds:.2f} s, {rows / seconds:.0f} rows/s: {became}", flush=True)
    finally:
        await connection.close()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main() -> int:
    parser = argparse.ArgumentParser(description="Loads prices into a table of varve's.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", type=Path, help="a CSV file with a header, packed with gzip or not")
    what.add_argument("--rows", type=positive, metavar="N", help="so many made-up rows instead of a file")
    parser.add_argument("--via", choices=WAYS, default="sink", help="COPY into a sink, or arrays of rows (default: sink)")
    parser.add_argument("--batch", type=positive, default=20_000, metavar="N", help="rows of a batch (default: 20000)")
    parser.add_argument("--again", action="store_true", help="load a second time, to see that nothing changes")
    parser.add_argument("--dsn", help="the server, as postgresql://… (default: what PGHOST and its like name)")
    try:
        asyncio.run(run(parser.parse_args()))
    except LoadError as error:
        print(f"load_prices: {error}", file=sys.stderr)
        return 1
    except (asyncpg.PostgresError, OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
        print(f"load_prices: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
