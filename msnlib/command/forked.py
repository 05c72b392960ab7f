"""The process that jobs are forked from, and what is forked from it: a job's process, and from that its kernel.

A fork is safe only while its process has no threads, so the first imports and waits, and a job's process forks that of
its kernel before anything else. The kernel leaves through `main` and what was registered with `atexit`, as any Python
program does; then it ends at once, as to take apart what was imported takes longer than a small notebook (measured).
"""

import atexit
import gc
import importlib
import json
import os
import shutil
import signal
import socket
import sys
import traceback
from contextlib import suppress
from importlib.metadata import EntryPoint
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

from msnlib.command.process import execute, spare_addresses

# What a job, its kernel and most notebooks import in the end; PyTorch's optimizers import its compiler.
IMPORTED = ("papermill", "ipykernel.kernelapp", "torch._dynamo", "sklearn.datasets", "msnlib", "msnlib.lab")


def main() -> None:
    """Be the source: import, then fork a job for each request from the socket that is standard input, until it ends."""
    atexit.register(_leave)  # done after all that is registered from here on
    scratch = os.getcwd()
    sys.path.remove("")  # a kernel puts it where it wants to have it
    spare_addresses()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # a collection would write to the memory that the forks share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of jobs that end, nobody here wants to know
    with socket.socket(fileno=os.dup(0)) as requests:
        while True:
            request, files, *_ = socket.recv_fds(requests, 2**20, 3)
            if not request:  # who started this is gone, killed perhaps
                shutil.rmtree(scratch, ignore_errors=True)
                return
            pid = os.fork()
            if pid == 0:
                break
            requests.send(str(pid).encode())
            for file in files:
                os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stdin, log, ended = files
    os.chdir(json.loads(request)["cwd"])
    _become(json.loads(request)["environment"], {0: stdin, 1: log, 2: log})
    for file in (stdin, log):
        os.close(file)
    _job(ended)


def _leave() -> None:
    """End the process now."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or nobody reads it any more
            stream.flush()
    os._exit(0)


def _become(environment: dict[str, str], streams: dict[int, int]) -> None:
    """Give this process a session of its own, this environment and these standard streams."""
    os.setsid()
    for number, file in streams.items():
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(environment)


def _job(ended: int) -> None:
    """Run the job that standard input names, and write to ``ended`` how it ended; in a fork, its kernel."""
    asked, ask = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ask)
        os.close(ended)
        with open(asked) as pipe:
            request = pipe.read()
        if request:  # else the job has ended before it needed a kernel
            _kernel(**json.loads(request))
        return
    os.close(asked)
    ForkedKernel.pid, ForkedKernel.ask = pid, ask
    factory = KernelProvisionerFactory.instance()
    factory.provisioners["forked"] = EntryPoint("forked", f"{__name__}:ForkedKernel", factory.GROUP_NAME)
    factory.default_provisioner_name = "forked"
    try:
        execute()
        os.write(ended, b"0")
    except BaseException:
        traceback.print_exc()
        os.write(ended, b"1")
    sys.stderr.flush()
    os._exit(0)  # a Python with PyTorch's compiler in it writes more to the log when it ends, after the error


def _kernel(command: list[str], environment: dict[str, str]) -> None:
    """Be the kernel that ``command`` would start."""
    import numpy as np
    import torch
    from ipykernel.kernelapp import IPKernelApp

    with open(os.devnull) as nothing:
        _become(environment, {0: nothing.fileno()})
    np.random.seed()  # drawn when imported, which forks have in common
    torch.seed()
    sys.argv = command[command.index("ipykernel_launcher") :]
    IPKernelApp.launch_instance(parent_handle=os.getppid())  # it ends when the job has


class ForkedKernel(LocalProvisioner):
    """Jupyter's way to a kernel: here the process ``pid``, which waits for its command at the pipe ``ask``."""

    pid: int
    ask: int

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Send the command to the process that waits."""
        environment = kwargs["env"] | {"JPY_PARENT_PID": str(os.getpid())}
        with open(self.ask, "w") as pipe:
            json.dump({"command": cmd, "environment": environment}, pipe)
        self.process, self.pgid = _Child(self.pid), self.pid
        return self.connection_info


class _Child:
    """A child process by its number, with what `LocalProvisioner` uses of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self) -> int | None:
        return self._ended(0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _ended(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode
