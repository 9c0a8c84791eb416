"""Reads a Parquet file with one program and prints what that program sees: the types, then one row a line.

    readers.py pandas|polars|clickhouse FILE

Rows are written as `tapekeeper export --format jsonl` writes them: instants as RFC 3339, decimals as plain text.
"""

import datetime
import decimal
import json
import sys

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MICROSECOND = datetime.timedelta(microseconds=1)


def value(cell):
    """A cell as jsonl has it; its type must be correct already."""
    if isinstance(cell, datetime.datetime):
        return cell.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(cell, decimal.Decimal):
        text = f"{cell:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return cell


def pandas(path):
    import pandas

    frame = pandas.read_parquet(path)
    # A column of objects may have any type, so the type of its values is reported.
    types = {
        name: "Decimal" if str(kind) == "object" and set(map(type, frame[name])) == {decimal.Decimal} else str(kind)
        for name, kind in frame.dtypes.items()
    }
    columns = [[moment.to_pydatetime() for moment in frame[name]] if "datetime" in types[name] else frame[name].tolist()
               for name in frame]
    return types, zip(*columns)


def polars(path):
    import polars

    frame = polars.read_parquet(path)
    return {name: str(kind) for name, kind in frame.schema.items()}, frame.iter_rows()


def clickhouse(path):
    from chdb import session

    engine = session.Session()
    lines = lambda sql: engine.query(sql, "JSONCompactEachRow").bytes().decode().splitlines()
    types = {}
    for line in lines(f"DESCRIBE file('{path}', 'Parquet')"):
        name, kind = json.loads(line)[:2]
        types[name] = kind
    shown = {"Decimal": "toString({})", "DateTime64": "toUnixTimestamp64Micro({})"}
    columns = [shown.get(kind.split("(")[0], "{}").format(name) for name, kind in types.items()]
    # The engine reads the row groups of a file in parallel, so the rows need an explicit order: the one of the export.
    order = next(name for name in ("trade_id", "open_time_us") if name in types)
    sql = (f"SELECT {', '.join(columns)} FROM file('{path}', 'Parquet') ORDER BY {order} "
           "SETTINGS output_format_json_quote_64bit_integers = 0")
    instants = [at for at, kind in enumerate(types.values()) if kind.startswith("DateTime64")]

    def row(line):
        cells = json.loads(line)
        for at in instants:
            cells[at] = EPOCH + cells[at] * MICROSECOND
        return cells

    return types, map(row, lines(sql))


def main():
    types, rows = {"pandas": pandas, "polars": polars, "clickhouse": clickhouse}[sys.argv[1]](sys.argv[2])
    print(json.dumps(types))
    for row in rows:
        print(json.dumps(dict(zip(types, map(value, row)))))


if __name__ == "__main__":
    main()
