"""System calls that Windows lacks or names differently; no other module uses them.

Python's library hides most differences between systems; this module hides the rest.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

if sys.platform == "win32":
    import ctypes
    import msvcrt
    import time

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)  # Ctrl-Break
    PATIENCE = 5.0  # seconds; another process reads a model file in less
    FAIL_AT_ONCE, EXCLUSIVE, LOCK_VIOLATION = 1, 2, 33
    # An OVERLAPPED: locks the byte at 2**32, since no process can read a locked byte and the lock
    # file of a run names its holder.
    LOCKED_BYTE = struct.pack("=QQIIQ", 0, 0, 0, 1, 0)
    ANSI_ESCAPES = 4  # ENABLE_VIRTUAL_TERMINAL_PROCESSING
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
else:
    import fcntl
    import termios

    SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    AT_WORKING_FOLDER, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
    PR_SET_PDEATHSIG = 1
    SIOCGIFADDR = 0x8915


def open_file(path: str | os.PathLike[str], flags: int, follow: bool = True) -> int:
    """Opens a file and returns its descriptor; never waits, even for the writer of a FIFO.

    Raises:
        OSError: the file cannot be opened, or `follow` is False and the file is a link.
    """
    if sys.platform == "win32":
        if not follow and os.path.islink(path):
            raise OSError(errno.ELOOP, "it is a link")
        flags |= os.O_BINARY
    else:
        flags |= os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    return os.open(path, flags, 0o666)


@contextmanager
def opened_folder(folder: Path) -> Iterator[int | None]:
    """Opens a folder to lock or synchronise it; yields None on Windows, which can do neither."""
    if sys.platform == "win32":
        yield None
    else:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def lock(descriptor: int, shared: bool = False) -> None:
    """Locks an open file until it is closed or the process ends.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file system has no locks.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except PermissionError as error:  # some network file systems raise it for a held lock
            raise BlockingIOError(error.errno, error.strerror) from None
    else:
        handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
        flags = FAIL_AT_ONCE | (0 if shared else EXCLUSIVE)
        if not kernel32.LockFileEx(handle, flags, 0, 1, 0, ctypes.c_char_p(LOCKED_BYTE)):
            code = ctypes.get_last_error()
            if code == LOCK_VIOLATION:
                raise BlockingIOError(errno.EWOULDBLOCK, "another process holds the lock")
            raise ctypes.WinError(code)


def replace(new: Path, path: Path) -> None:
    """Renames a closed file in one step, replacing the file that had the name.

    Waits on Windows while another process has the old file open.
    """
    if sys.platform == "win32":
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with suppress(PermissionError):
                return os.replace(new, path)
            time.sleep(PATIENCE / 100)
    return os.replace(new, path)


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; returns False where the system cannot."""
    if sys.platform != "win32":
        import ctypes

        with suppress(OSError, AttributeError):
            rename = ctypes.CDLL(None).renameat2
            names = (AT_WORKING_FOLDER, os.fsencode(one), AT_WORKING_FOLDER, os.fsencode(other))
            return bool(rename(*names, EXCHANGE) == 0)
    return False


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Blocks Ctrl-C and HUP in the block and in processes started there; not on Windows."""
    if sys.platform == "win32":
        yield
    else:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def end_with_parent() -> None:
    """Asks the system to end this process when its parent ends; has an effect on Linux only."""
    if sys.platform != "win32":
        import ctypes

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def interface_of(address: str) -> str | None:
    """Returns the name of the network interface that has an address; None if unknown."""
    import socket

    if sys.platform != "win32":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                with suppress(OSError):
                    answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                    if answer[20:24] == socket.inet_aton(address):
                        return name
    return None


def memory() -> int | None:
    """Returns the machine's memory in bytes, on Windows the free memory; None if unknown."""
    if sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)(64)  # a MEMORYSTATUSEX, which begins with its size
        found = status[2] if kernel32.GlobalMemoryStatusEx(status) else 0
    else:
        found = 0
        with suppress(OSError, ValueError):
            found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return found or None


def available_cores() -> int:
    """Returns the number of processor cores that this process may use."""
    if sys.platform != "win32" and hasattr(os, "sched_getaffinity"):  # macOS lacks it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def restored_terminal() -> Iterator[None]:
    """Restores the settings of the terminal at stdin after the block.

    The line editor does so too, but not if a signal ends it while it starts or stops.
    """
    if sys.platform == "win32":
        yield
    else:
        before = None
        with suppress(OSError, ValueError, termios.error):
            before = termios.tcgetattr(sys.stdin.fileno())
        try:
            yield
        finally:
            with suppress(OSError, ValueError, termios.error):
                if before is not None:
                    termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, before)


def prepare_stream(stream: TextIO) -> None:
    """Makes a stream on Windows write UTF-8, LF and escape sequences as on other systems."""
    if sys.platform == "win32":
        with suppress(OSError, ValueError, AttributeError):  # no file is behind it
            stream.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr, attr-defined, unused-ignore]  # TextIOWrapper
            handle = ctypes.c_void_p(msvcrt.get_osfhandle(stream.fileno()))
            mode = ctypes.c_uint32()
            if kernel32.GetConsoleMode(handle, ctypes.byref(mode)):
                kernel32.SetConsoleMode(handle, mode.value | ANSI_ESCAPES)


def is_broken_pipe(error: OSError) -> bool:
    """Tells whether a write failed because the reader closed the pipe."""
    on_windows = sys.platform == "win32" and error.errno == errno.EINVAL
    return on_windows or isinstance(error, BrokenPipeError)
