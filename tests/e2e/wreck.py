"""What can happen to a broker that the tests have started, as a process of its own or in a container."""

import os
import signal
import subprocess
from pathlib import Path

from tests.broker import Broker, ContainerNode, PrivateNode


class Wreck:
    """A broker to be killed, frozen and starved of memory; `mend` undoes it all."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._node = broker._node

    def kill(self) -> None:
        """As a machine that loses its power; `start` brings it back."""
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
        """It hears, and says nothing: connections to it are half open."""
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
        """Have it think that memory is short: it takes nothing from publishers."""
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
                    timeout=60,
                    check=True,
                )
            case ContainerNode() as node:
                code, said = node._container.exec(["rabbitmqctl", *arguments])
                assert code == 0, said
            case _:
                raise AssertionError("only a broker that the tests started can be told that")
