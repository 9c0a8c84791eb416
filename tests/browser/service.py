"""A simulated exchange and its recorders, as processes on free ports of loopback."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
import urllib.request

WAIT_SECONDS_MAX = 60
JOBS = """
schema = 1
[job.state-snapshot]
task = "state-snapshot"
description = "saves offsets and watermarks"
every = "2s"
[job.retention]
task = "retention"
every = "10m"
[job.broken]
task = "command"
description = "fails, for the page to show"
every = "3s"
args = { argv = ["/bin/false"] }
"""


class Failed(Exception):
    """A check has failed."""


def wait_for(what, condition, seconds=WAIT_SECONDS_MAX):
    """Polls a condition until it is true; returns its value."""
    until = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > until:
            raise Failed(f"not within {seconds} s: {what}: {answer!r}")
        time.sleep(0.05)


def get(url, body=None):
    """The status and the text of an answer; 0 when there is none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data=body), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def free_port():
    """A free port below those of outgoing connections, one of which could take it while the recorder is down."""
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Exchange:
    """The exchange, which injects faults on request."""

    def __init__(self, program, directory):
        self.log = directory / "exchange.log"
        words = [program, "simulate", "--listen", "127.0.0.1:0", "--rate", "60", "--seed", "7"]
        self.process = subprocess.Popen(words, stdout=self.log.open("w"), stderr=subprocess.STDOUT)
        at = wait_for("the exchange listens", lambda: re.search(r"ws://([0-9.:]+)/stream", self.log.read_text()))
        self.address = at.group(1)

    def inject(self, faults):
        status, body = get(f"http://{self.address}/simulator/faults", json.dumps({"faults": faults}).encode())
        if status != 202:
            raise Failed(f"the exchange does not take {faults}: {status} {body}")

    def stop(self):
        stop_process(self.process)


class Recorder:
    """A recorder of the exchange; it can be stopped and started again."""

    def __init__(self, program, directory, exchange, listen="127.0.0.1", token=None):
        directory.mkdir()
        self.program, self.directory = program, directory
        self.environment = {**os.environ, **({"TAPEKEEPER_ADMIN_TOKEN": token} if token else {})}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        feed = (
            f'data_dir = "{directory}/data"\ninstance = "wall"\n[[feed]]\nexchange = "binance"\n'
            f'symbols = ["BTCUSDT", "ETHUSDT"]\nchannels = ["trade", "kline_1m"]\n'
            f'ws_url = "ws://{exchange.address}"\nrest_url = "http://{exchange.address}"\n'
            f'[admin]\nlisten = "{listen}:{self.port}"\n'
        )
        (directory / "tapekeeper.toml").write_text(feed)
        (directory / "jobs.toml").write_text(JOBS)
        self.log = directory / "recorder.log"
        self.start()

    def start(self):
        words = [self.program, "--config", self.directory / "tapekeeper.toml", "--jobs", self.directory / "jobs.toml", "run"]
        output = self.log.open("a")
        self.process = subprocess.Popen(words, stdout=output, stderr=output, env=self.environment)
        wait_for("the recorder is ready", lambda: get(f"{self.url}/readyz")[0] == 200)

    def stop(self):
        stop_process(self.process)

    def ask(self, path):
        status, body = get(f"{self.url}{path}")
        if status != 200:
            raise Failed(f"{path}: {status} {body}")
        return json.loads(body)

    def job(self, name):
        return next(job for job in self.ask("/api/v1/jobs") if job["name"] == name)


def stop_process(process):
    """Stops a process by SIGTERM, or by SIGKILL when that takes too long."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=WAIT_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
