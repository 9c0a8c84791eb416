"""A Debian with systemd as PID 1 in a container with its own loopback: builds, boots, controls and ends it."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

SUITE = "bookworm"
# Units that a container without a console must not start, and units that would wait for a network.
MASKED = [
    "console-getty.service",
    "getty.target",
    "systemd-networkd.service",
    "systemd-timesyncd.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
]
BOOT_SECONDS_MAX = 60
COMMAND_SECONDS_MAX = 180


class Failed(Exception):
    """A command or a check has failed."""


class Skipped(Exception):
    """A check needs something that is not available here."""


def expect(condition, what):
    """Fails with `what` unless the condition holds."""
    if not condition:
        raise Failed(what)


class Finished:
    """The exit code and the output of a command."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit {self.code}\n{self.out}{self.err}"


def image(cache):
    """The base system as a tar file; built once."""
    tar = cache / f"{SUITE}.tar"
    if tar.exists():
        return tar
    cache.mkdir(parents=True, exist_ok=True)
    root, log = cache / f"{SUITE}.{os.getpid()}", cache / "debootstrap.log"
    with open(log, "wb") as out:
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus,ca-certificates", SUITE, root],
            stdout=out, stderr=subprocess.STDOUT, check=False,
        )
    if made.returncode != 0:
        shutil.rmtree(root, ignore_errors=True)
        raise Failed(f"debootstrap failed, see {log}")
    for unit in MASKED:
        os.symlink("/dev/null", root / "etc/systemd/system" / unit)
    # The rename makes it appear complete: another run may look for it.
    part = cache / f"{SUITE}.tar.{os.getpid()}"
    subprocess.run(["tar", "-C", root, "-cf", part, "."], check=True)
    shutil.rmtree(root)
    part.rename(tar)
    return tar


class Machine:
    """One container. `with Machine(...) as machine:` boots it and ends it with the block."""

    def __init__(self, tar, root):
        self.root = pathlib.Path(root)
        self.root.mkdir(parents=True)
        subprocess.run(["tar", "-C", self.root, "-xf", tar], check=True)
        self.console = open(self.root.parent / "console.log", "wb")
        self.nspawn = None
        self.init = None

    def __enter__(self):
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "-D", self.root, "--boot", "--register=no", "--keep-unit", "--private-network"],
            stdin=subprocess.DEVNULL, stdout=self.console, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            self.wait_for("the container boots", self._booted, BOOT_SECONDS_MAX)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_why):
        self.end()

    def _booted(self):
        if self.nspawn.poll() is not None:
            raise Failed(f"systemd-nspawn ended with {self.nspawn.returncode}: see {self.console.name}")
        if self.init is None:
            found = subprocess.run(["pgrep", "-P", str(self.nspawn.pid)], capture_output=True, text=True, check=False)
            self.init = found.stdout.split()[0] if found.stdout.split() else None
        # `degraded` means that some unit cannot run in a container, which does not matter here.
        return self.init is not None and self.run("systemctl is-system-running").out.strip() in ("running", "degraded")

    def end(self):
        """Ends the container and its processes."""
        if self.init is not None:
            try:
                os.kill(int(self.init), signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            self.nspawn.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.nspawn.kill()
            self.nspawn.wait()
        self.console.close()

    def run(self, command, timeout=COMMAND_SECONDS_MAX):
        """Runs a shell command inside; never raises for its exit code."""
        words = ["nsenter", "-t", self.init, "-m", "-u", "-i", "-p", "-C", "-n", "-r", "-w", "sh", "-c", command]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        ran = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=timeout, env=environment,
            stdin=subprocess.DEVNULL, check=False,
        )
        return Finished(ran.returncode, ran.stdout, ran.stderr)

    def sh(self, command, timeout=COMMAND_SECONDS_MAX):
        """Runs a shell command that must succeed; returns its output."""
        ran = self.run(command, timeout)
        if ran.code != 0:
            raise Failed(f"`{command}`: {ran}")
        return ran.out

    def http(self, url, data=None):
        """Sends a request to a server on the container's loopback; returns status and body, or 0 and the reason."""
        words = ["nsenter", "-t", self.init, "-n", "curl", "-sS", "-m", "20", "-w", "\n%{http_code}", "--noproxy", "*", url]
        if data is not None:
            words += ["-d", data]
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        body, _, status = ran.stdout.rpartition("\n")
        return (int(status), body) if ran.returncode == 0 else (0, ran.stderr.strip())

    def write(self, path, text):
        """Writes a file of the container."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def read(self, path):
        """Reads a file of the container."""
        return (self.root / path.lstrip("/")).read_text()

    def wait_for(self, what, check, seconds=60):
        """Waits until `check` returns something true; returns it."""
        until = time.monotonic() + seconds
        while True:
            found = check()
            if found:
                return found
            if time.monotonic() > until:
                raise Failed(f"not within {seconds} s: {what}")
            time.sleep(0.1)
