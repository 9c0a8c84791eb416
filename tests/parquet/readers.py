"""Opens a Parquet file in the way of one program and writes what that program sees: its types, then a row a line.

    readers.py pandas|polars|clickhouse FILE

Rows are written as `tapekeeper export --format jsonl` writes them: instants as RFC 3339, decimals as plain text.
"""

import datetime
import decimal
import json
import sys

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MICROSECOND = datetime.timedelta(microseconds=1)


def value(seen):
    """A value as jsonl has it; the type must be the right one already."""
    if isinstance(seen, datetime.datetime):
        return seen.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(seen, decimal.Decimal):
        text = f"{seen:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return seen


def pandas(path):
    import pandas

    frame = pandas.read_parquet(path)
    # An object may be anything: what its values are is told too.
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
    sql = (f"SELECT {', '.join(columns)} FROM file('{path}', 'Parquet') "
           "SETTINGS output_format_json_quote_64bit_integers = 0, max_threads = 1")
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
