"""A process that can do nothing but compute: Landlock, seccomp and resource limits, laid on by itself.

The worker enters before it looks at anything a user wrote, while it has one thread; the threads it
starts later inherit all of it, and none of it can be taken off again. What a database promises about
itself (`query.worker` closes it too) is not relied upon here.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from profilelake.errors import Unavailable

LANDLOCK_VERSION_MIN: Final = 4
"""Since Linux 6.7: files and TCP. What older kernels lack would be an open door."""
READABLE: Final = ("/sys/devices/system/cpu", "/sys/fs/cgroup", "/proc/self/cgroup")
"""Read by the engine at its start to see how much processor and memory it has."""


@dataclass(frozen=True, slots=True)
class Cage:
    """What a confined process may use. Beyond it, the kernel refuses or ends it."""

    address_bytes: int
    """Address space."""
    cpu_seconds: int
    """Seconds of processor time, of all threads together."""
    descriptors: int = 512
    """Open files."""


_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_READ_FILE: Final = 1 << 2
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 5: 16}
"""Number of the rights over files by the version that brought the last of them."""
_NETWORK_RIGHTS: Final = 0b11
_SCOPES: Final = 0b11
"""Abstract Unix sockets, and signals to processes outside: version 6."""
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 4, 38, 22
_SECCOMP_MODE_FILTER: Final = 2
_CAPABILITIES_VERSION: Final = 0x20080522
_CAPABILITIES_BYTES: Final = 2 * 3 * 4
"""Effective, permitted and inheritable ones, two words each."""


def unavailable() -> str | None:
    """Return why no jail can be built here, None if one can."""
    if platform.system() != "Linux" or platform.machine() not in _SYSCALLS:
        return f"{platform.system()} on {platform.machine()} has none that we know; Linux on {' or '.join(_SYSCALLS)} has"
    version = _libc().syscall(_CREATE_RULESET, None, 0, _RULESET_VERSION)
    if version < 0:
        return "the kernel has no Landlock, or it is switched off (boot parameter lsm=landlock,…)"
    if version < LANDLOCK_VERSION_MIN:
        return (
            f"the kernel's Landlock is version {version}, too old; {LANDLOCK_VERSION_MIN} came with Linux 6.7"
        )
    return None


def enter(cage: Cage, files: Sequence[int]) -> None:
    """Confine this process for the rest of its life: it may read the open `files` again, and nothing else.

    No file can be made, changed or listed, no connection made, no program or process started, no
    other process touched. What is open already stays usable.

    Raises:
        Unavailable: the kernel refuses a part of it. The process must not go on then.
    """
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise Unavailable("entering the jail: other threads run already and would stay outside")
    reason = unavailable()
    if reason is not None:
        raise Unavailable(f"entering the jail: {reason}")
    _limit(cage)
    _call("no new privileges", _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    # Processes of the same user must not look into it, nor it be dumped with what it has read.
    _call("no dumps", _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    _drop_capabilities()
    _restrict_files(files)
    _restrict_calls()


def _limit(cage: Cage) -> None:
    limits = {
        resource.RLIMIT_AS: cage.address_bytes,
        resource.RLIMIT_CPU: cage.cpu_seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: cage.descriptors,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for limit, value in limits.items():
        _, most = resource.getrlimit(limit)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(limit, (value, value))


def _drop_capabilities() -> None:
    """Be nobody in particular from here on, should the server run as root."""
    header = struct.pack("=Ii", _CAPABILITIES_VERSION, 0)
    _call("no capabilities", _libc().capset(header, bytes(_CAPABILITIES_BYTES)))


def _restrict_files(files: Sequence[int]) -> None:
    version = _libc().syscall(_CREATE_RULESET, None, 0, _RULESET_VERSION)
    rights = max(number for since, number in _FILE_RIGHTS.items() if since <= version)
    attributes = struct.pack("QQQ", (1 << rights) - 1, _NETWORK_RIGHTS, _SCOPES if version >= 6 else 0)
    ruleset = _call("ruleset", _libc().syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        for name in READABLE:
            try:
                opened = os.open(name, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            _allow(ruleset, opened)
            os.close(opened)
        for file in files:
            _allow(ruleset, file)
        _call("restriction", _libc().syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, file: int) -> None:
    rule = struct.pack("=Qi", _READ_FILE, file)
    _call("rule", _libc().syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))


_SYSCALLS: Final = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "bind": 49, "listen": 50, "socketpair": 53,
            "fork": 57, "vfork": 58, "execve": 59, "sendmsg": 46, "recvmsg": 47, "kill": 62, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94,
            "rt_sigqueueinfo": 129, "utime": 132, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
            "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "tgkill": 234, "utimes": 235,
            "fchownat": 260, "futimesat": 261, "fchmodat": 268, "utimensat": 280, "rt_tgsigqueueinfo": 297,
            "prlimit64": 302, "sendmmsg": 307, "recvmmsg": 299, "fchmodat2": 452, "ptrace": 101, "personality": 135,
            "chroot": 161, "mount": 165, "umount2": 166, "tkill": 200, "io_setup": 206, "add_key": 248,
            "request_key": 249, "keyctl": 250, "unshare": 272, "accept4": 288, "perf_event_open": 298,
            "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
            "memfd_create": 319, "bpf": 321, "execveat": 322, "userfaultfd": 323, "io_uring_setup": 425,
            "pidfd_send_signal": 424, "open_tree": 428, "move_mount": 429, "fsopen": 430, "pidfd_open": 434,
            "pidfd_getfd": 438,
            "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "msgget": 68, "mq_open": 240, "memfd_secret": 447,
            "inotify_init": 253, "inotify_init1": 294, "setpriority": 141, "sched_setaffinity": 203,
            "sched_setscheduler": 144, "sched_setparam": 142, "sched_setattr": 314, "ioprio_set": 251,
            "init_module": 175, "finit_module": 313, "delete_module": 176, "reboot": 169, "swapon": 167,
            "swapoff": 168, "sethostname": 170, "setdomainname": 171, "settimeofday": 164, "clock_settime": 227,
            "adjtimex": 159, "clock_adjtime": 305, "kexec_load": 246, "kexec_file_load": 320, "syslog": 103,
            "acct": 163, "iopl": 172, "ioperm": 173,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "accept": 202, "connect": 203,
            "sendto": 206, "accept4": 242, "execve": 221, "sendmsg": 211, "recvmsg": 212, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138,
            "rt_tgsigqueueinfo": 240, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14,
            "lremovexattr": 15, "fremovexattr": 16, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55,
            "utimensat": 88, "prlimit64": 261, "sendmmsg": 269, "recvmmsg": 243, "fchmodat2": 452, "ptrace": 117,
            "personality": 92, "chroot": 51, "mount": 40, "umount2": 39, "io_setup": 0, "add_key": 217,
            "request_key": 218, "keyctl": 219, "unshare": 97, "perf_event_open": 241,
            "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
            "memfd_create": 279, "bpf": 280, "execveat": 281, "userfaultfd": 282, "io_uring_setup": 425,
            "pidfd_send_signal": 424, "open_tree": 428, "move_mount": 429, "fsopen": 430, "pidfd_open": 434,
            "pidfd_getfd": 438,
            "shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190, "msgget": 186, "mq_open": 180, "memfd_secret": 447,
            "inotify_init1": 26, "setpriority": 140, "sched_setaffinity": 122,
            "sched_setscheduler": 119, "sched_setparam": 118, "sched_setattr": 274, "ioprio_set": 30,
            "init_module": 105, "finit_module": 273, "delete_module": 106, "reboot": 142, "swapon": 224,
            "swapoff": 225, "sethostname": 161, "setdomainname": 162, "settimeofday": 170, "clock_settime": 112,
            "adjtimex": 171, "clock_adjtime": 266, "kexec_load": 104, "kexec_file_load": 294, "syslog": 116,
            "acct": 89,
        },
    ),
}  # fmt: skip
"""Of each machine: how the kernel names it, and the calls that are refused, none of which computing needs."""
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_CLONE3: Final = 435
_CLONE_THREAD: Final = 0x00010000
_X32: Final = 0x40000000
"""From here on, calls of a second numbering on x86_64, which would pass by the first."""

_LOAD, _JUMP_EQUAL, _JUMP_SET, _JUMP_GREATER, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000


def _restrict_calls() -> None:
    """Refuse the calls that reach beyond files: sockets, memory others share, processes, the machine itself."""
    machine, calls = _SYSCALLS[platform.machine()]
    refused = sorted(calls.values())
    program = [
        (_LOAD, 0, 0, 4),  # which machine's numbering
        (_JUMP_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the call's number
        (_JUMP_GREATER, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
        # The C library falls back to clone, whose flags can be looked at: a thread yes, a process no.
        (_JUMP_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
        (_JUMP_EQUAL, 0, 4, _CLONE[platform.machine()]),
        (_LOAD, 0, 0, 16),  # its flags
        (_JUMP_SET, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
    ]
    for number in refused:
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL | errno.EPERM)]
    program.append((_RETURN, 0, 0, _ALLOW))
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    held = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(held))
    _call("call filter", _libc().prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described, 0, 0))


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _call(what: str, answer: int) -> int:
    if answer < 0:
        raise Unavailable(f"entering the jail: {what}: {os.strerror(ctypes.get_errno())}")
    return answer
