"""Length-prefixed messages over two pipes, with a deadline and a size limit for the side that does not trust."""

import os
import select
import time

_HEADER = 4
_CHUNK = 1 << 16


class ClosedError(Exception):
    """The other side closed its end."""


class SizeError(Exception):
    """The other side announced a message beyond the limit."""


class DeadlineError(Exception):
    """The other side did not read or answer in time."""


def frame(message: bytes) -> bytes:
    """A message with its length in front."""
    return len(message).to_bytes(_HEADER, "big") + message


class Channel:
    """One end of a conversation.

    Args:
        read_fd: file descriptor to receive from.
        write_fd: file descriptor to send to.
        limit: largest message that is accepted, bytes.
        deadline: moment (`time.monotonic()`, seconds) after which nothing is waited for; infinite for the candidate.
    """

    def __init__(self, read_fd: int, write_fd: int, limit: int, deadline: float) -> None:
        self.read_fd, self.write_fd, self.limit, self.deadline = read_fd, write_fd, limit, deadline
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

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
        size = int.from_bytes(self._read(_HEADER), "big")
        if size > self.limit:
            raise SizeError(f"a message of {size} bytes, over the limit of {self.limit}")
        return self._read(size)

    def receive_rest(self) -> bytes:
        """Receive what comes, without a length in front, until the other side closes its end.

        Raises:
            SizeError: it sends more than `limit` bytes.
            DeadlineError: it did not close in time.
        """
        data = bytearray()
        while chunk := self._read_some(_CHUNK):
            data += chunk
            if len(data) > self.limit:
                raise SizeError(f"more than {self.limit} bytes written")
        return bytes(data)

    def close(self) -> None:
        """Close this end of both pipes."""
        os.close(self.read_fd)
        os.close(self.write_fd)

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._read_some(size - len(data))
            if not chunk:
                raise ClosedError
            data += chunk
        return bytes(data)

    def _read_some(self, size: int) -> bytes:
        while True:
            try:
                return os.read(self.read_fd, size)
            except BlockingIOError:
                self._wait(self.read_fd, select.POLLIN)

    def _wait(self, fd: int, event: int) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineError
        poll = select.poll()
        poll.register(fd, event)
        poll.poll(None if left == float("inf") else 1000 * left + 1)
