"""Install the agent on a board over ssh, in steps that are shown. Repeating them upgrades the agent."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import DeviceError, last_line
from harness_remote.setup import wheel
from harness_remote.setup.examine import Facts
from harness_remote.setup.ssh import Remote, RemoteError

__all__ = ["Installed", "download", "provision", "target_options"]

FOLDER = ".local/share/harness-agent"  # in the home folder there; holds venv/, wheels/ and the agent's files
_INSTALL_S = 1200
_DOWNLOAD_S = 600
_READY_S = 60

_VENV = r"""
set -e
mkdir -p "$HOME/$2/wheels" "$HOME/$2/onnxruntime"
chmod 700 "$HOME/$2"
cd "$HOME/$2"
[ "$(venv/bin/python -c 'import sys, pip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$3" ] && exit 0
rm -rf venv installed
"$1" -m venv venv
"""

_HELD = r"""
cat "$HOME/$1/installed" 2>/dev/null || true
"""

# The same version may contain other code, so an installed agent is replaced after its requirements are installed. A
# build of ONNX Runtime that the user chose stays, instead of PyPI's.
_INSTALL = r"""
set -e
cd "$HOME/$1"
rm -f installed
pip="venv/bin/python -m pip --disable-pip-version-check --no-input"
before=$(ls -d venv/lib/python*/site-packages/edge_harness-*.dist-info 2>/dev/null || true)
$pip install --quiet --timeout 20 --retries 2 $3 "wheels/$2[agent]"
[ -z "$before" ] || $pip install --quiet --no-deps --no-index --force-reinstall "wheels/$2"
for own in onnxruntime/*.whl; do
  [ -f "$own" ] || continue
  $pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
  $pip install --quiet --timeout 20 --retries 2 $3 "$own"
  ORT_DISABLE_TELEMETRY=1 venv/bin/python -c 'import onnxruntime'
done
venv/bin/python -m harness --version
rm -rf wheels
printf %s "$4" > installed
"""

_INIT = r"""
set -e
cd "$HOME/$1"
[ -s token ] && [ -s certificate.pem ] && [ -s key.pem ] && exit 0
shift
exec venv/bin/python -m harness agent init --folder "$PWD" "$@"
"""

# An agent that was started without systemd is ended. Its process id may meanwhile belong to another process, even to
# another agent, so the command line is compared.
END_PROCESS = r"""
cd "$HOME/$1" || exit
old=$(cat agent.pid 2>/dev/null || true)
ours() { tr '\0' ' ' < "/proc/$old/cmdline" | grep -qF -- "harness agent serve --folder $PWD "; } 2>/dev/null
if [ -n "$old" ] && ours; then
  kill "$old" || true
  for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do ours || break; sleep 0.5; done
  if ours; then kill -9 "$old" || true; fi
fi
rm -f agent.pid ready
"""

_SERVICE = (
    END_PROCESS
    + r"""
exec venv/bin/python -m harness agent install-service --folder "$PWD" --host "$2" --port "$3" $4
"""
)

_NOHUP = (
    END_PROCESS
    + r"""
if [ "$5" != "" ]; then systemctl $6 disable --now harness-agent.service >/dev/null 2>&1; fi
set -e
nohup venv/bin/python -m harness agent serve --folder "$PWD" --host "$2" --port "$3" --ready-file ready \
  > agent.log 2>&1 < /dev/null &
echo $! > agent.pid
i=0
while [ ! -s ready ]; do
  i=$((i + 1))
  kill -0 "$(cat agent.pid)" 2>/dev/null || { tail -n 1 agent.log >&2; exit 1; }
  [ $i -lt $4 ] || { echo "not ready in $4 s; see $PWD/agent.log" >&2; exit 1; }
  sleep 1
done
"""
)


@dataclass(frozen=True)
class Installed:
    """The secrets with which a client reaches the agent, and notes for the user."""

    certificate: str
    token: str
    notes: tuple[str, ...]


def provision(
    remote: Remote,
    facts: Facts,
    *,
    port: int,
    offline: bool,
    service: bool,
    onnxruntime: Path | None,
    workdir: Path,
    say: Callable[[str], None],
) -> Installed:
    """Install or upgrade the agent and start it.

    ``say`` is called with each step. ``onnxruntime`` is a wheel that is installed instead of PyPI's, now and at later
    upgrades.

    Raises:
        DeviceError: a step fails; the message says which, why, and what to do.
    """
    say("making the agent's wheel")
    made = wheel.make(workdir)
    version = f"{facts.python[0][0]}.{facts.python[0][1]}"
    say(f"making an environment with Python {version} in ~/{FOLDER}")
    _explained(lambda: remote.run(_VENV, facts.python[1], FOLDER, version, seconds=180), facts)
    held = remote.run(_HELD, FOLDER).split()
    wanted = [_digest(made), _digest(onnxruntime) if onnxruntime else "".join(held[1:])]
    if held == [digest for digest in wanted if digest]:
        say("the agent there is this one")
    else:
        _install(remote, facts, made, onnxruntime, " ".join(wanted), offline, say)
    say("making certificate and token, unless they are there")
    names = {facts.hostname, remote.hostname()} - {""}
    remote.run(_INIT, FOLDER, *(word for name in sorted(names) for word in ("--name", name)))
    notes = _start(remote, facts, port, service, say)
    certificate = remote.run('cat "$HOME/$1/certificate.pem"', FOLDER)
    token = remote.run('cat "$HOME/$1/token"', FOLDER).strip()
    return Installed(certificate, token, tuple(notes))


def _install(
    remote: Remote,
    facts: Facts,
    made: Path,
    onnxruntime: Path | None,
    digests: str,
    offline: bool,
    say: Callable[[str], None],
) -> None:
    files, options = [made], ""
    if offline:
        say(f"downloading what it needs, for {facts.machine}")
        wanted = target_options(facts.machine, facts.glibc, facts.python[0])
        files += download(made, made.parent / "needed", wanted, onnxruntime)
        options = "--no-index --find-links wheels"
    size = sum(file.stat().st_size for file in files) / 1e6
    say(f"copying {len(files)} wheel{'s' * (len(files) > 1)}, {size:.1f} MB")
    _explained(lambda: remote.copy(files, f"{FOLDER}/wheels"), facts)
    if onnxruntime is not None:
        say(f"copying {onnxruntime.name}, {onnxruntime.stat().st_size / 1e6:.1f} MB")
        remote.run('rm -f "$HOME/$1"/onnxruntime/*.whl', FOLDER)
        _explained(lambda: remote.copy([onnxruntime], f"{FOLDER}/onnxruntime"), facts)
    say("installing, which may take minutes on a board")
    _explained(
        lambda: remote.run(_INSTALL, FOLDER, made.name, options, digests, seconds=_INSTALL_S),
        facts,
        offline=offline,
    )


def target_options(machine: str, glibc: tuple[int, int], python: tuple[int, int]) -> list[str]:
    """Return the options with which pip chooses wheels for another machine, C library and Python."""
    # the newest first; manylinux2014 stands for glibc 2.17
    platforms = [f"manylinux_{glibc[0]}_{level}_{machine}" for level in range(glibc[1], 16, -1)]
    return [
        "--only-binary=:all:",
        "--python-version",
        f"{python[0]}.{python[1]}",
        "--implementation",
        "cp",
        *(
            word
            for platform in [*platforms, f"manylinux2014_{machine}", f"linux_{machine}"]
            for word in ("--platform", platform)
        ),
    ]


def download(made: Path, into: Path, options: Sequence[str], also: Path | None = None) -> list[Path]:
    """Download the wheels that the agent and the wheel ``also`` need, and return their paths.

    ``options`` are those of :func:`target_options`.

    Raises:
        DeviceError: there is no network here, or there are no such wheels.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "download",
        "--quiet",
        "--dest",
        str(into),
        *options,
        f"{made}[agent]",
        *([str(also)] if also else []),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_S, check=False)
    except subprocess.TimeoutExpired:
        raise DeviceError(f"pip download: not done in {_DOWNLOAD_S} s; is there a network here?") from None
    if done.returncode:
        raise DeviceError(f"pip download: {_error_line(done.stderr)}")
    ours = {made.name, also.name if also else ""}
    return sorted(path for path in into.glob("*.whl") if path.name not in ours)


def _start(remote: Remote, facts: Facts, port: int, service: bool, say: Callable[[str], None]) -> list[str]:
    address = ("0.0.0.0", str(port))
    if service and facts.systemd:
        say(f"starting it as a service of {'the system' if facts.root else 'the user'}")
        output = remote.run(_SERVICE, FOLDER, *address, "" if facts.root else "--user", seconds=300)
        return [line.removeprefix("note: ") for line in output.splitlines() if line.startswith("note: ")]
    say("starting it")
    manager = ["yes" if facts.systemd else "", "" if facts.root else "--user"]
    remote.run(_NOHUP, FOLDER, *address, str(_READY_S), *manager, seconds=_READY_S + 60)
    why = "systemd does not answer there" if service else "as --no-service asks"
    return [f"it runs without systemd ({why}): it does not come back after a reboot; run this again then"]


def _explained(step: Callable[[], object], facts: Facts, *, offline: bool = False) -> None:
    """Run a step. A long error of pip or venv becomes one line with advice."""
    try:
        step()
    except RemoteError as error:
        for pattern, fix in (
            (r"No space left|Errno 28|Disk quota", "its disk is full: free some space there"),
            (
                r"ensurepip is not available|No module named (venv|ensurepip)",
                "sudo apt install python3-venv there",
            ),
            (
                r"CERTIFICATE_VERIFY_FAILED",
                "its clock or its certificates are wrong: `date` there; or try --offline",
            ),
            (
                r"name resolution|unreachable|timed out|Failed to establish|ConnectionError|refused|Max retries|No matching distribution.*from versions: none",
                "a wheel is missing" if offline else "it does not reach PyPI: try --offline",
            ),
            (r"MemoryError|Killed", "it ran out of memory"),
        ):
            if re.search(pattern, error.output):
                raise DeviceError(f"{fix} ({_error_line(error.output)})") from None
        raise DeviceError(_error_line(error.output) if error.output else error) from None


def _error_line(text: str) -> str:
    """Return the last line that begins with the word error, else the last line."""
    errors = [line for line in text.splitlines() if line.strip().startswith(("ERROR", "error", "Error"))]
    return last_line("\n".join(errors) or text)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
