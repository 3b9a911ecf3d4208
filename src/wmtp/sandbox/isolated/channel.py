"""Length-prefixed messages over two pipes; the side that distrusts the other has a deadline and a size limit."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_HEADER = 4
_CHUNK = 1 << 16
"""As much as a pipe holds."""


class ClosedError(Exception):
    """The other side closed its end."""


class SizeError(Exception):
    """The other side announced a message beyond the limit."""


class DeadlineError(Exception):
    """The other side did not read or answer in time."""


def frame(message: bytes) -> bytes:
    """A message prefixed with its length."""
    return len(message).to_bytes(_HEADER, "big") + message


class Channel:
    """One end of a conversation.

    Args:
        read_fd: file descriptor to receive from.
        write_fd: file descriptor to send to.
        limit: largest message that is accepted, bytes.
        look: returns the seconds to wait for the other side before the next call; raises `DeadlineError` when time is
            up. None for the side that waits for ever.
    """

    def __init__(
        self, read_fd: int, write_fd: int, limit: int, look: Callable[[], float] | None = None
    ) -> None:
        self.read_fd, self.write_fd, self.limit = read_fd, write_fd, limit
        self._look = look or (lambda: float("inf"))
        self._blocks = look is None
        os.set_blocking(read_fd, self._blocks)
        os.set_blocking(write_fd, self._blocks)
        self._received = bytearray()
        self._polls: dict[int, select.poll] = {}

    def send(self, message: bytes) -> None:
        """Send one message.

        Raises:
            ClosedError: nobody reads any more.
            DeadlineError: it was not read in time.
        """
        rest = memoryview(frame(message))
        while rest:
            try:
                rest = rest[os.write(self.write_fd, rest) :]
            except BlockingIOError:
                self._wait(self.write_fd, select.POLLOUT)
            except BrokenPipeError:
                raise ClosedError from None

    def receive(self) -> bytes:
        """Receive one message.

        Raises:
            ClosedError: the other side is gone.
            SizeError: it announces more than `limit` bytes.
            DeadlineError: it did not arrive in time.
        """
        self._read_until(_HEADER)
        size = int.from_bytes(self._received[:_HEADER], "big")
        if size > self.limit:
            raise SizeError(f"a message of {size} bytes, over the limit of {self.limit}")
        self._read_until(_HEADER + size)
        message = bytes(memoryview(self._received)[_HEADER : _HEADER + size])
        del self._received[: _HEADER + size]
        return message

    def receive_rest(self) -> bytes:
        """Receive everything, without length prefix, until the other side closes its end.

        Raises:
            SizeError: it sends more than `limit` bytes.
            DeadlineError: it did not close in time.
        """
        while chunk := self._read_some():
            self._received += chunk
            if len(self._received) > self.limit:
                raise SizeError(f"more than {self.limit} bytes written")
        return bytes(self._received)

    def close(self) -> None:
        """Close this end of both pipes."""
        os.close(self.read_fd)
        os.close(self.write_fd)

    def _read_until(self, size: int) -> None:
        """Receive until at least that many bytes are there."""
        while len(self._received) < size:
            chunk = self._read_some()
            if not chunk:
                raise ClosedError
            self._received += chunk

    def _read_some(self) -> bytes:
        while True:
            if not self._blocks:
                self._wait(self.read_fd, select.POLLIN)
            try:
                return os.read(self.read_fd, _CHUNK)
            except BlockingIOError:
                pass

    def _wait(self, fd: int, event: int) -> None:
        if fd not in self._polls:
            self._polls[fd] = select.poll()
            self._polls[fd].register(fd, event)
        left = self._look()
        while not self._polls[fd].poll(None if left == float("inf") else 1000 * left + 1):
            left = self._look()
