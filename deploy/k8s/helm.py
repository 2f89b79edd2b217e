"""Helm without Helm's program: its own Go code as a library, which Maven fetches. Renders and lints a chart.

    python -m deploy.k8s.helm template|lint CHART [VALUES.yaml …]

For tests, on Linux and x86-64 (`helm/pom.xml` names the library's build; its header names the structures below). A user
of the chart has a `helm` of her own.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import zipfile
from pathlib import Path

from deploy.local.servers import ServerError, fetched

POM = Path(__file__).resolve().parent / "helm/pom.xml"
LIBRARY = "helm-linux-amd64.so"
NAME, NAMESPACE = "shop", "ranking"


class _Result(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in ("out", "err", "std_out", "std_err")]


class _Lint(ctypes.Structure):
    _fields_ = [("path", ctypes.c_char_p), ("strict", ctypes.c_int), ("quiet", ctypes.c_int)]


_TEXTS = (
    *("name", "version", "chart", "namespace", "", "values", "values_files", "cert", "key", "ca", "", ""),
    *("keyring", "", "repositories"),
)


class _Template(ctypes.Structure):
    _fields_ = [  # the unnamed ones are flags that stay 0
        (name or f"flag{at}", ctypes.c_char_p if name else ctypes.c_int) for at, name in enumerate(_TEXTS)
    ]


class HelmError(Exception):
    """Helm refuses: its own words."""


def library() -> Path:
    """The library's path; fetched and unpacked the first time. Raises ServerError."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ServerError("Helm's library is used on Linux and x86-64 only; elsewhere run `helm template`")
    home = fetched(POM, "helm", "linux-amd64-*.jar")
    path = home / LIBRARY
    if not path.exists():
        [jar] = home.glob("linux-amd64-*.jar")
        fresh = home / f"{LIBRARY}.{id(home)}"
        with zipfile.ZipFile(jar) as archive:
            fresh.write_bytes(archive.read(LIBRARY))
        fresh.replace(path)
    return path


def _call(name: str, options: ctypes.Structure) -> str:
    function = getattr(ctypes.CDLL(str(library())), name)
    function.restype = _Result
    answer = function(ctypes.byref(options))
    if answer.err:
        raise HelmError(answer.err.decode())
    return (answer.out or b"").decode()


def template(chart: Path, values: list[Path]) -> str:
    """What `helm template` prints. Raises HelmError, ServerError."""
    options = _Template(
        name=NAME.encode(),
        chart=str(chart).encode(),
        namespace=NAMESPACE.encode(),
        values_files=",".join(map(str, values)).encode() or None,
    )
    return _call("Template", options)


def lint(chart: Path) -> str:
    """What `helm lint --strict` finds with the chart's own values. Raises HelmError, ServerError."""
    return _call("Lint", _Lint(path=str(chart).encode(), strict=1, quiet=0))


def main() -> None:
    """One of the two."""
    what, chart, *values = sys.argv[1:]
    try:
        print(lint(Path(chart)) if what == "lint" else template(Path(chart), list(map(Path, values))))
    except (HelmError, ServerError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
