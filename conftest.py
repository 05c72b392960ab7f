"""How nbval runs the notebooks, whichever folder pytest is started in."""

import tempfile
import uuid
from pathlib import Path

import nbval.kernel
from jupyter_client.manager import KernelManager

collect_ignore = ["notebooks/assignments"]  # exercises for students: tests/test_course.py runs them


def pytest_configure(config):
    config.option.nbval_sanitize_with = str(config.rootpath / "tests" / "sanitize.cfg")


class FileKernelManager(KernelManager):
    """Its kernels listen at files, as those of ``msn run``: of two that start together one may lose its port."""

    def __init__(self, **options):
        file = Path(tempfile.gettempdir()) / f"nbval-{uuid.uuid4().hex[:12]}.json"
        super().__init__(transport="ipc", connection_file=str(file), **options)


nbval.kernel.KernelManager = FileKernelManager
