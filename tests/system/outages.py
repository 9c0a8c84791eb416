"""Outages: while a part is down the service runs and reports it, and nothing is lost in the end."""

import time

from broker import LOG, Broker
from machine import expect
from service import API, SYMBOLS, feed


def a_journal_that_stalls_stops_nothing(test):
    service, machine = test.service, test.machine
    service.drop_in("[Service]\nEnvironment=TAPEKEEPER_LOG=trace\n")
    service.restart()
    restarts = service.restarts()
    count = lambda: service.query("SELECT count(*) FROM trades")[0][0]
    machine.sh("systemctl kill --kill-who=main --signal=STOP systemd-journald.service")
    try:
        before, until = count(), time.monotonic() + test.outage(60)
        while time.monotonic() < until:
            machine.wait_for("more trades are stored", lambda: count() > before, 20)
            before = count()
            time.sleep(0.5)
    finally:
        machine.sh("systemctl kill --kill-who=main --signal=CONT systemd-journald.service")
    expect(service.restarts() == restarts, "it was restarted")
    service.drop_in("")
    service.restart()
    dropped = service.journal("--priority=warning | grep 'log lines were dropped' || true").splitlines()
    test.measured(f"journald stopped for {test.outage(60):.0f} s: {dropped[-1] if dropped else 'no line was dropped'}")
    service.assert_complete()


def degraded_for(test, seconds):
    """The degraded parts in health and the newest STATUS that names one; the service must run all the time."""
    service, until, words, status = test.service, time.monotonic() + seconds, {}, ""
    while time.monotonic() < until:
        words |= service.degraded()
        text = service.status_text()
        status = text if any(f"; {part}: " in text for part in words) else status
        expect(service.show("ActiveState") == "active", "it does not run")
        expect(service.health()[0] == 200, f"health: {service.health()}")
        time.sleep(1)
    return words, status


def an_exchange_that_is_down_restarts_nothing(test):
    service, machine = test.service, test.machine
    restarts, outage = service.restarts(), test.outage(300)
    service.inject(f"outage:{outage:.0f}s")
    machine.wait_for("the journal reports it", lambda: "no connection" in service.journal("--lines=50"), 30)
    words = degraded_for(test, outage)[0].get("exchange", "")
    test.measured(f"exchange down for {outage:.0f} s: {words}")
    expect("is down" in words, f"health does not report it: {service.health()}")
    expect(service.restarts() == restarts, "it was restarted")
    # Backfill fetches the missing trades within the exchange's request budget.
    service.assert_complete(120 + 2 * outage)


def a_silent_exchange_restarts_nothing(test):
    service = test.service
    restarts, silent = service.restarts(), test.outage(300)
    service.inject(f"silent:{silent:.0f}s")
    until, words = time.monotonic() + silent, ""
    while time.monotonic() < until:
        text = service.degraded().get("exchange", "")
        words = text if "has sent nothing" in text else words
        time.sleep(1)
    test.measured(f"exchange silent for {silent:.0f} s: {words or 'too short to count as silence'}")
    expect(silent < 70 or words, f"health does not report it: {service.health()}")
    expect(service.restarts() == restarts and service.show("ActiveState") == "active", "it was restarted")
    service.assert_complete(120 + 2 * silent)


def a_broker_that_is_down_restarts_nothing(test):
    service, machine, outage = test.service, test.machine, test.outage(300)
    with Broker(machine, test.servers) as broker:
        # With another log each stream continues after its rows in history.
        service.stop()
        service.configure(feed(SYMBOLS) + LOG)
        machine.wait_for("the broker answers", broker.answers)
        service.start()
        machine.wait_for("all streams receive", lambda: "14/14 streams" in service.status_text())
        service.assert_complete()
        restarts, backfilled = service.restarts(), service.backfilled()
        broker.kill()
        words, status = degraded_for(test, outage)
        test.measured(f"broker down for {outage:.0f} s: {words}; STATUS: {status}")
        expect("wait for the broker" in words.get("ingest", "") and status, f"health and STATUS do not report it: {service.health()}")
        expect(machine.http(f"{API}/readyz")[0] == 503, "/readyz reports that it records")
        broker.start()
        began = time.monotonic()
        machine.wait_for("the log takes frames again", lambda: not {"ingest", "log"} & service.degraded().keys())
        took = time.monotonic() - began
        service.assert_complete(120 + 2 * outage)
        test.measured(f"recovered {took:.1f} s after the broker's start, {service.backfilled() - backfilled} trades over REST")
        expect(service.restarts() == restarts, "it was restarted")
        service.stop()
        expect(service.show("Result") == "success", service.show("Result"))
    service.configure(feed(SYMBOLS))
    service.start()
    service.assert_complete()
