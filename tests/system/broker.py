"""One node of Apache Kafka on the machine's loopback, which can be killed and restarted on its data."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

from machine import Skipped

SERVERS = pathlib.Path(__file__).resolve().parents[1] / "servers"
# Ports of the plain listener, the controller and the listener with a password: free in a machine of our own.
PORTS = ["9092", "9093", "9094"]
# The recorder's configuration for this broker.
LOG = f'[log]\nbackend = "kafka"\n[log.kafka]\nbrokers = "127.0.0.1:{PORTS[0]}"\n'


class Broker:
    """`with Broker(machine, kept) as broker:` starts it and kills it at the end of the block; `kept` has the servers."""

    def __init__(self, machine, kept):
        self.machine = machine
        self.environment = {"TAPEKEEPER_SERVERS": str(kept), **os.environ}
        made = subprocess.run(
            [SERVERS / "prepare", "kafka"], capture_output=True, text=True, env=self.environment, check=False
        )
        if made.returncode != 0:
            raise Skipped(f"Kafka is not available: {made.stderr.strip()}")
        self.program = made.stdout.strip()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="tapekeeper-broker-"))
        # `until-eof` removes no directory without it.
        (self.directory / "made-for-a-test-server").touch()
        self.keeper = self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_why):
        self.kill()
        shutil.rmtree(self.directory)

    def start(self):
        """Starts it on its directory. It answers some seconds later."""
        inside = ["nsenter", "-t", self.machine.init, "-n", self.program, *PORTS, self.directory]
        with open(self.directory / "server.log", "ab") as log:
            self.keeper = subprocess.Popen(
                [SERVERS / "until-eof", self.directory, *inside],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self.environment,
            )
        self.process = int(self.keeper.stdout.readline())

    def kill(self):
        """Sends SIGKILL and waits for the exit; its data stays."""
        if self.keeper is None:
            return
        os.kill(self.process, signal.SIGKILL)
        self.keeper.communicate(b"keep\n")
        self.keeper = None

    def answers(self):
        """Whether the installed recorder can connect to it."""
        return self.machine.run("tapekeeper check --connect").code == 0
