"""Computes checksums of rows with the code in docs/change.md, and compares them with those of the server.

row_checksum.py MODULE EXPECTED: MODULE holds the code, EXPECTED a JSON array of rows, whose values are text, and their checksums.
"""

import importlib.util
import json
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal


def load(path):
    """The documentation's code as a module."""
    spec = importlib.util.spec_from_file_location("documented", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def moment(micros):
    """A moment by its microseconds since 1970."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=int(micros))


def main():
    module, expected = sys.argv[1:]
    documented = load(module)
    single = {
        "id": lambda v: documented.integer(int(v)),
        "größe": lambda v: documented.floating(float(v)),
        "price": lambda v: documented.numeric(Decimal(v)),
        "note": documented.text,
        "ts": lambda v: documented.timestamptz(moment(v)),
    }
    several = {
        "ints": single["id"],
        "prices": single["price"],
        "words": documented.text,
    }

    def cell(name, value):
        if value is None:
            return None
        if name in single:
            return single[name](value)
        return documented.array([None if v is None else several[name](v) for v in value])

    with open(expected, encoding="utf-8") as file:
        rows = json.load(file)
    wrong = 0
    for row in rows:
        cells = {name: cell(name, value) for name, value in row["row"].items()}
        actual = documented.row_checksum(cells).hex(), documented.row_sha256(cells).hex()
        if actual != (row["xxh3"], row["sha256"]):
            wrong += 1
            print(row, actual, file=sys.stderr)
    print(f"{len(rows)} rows, {wrong} wrong")


main()
