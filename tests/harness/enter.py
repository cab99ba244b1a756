"""Turns a process in fresh namespaces into a container's first process: its file system, its user, its command.

Run by the harness as ``unshare --mount --pid --fork python -I enter.py SPEC``; the standard library only, since it runs
as root and before anything of the container is there.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
_LIBC = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    if _LIBC.mount(source.encode(), str(target).encode(), kind.encode(), flags, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} on {target}: {os.strerror(number)}")


def _place(target: Path, *, folder: bool) -> None:
    """Something to mount on. A link, or a place in a read-only bind, is refused by the mount itself."""
    if target.exists():
        return
    if folder:
        target.mkdir(parents=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()


def _bind(source: Path, target: Path, *, read_only: bool) -> None:
    _place(target, folder=source.is_dir())
    _mount(str(source), target, flags=MS_BIND | MS_REC)
    if read_only:
        _mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def _file_system(spec: dict[str, Any], root: Path) -> None:
    """An image's root, the volumes above it, and the devices that every container has."""
    _mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", MS_NODEV, "mode=755")
    for link, to in spec["links"].items():
        (root / link).symlink_to(to)
    for name, owner, mode in spec["folders"]:
        folder = root / name.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, owner, owner)
        folder.chmod(mode)
    for name, text in spec["files"].items():
        _place(root / name.lstrip("/"), folder=False)
        (root / name.lstrip("/")).write_text(text, encoding="utf-8")
    for source in spec["image"]:
        _bind(Path(source), root / source.lstrip("/"), read_only=True)
    _place(root / "proc", folder=True)
    _mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV)
    _bind(Path("/sys"), root / "sys", read_only=True)
    (root / "dev").mkdir()
    for device in ("null", "zero", "full", "random", "urandom", "tty"):
        _bind(Path("/dev") / device, root / "dev" / device, read_only=False)
    (root / "dev/fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (root / "dev" / name).symlink_to(f"/proc/self/fd/{number}")
    _place(root / "dev/shm", folder=True)
    _mount("tmpfs", root / "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for source, target, read_only in sorted(spec["volumes"], key=lambda volume: len(Path(volume[1]).parts)):
        _bind(Path(source), root / target.lstrip("/"), read_only=read_only)
    # A real image has its programs in places that no volume covers; a checkout may lie below one, such as /tmp.
    for source in spec["image"]:
        if any(Path(source).is_relative_to(target) for _, target, _ in spec["volumes"]):
            _bind(Path(source), root / source.lstrip("/"), read_only=True)
    if spec["read_only_root"]:
        _mount("", root, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def _become(user: int, groups: list[int]) -> None:
    """Root no more, without any capability and without a way back."""
    for capability in range(64):
        if _LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            break
    if _LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    os.setgroups(groups)
    os.setgid(groups[0])
    os.setuid(user)
    os.umask(0o022)
    # To become another user takes off what `unshare --kill-child` had set: nothing outlives the test session.
    if _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "parent-death signal")


def main() -> None:
    """Become the container that the file describes."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if spec["cgroup"]:
        (Path(spec["cgroup"]) / "cgroup.procs").write_text("0", encoding="ascii")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # container runtimes start with many
    _file_system(spec, Path(spec["root"]))
    begun = os.open(spec["begun"], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    os.chroot(spec["root"])
    os.chdir(spec["workdir"])
    _become(spec["user"], spec["groups"])
    os.write(begun, b"1")
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # PATH of the container, not of this process
    except FileNotFoundError:
        sys.exit(f"no such command in the container: {spec['argv'][0]}")


if __name__ == "__main__":
    main()
