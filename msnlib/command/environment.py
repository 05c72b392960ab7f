"""What the kernels started here see of the caller's environment: one list, for runs, sweeps, grading and tests.

``python -m msnlib.command.environment SCRATCH COMMAND ...`` runs a command in it.
"""

import os
import site
import subprocess
import sys
from pathlib import Path

from msnlib.files import UsageError

# Where things are, how the network is reached, which GPUs there are. What is not named here is dropped: a language, a
# warning filter, a matplotlibrc or a start-up file of one user would change outputs.
SEEN = (
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TEMP", "TMP", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD"),
    *("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "VIRTUAL_ENV", "CONDA_PREFIX"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MSNLIB_DATA", "MSNLIB_BEYONDML"),
    "MSNLIB_STORE",
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("SYSTEMROOT", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA"),
)
SEEN_PREFIXES = ("CUDA_", "NVIDIA_", "HIP_", "ROCR_", "DYLD_")


def kernel_environment(scratch: Path) -> dict[str, str]:
    """Return the environment of a kernel whose settings, and home where the caller's is of no use, lie in ``scratch``.

    The folders it names are made. Relative paths become absolute, as a kernel has a working folder of its own.
    """
    scratch = Path(scratch).resolve()
    for name in ("records", "jupyter", "ipython"):
        (scratch / name).mkdir(exist_ok=True)
    (scratch / "matplotlibrc").touch()
    seen = {name: value for name, value in os.environ.items() if name in SEEN or name.startswith(SEEN_PREFIXES)}
    for name in ("MSNLIB_DATA", "MSNLIB_STORE"):
        if seen.get(name):
            seen[name] = os.path.abspath(os.path.expanduser(seen[name]))
    if seen.get("PYTHONPATH"):
        seen["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, seen["PYTHONPATH"].split(os.pathsep)))
    if not _is_home(seen.get("HOME", "")):
        if site.ENABLE_USER_SITE:
            seen.setdefault("PYTHONUSERBASE", site.getuserbase())
        seen["HOME"] = str(scratch)
    return seen | {
        "LANG": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONHASHSEED": "0",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait starve the runs beside them
        "MATPLOTLIBRC": str(scratch / "matplotlibrc"),
        "IPYTHONDIR": str(scratch / "ipython"),
        "JUPYTER_CONFIG_DIR": str(scratch / "jupyter"),
        "JUPYTER_DATA_DIR": str(scratch / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "jupyter"),
        "MSNLIB_RECORDS": str(scratch / "records"),
    }


def store_folder() -> Path:
    """Return where trainings are stored: ``$MSNLIB_STORE``, else a folder beside that of the data.

    Raises:
        UsageError: it lies in a home folder, and there is none.
    """
    folder = os.environ.get("MSNLIB_STORE") or "~/.cache/msnlib-store"
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError:
        reason = "there is no such home folder; set MSNLIB_STORE to the folder for stored trainings"
        raise UsageError(f"{folder}: {reason}") from None


def store_of(profile: str, stored: bool) -> dict[str, str]:
    """Return what a kernel's environment says of the store: none unless ``stored``, and in ``quick`` only one that is
    set.
    """
    used = stored and (profile != "quick" or os.environ.get("MSNLIB_STORE"))
    return {"MSNLIB_STORE": str(store_folder()) if used else ""}


def _is_home(home: str) -> bool:
    """Whether programs can keep settings and caches there; some, such as matplotlib, print a warning where not."""
    folders = [Path(home, name) for name in ("", ".config", ".cache")]
    return bool(home) and Path(home).is_dir() and all(os.access(f, os.W_OK) for f in folders if f.exists())


if __name__ == "__main__":
    sys.exit(subprocess.call(sys.argv[2:], env=kernel_environment(Path(sys.argv[1]))))
