"""The installed service in its machine, and the simulated exchange that it records."""

import json
import sqlite3

from machine import Failed

UNIT = "tapekeeper.service"
EXCHANGE = "http://127.0.0.1:9443"
API = "http://127.0.0.1:8081"
SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT", "DOGEUSDT", "ADAUSDT"]
DROP_IN = f"/etc/systemd/system/{UNIT}.d/test.conf"


def feed(symbols, channels=("trade", "kline_1m")):
    """A `[[feed]]` of the simulated exchange."""
    return (
        f'[[feed]]\nexchange = "binance"\nsymbols = {json.dumps(list(symbols))}\nchannels = {json.dumps(list(channels))}\n'
        f'ws_url = "ws://127.0.0.1:9443"\nrest_url = "{EXCHANGE}"\n'
    )


class Service:
    """Controls and observes the service as an operator does."""

    def __init__(self, machine):
        self.machine = machine

    def configure(self, text):
        self.machine.write("/etc/tapekeeper/tapekeeper.toml", text)

    def drop_in(self, text):
        """Writes the drop-in of the unit; an empty text removes it."""
        if text:
            self.machine.write(DROP_IN, text)
        else:
            self.machine.run(f"rm -f {DROP_IN}")
        self.machine.sh("systemctl daemon-reload")

    def start(self):
        """Starts it; the reset lifts the limit of StartLimitIntervalSec."""
        self.machine.sh(f"systemctl reset-failed {UNIT} 2>/dev/null; systemctl start {UNIT}")

    def restart(self):
        self.machine.sh(f"systemctl reset-failed {UNIT} 2>/dev/null; systemctl restart {UNIT}")

    def stop(self):
        self.machine.sh(f"systemctl stop {UNIT}")

    def start_exchange(self, rate):
        # A copy, because checks upgrade and remove the package.
        self.machine.sh("cp /usr/bin/tapekeeper /opt/exchange")
        symbols = ",".join(SYMBOLS)
        self.machine.sh(f"systemd-run --quiet --unit=exchange /opt/exchange simulate --symbols {symbols} --rate {rate}")
        self.machine.wait_for("the exchange listens", lambda: self.machine.http(f"{EXCHANGE}/api/v3/time")[0] == 200)

    def inject(self, faults):
        status, body = self.machine.http(f"{EXCHANGE}/simulator/faults", json.dumps({"faults": faults}))
        if status != 202:
            raise Failed(f"the exchange does not take {faults}: {status} {body}")

    def published(self, symbol):
        """Every trade id that the exchange has published."""
        _, body = self.machine.http(f"{EXCHANGE}/simulator/published?symbol={symbol}")
        return [json.loads(line)["trade_id"] for line in body.splitlines()]

    def show(self, name, unit=UNIT):
        return self.machine.sh(f"systemctl show --property={name} --value {unit}").strip()

    def status_text(self):
        return self.show("StatusText")

    def restarts(self):
        return int(self.show("NRestarts"))

    def journal(self, arguments=""):
        """Lines of the service's journal."""
        self.machine.run("journalctl --sync")
        return self.machine.sh(f"journalctl --no-pager --output=cat -u {UNIT} {arguments}")

    def health(self):
        status, body = self.machine.http(f"{API}/healthz")
        return status, body

    def degraded(self):
        return json.loads(self.health()[1] or "{}").get("degraded") or {}

    def query(self, sql):
        """Queries history, which may be read while the service writes."""
        path = self.machine.root / "var/lib/tapekeeper/history.db"
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
        try:
            return database.execute(sql).fetchall()
        finally:
            database.close()

    def trades(self, symbol):
        return [row[0] for row in self.query(f"SELECT trade_id FROM trades WHERE symbol = '{symbol}' ORDER BY trade_id")]

    def backfilled(self):
        """The number of trades that came over REST."""
        return self.query("SELECT count(*) FROM trades WHERE is_backfilled = 1")[0][0]

    def lost(self):
        """The symbols for which history lacks a published trade since its first one, or has one twice."""
        lost = {}
        for symbol in SYMBOLS:
            stored = self.trades(symbol)
            published = self.published(symbol)
            wanted = {trade for trade in published if stored and trade >= stored[0]}
            missing = wanted - set(stored)
            if not stored or missing or len(stored) != len(set(stored)):
                lost[symbol] = f"{len(missing)} missing, {len(stored)} rows, first {sorted(missing)[:3]}"
        return lost

    def assert_complete(self, seconds=90):
        """Waits until history has every trade published so far exactly once, and `audit` agrees."""
        upto = {symbol: (self.published(symbol) or [0])[-1] for symbol in SYMBOLS}

        def complete():
            for symbol, last in upto.items():
                stored = self.trades(symbol)
                if not stored or stored[-1] < last:
                    return False
                held = [trade for trade in stored if trade <= last]
                wanted = [trade for trade in self.published(symbol) if held[0] <= trade <= last]
                if held != wanted:
                    return False
            return not self.query("SELECT 1 FROM gaps WHERE closed_at IS NULL")

        try:
            self.machine.wait_for("everything that was published is in history", complete, seconds)
        except Failed as failed:
            raise Failed(f"{failed}: {self.lost()}; {self.query('SELECT * FROM gaps WHERE closed_at IS NULL')}") from None
        audit = self.machine.run("tapekeeper audit")
        if audit.code != 0:
            raise Failed(f"audit: {audit}")

    def wait_ready(self, seconds=60):
        def ready():
            return self.show("ActiveState") == "active" and self.machine.http(f"{API}/readyz")[0] == 200

        self.machine.wait_for("the service is ready", ready, seconds)
