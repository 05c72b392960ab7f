"""Jobs forked from a process that has imported everything, which is most of what a quick run costs (measured).

On Linux alone: elsewhere a process with PyTorch in it may not survive its fork, and each job starts from nothing.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from msnlib.command.environment import kernel_environment

CAN_FORK = sys.platform == "linux"


class Source:
    """The process that jobs are forked from, `msnlib.command.forked`; ``end`` ends it, and none of the jobs."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._scratch = tempfile.TemporaryDirectory(prefix="msn-")
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        read_when_imported = {"EAGER_IMPORT": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from msnlib.command.forked import main; main()"],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self._scratch.name,
                env=kernel_environment(Path(self._scratch.name)) | read_when_imported,
                start_new_session=True,  # a Ctrl-C at the terminal is handled here, once
            )

    def end(self) -> None:
        """End the process. Who waits for a fork gets an error."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
        self._scratch.cleanup()

    def fork(self, log: int, cwd: Path, environment: dict[str, str]) -> "Fork":
        """Return a new `msnlib.command.process` that writes to the open file ``log``.

        Raises `OSError` when it cannot, as the source has ended for example.
        """
        stdin, ours = os.pipe()
        state, ended = os.pipe()
        try:
            with self._one_at_a_time:
                request = json.dumps({"cwd": str(cwd), "environment": environment})
                socket.send_fds(self._socket, [request.encode()], [stdin, log, ended])
                answer = self._socket.recv(20)
            if not answer:
                raise ConnectionResetError("the process that jobs are forked from has ended")
        except BaseException:
            os.close(ours)
            os.close(state)
            raise
        finally:
            os.close(stdin)
            os.close(ended)
        return Fork(int(answer), ours, state)


class Fork:
    """A forked job, to its user like a `subprocess.Popen`."""

    def __init__(self, pid: int, stdin: int, state: int):
        self.pid, self._state = pid, state
        self.stdin = os.fdopen(stdin, "w")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return None while the job goes on, then 0 or 1, as it wrote before it ended, or -9: it was killed."""
        if self.returncode is None and select.select([self._state], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        """Wait for the end of the job and return its exit status."""
        if self.returncode is None:
            with os.fdopen(self._state) as state:
                self.returncode = int(state.read() or -signal.SIGKILL)
        return self.returncode

    def kill(self) -> None:
        """Kill the job unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
