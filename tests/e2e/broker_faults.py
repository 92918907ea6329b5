"""Kill, freeze and starve a broker that the tests have started as a process or in a container."""

import os
import signal
import subprocess
from pathlib import Path

from tests.support.broker import Broker, ContainerNode, PrivateNode


class BrokerFaults:
    """Faults of a broker, and the methods that end each fault."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._node = broker._node

    def kill(self) -> None:
        """Kill the broker at once, as if the machine lost its power; `start` starts it again."""
        match self._node:
            case PrivateNode() as node:
                os.killpg(node._process.pid, signal.SIGKILL)
                node._process.wait()
            case ContainerNode() as node:
                node._container.get_wrapped_container().kill()
            case _:
                raise AssertionError("only a broker that the tests started can be killed")

    def start(self) -> None:
        match self._node:
            case PrivateNode() as node:
                node._process = node._run([node._server])
            case ContainerNode() as node:
                node._container.get_wrapped_container().start()
            case _:
                raise AssertionError("only a broker that the tests started can be started")
        self.broker.wait_until_up()

    def freeze(self) -> None:
        """Stop the process of the broker: connections to it are half open until `thaw`."""
        match self._node:
            case PrivateNode() as node:
                os.killpg(node._process.pid, signal.SIGSTOP)
            case ContainerNode() as node:
                node._container.get_wrapped_container().pause()
            case _:
                raise AssertionError("only a broker that the tests started can be frozen")

    def thaw(self) -> None:
        match self._node:
            case PrivateNode() as node:
                os.killpg(node._process.pid, signal.SIGCONT)
            case ContainerNode() as node:
                node._container.get_wrapped_container().unpause()
            case _:
                raise AssertionError("only a broker that the tests started can be thawed")

    def alarm(self, *, on: bool) -> None:
        """Set or end a memory alarm, in which the broker accepts nothing from publishers."""
        self._control("set_vm_memory_high_watermark", *(["absolute", "1MB"] if on else ["0.4"]))

    def _control(self, *arguments: str) -> None:
        match self._node:
            case PrivateNode() as node:
                program = Path(node._server).with_name("rabbitmqctl")
                subprocess.run(
                    [program, *arguments],
                    env=node._environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=200,  # an Erlang VM starts slowly on a busy machine
                    check=True,
                )
            case ContainerNode() as node:
                code, output = node._container.exec(["rabbitmqctl", *arguments])
                assert code == 0, output
            case _:
                raise AssertionError("only a broker that the tests started can be controlled")
