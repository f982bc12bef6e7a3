"""Hosts of their own on this machine: network namespaces on one switch, as cables join machines.

The switch is a bridge in a namespace of its own, so that nothing of this machine's network is
touched but one cable, over which a test reaches every host. All ends with the namespaces.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.system import require_program


class Network:
    """Hosts by name, each at an address of its own; `tag` keeps two runs apart."""

    def __init__(self, tag: str, hosts: Sequence[str]) -> None:
        self._ip = require_program("ip", package="iproute2")
        self._switch = f"{tag}-switch"
        self._cable = f"{tag}-0"
        self._namespaces = {host: f"{tag}-{host}" for host in hosts}
        self._subnet = self._free_subnet()
        self._places = {host: place for place, host in enumerate(hosts, start=1)}

    def address(self, host: str) -> str:
        return f"{self._subnet}.{self._places[host] + 1}"

    def on(self, host: str) -> list[str]:
        """What a command is put behind to run on `host`."""
        return [self._ip, "netns", "exec", self._namespaces[host]]

    def cut(self, one: str, other: str) -> None:
        """Nothing passes between the two, and neither is told; both reach everybody else."""
        for host in (one, other):
            self._of_port(host, "type", "bridge_slave", "isolated", "on")

    def unplug(self, host: str) -> None:
        """Nobody reaches `host`, which does not see its cable hang."""
        self._of_port(host, "down")

    def route(self, host: str, kind: str, to: str) -> None:
        """`host` sends nothing to `to`: `unreachable` tells the sender, `blackhole` does not."""
        self._run(*self.on(host), "ip", "route", "add", kind, f"{self.address(to)}/32")

    def mend(self) -> None:
        for host in self._places:
            self._of_port(host, "up", "type", "bridge_slave", "isolated", "off")
            for kind in ("unreachable", "blackhole"):
                self._run(*self.on(host), "ip", "route", "flush", "type", kind)

    def build(self) -> None:
        try:
            self._run("netns", "add", self._switch)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespace can be made, run as root: {error.stderr.strip()}")
        self._in_switch("link", "add", "switch", "up", "type", "bridge")
        self._plug(0, self._cable)
        self._run("addr", "add", f"{self._subnet}.1/24", "dev", self._cable)
        self._run("link", "set", self._cable, "up")
        for host, place in self._places.items():
            self._run("netns", "add", self._namespaces[host])
            self._plug(place, "eth0", "netns", self._namespaces[host])
            for words in (
                ["addr", "add", f"{self.address(host)}/24", "dev", "eth0"],
                ["link", "set", "eth0", "up"],
                ["link", "set", "lo", "up"],
            ):
                self._run(*self.on(host), "ip", *words)

    def close(self) -> None:
        for namespace in (*self._namespaces.values(), self._switch):
            subprocess.run([self._ip, "netns", "del", namespace], capture_output=True)
        subprocess.run([self._ip, "link", "del", self._cable], capture_output=True)

    def _free_subnet(self) -> str:
        """Of 198.18.0.0/15, which is set aside for tests of networks (RFC 2544)."""
        told = subprocess.run([self._ip, "-o", "-4", "addr"], capture_output=True, text=True)
        first = os.getpid()
        subnets = [f"198.18.{(first + number) % 254 + 1}" for number in range(254)]
        return next(each for each in subnets if f" {each}." not in told.stdout)

    def _plug(self, place: int, name: str, *where: str) -> None:
        port = f"port{place}"
        cable = "type", "veth", "peer", "name", port, "netns", self._switch
        self._run("link", "add", name, *where, *cable)
        self._in_switch("link", "set", port, "master", "switch", "up")

    def _of_port(self, host: str, *words: str) -> None:
        self._in_switch("link", "set", f"port{self._places[host]}", *words)

    def _in_switch(self, *words: str) -> None:
        self._run("-n", self._switch, *words)

    def _run(self, *words: str) -> None:
        command = list(words) if words[0] == self._ip else [self._ip, *words]
        subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def network_of(*hosts: str) -> Iterator[Network]:
    """Hosts that reach one another. Without root, or without iproute2, the test is skipped."""
    network = Network(f"c{os.getpid() % 100_000}", hosts)
    try:
        network.build()
        yield network
    finally:
        network.close()
