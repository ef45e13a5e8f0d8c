"""Reads the Parquet files of a snapshot with PyArrow and with DuckDB, and compares their rows with what PostgreSQL has said of them.

read_parquet.py EXPECTED FILE…: EXPECTED holds a JSON array of the rows, as json_agg gives it. Prints the types of the columns
as each of the two has them.
"""

import datetime
import decimal
import json
import struct
import sys
import uuid

import duckdb
import pyarrow.parquet as parquet


def loads(text):
    """JSON whose numbers stay as they are written."""
    return json.loads(text, parse_float=str, parse_int=str)


def same(actual, expected):
    """Whether a value is what PostgreSQL has written as JSON."""
    if actual is None or expected is None:
        return actual is None and expected is None
    if isinstance(actual, list):
        return len(actual) == len(expected) and all(map(same, actual, expected))
    if isinstance(actual, bool):
        return actual is expected
    if isinstance(actual, int):
        return actual == int(expected)
    if isinstance(actual, float):
        wanted = float(expected)
        # A number of single precision is written with as few digits as tell it from others of that precision.
        return actual == wanted or struct.pack("f", actual) == struct.pack("f", wanted)
    if isinstance(actual, decimal.Decimal):
        return actual == decimal.Decimal(expected)
    if isinstance(actual, datetime.datetime):
        wanted = datetime.datetime.fromisoformat(expected)
        return actual == wanted and (actual.tzinfo is None) == (wanted.tzinfo is None)
    if isinstance(actual, datetime.date):
        return actual == datetime.date.fromisoformat(expected)
    if isinstance(actual, datetime.time):
        return actual == datetime.time.fromisoformat(expected)
    if isinstance(actual, bytes):
        return actual == bytes.fromhex(expected.removeprefix("\\x"))
    if isinstance(actual, uuid.UUID):
        return actual == uuid.UUID(expected)
    if isinstance(actual, str) and not isinstance(expected, str):
        return loads(actual) == expected
    return actual == expected


def compare(reader, rows, expected):
    if len(rows) != len(expected):
        sys.exit(f"{reader}: {len(rows)} rows instead of {len(expected)}")
    for actual, wanted in zip(rows, expected):
        for name, value in actual.items():
            if not same(value, wanted.get(name)):
                sys.exit(f"{reader}: {name} is {value!r} and should be {wanted.get(name)!r}")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        expected = loads(file.read())
    expected.sort(key=lambda row: int(row["id"]))
    files = sys.argv[2:]

    rows = []
    for name in files:
        table = parquet.read_table(name)
        rows += table.to_pylist()
    rows.sort(key=lambda row: row["id"])
    compare("pyarrow", rows, expected)
    for field in table.schema:
        print("pyarrow", field.name, field.type)

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    found = connection.execute("SELECT * FROM read_parquet(?) ORDER BY id", [files])
    names = [column[0] for column in found.description]
    types = [str(column[1]) for column in found.description]
    compare("duckdb", [dict(zip(names, row)) for row in found.fetchall()], expected)
    for name, kind in zip(names, types):
        print("duckdb", name, kind)


main()
