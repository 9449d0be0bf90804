"""InputError and InputWarning: the user's mistake, told in one line that names the file or key and the remedy.

`explain` tells the machine's faults (a full disk, no memory, a killed worker) in a line of the same kind.
"""

from __future__ import annotations

import errno


class InputError(ValueError):
    """Raised for bad configs, files and folders. The command line prints its text alone and exits with 2."""


class NoSuchSplit(InputError):
    """A split that data for pretraining does not have, which is no fault where the others are looked at."""


class InputWarning(UserWarning):
    """What was done about something odd in the user's files, with counts. The command line prints its text alone."""


GOES_ON = "then the same command goes on with what is not done"
ELSEWHERE = "give another runs=, results= or out=, or change the folder"
REMEDIES: dict[int, str] = {
    errno.ENOSPC: f"the disk is full; make room, {GOES_ON}",
    errno.EDQUOT: f"the disk quota is used up; make room, {GOES_ON}",
    errno.EFBIG: f"the file would be larger than is allowed here (ulimit -f); raise that, {GOES_ON}",
    errno.EROFS: f"nothing can be written on this disk; {ELSEWHERE}",
    errno.EACCES: f"this user may not read or write it; {ELSEWHERE}",
    errno.EPERM: f"this user may not do that there; {ELSEWHERE}",
    errno.EEXIST: f"a file stands where a folder belongs; {ELSEWHERE}",
    errno.ENOTDIR: f"a file stands where a folder belongs; {ELSEWHERE}",
    errno.EISDIR: "a folder stands where a file belongs; move it away, or give the file",
    errno.ENOENT: f"is not there, or vanished meanwhile, or its folder cannot be made; {ELSEWHERE}",
    errno.ENAMETOOLONG: "the name is too long; give a shorter name=",
    errno.ELOOP: "a symbolic link leads in a circle; give the folder itself",
    errno.EMFILE: "too many open files; raise ulimit -n, or give fewer workers",
    errno.ENFILE: "too many open files on this machine; give fewer workers",
    errno.ENOMEM: "not enough memory; give fewer workers, or a smaller batch_size",
    errno.EAGAIN: "no further process or thread can be started; give fewer workers",
    errno.EIO: f"the disk cannot be read or written; check it, {GOES_ON}",
    errno.ESTALE: f"the network disk lost it; mount it again, {GOES_ON}",
}
# What libraries say where they hide the system's error number: a piece of their text, all in lower case -> remedy.
TOLD: dict[str, str] = {
    "dataloader worker (pid": "a process that reads data was killed, most often for want of memory, or of room in "
    f"/dev/shm; give loader.workers=0, fewer of them, or a smaller loader.prefetch=, {GOES_ON}",
    "process pool was terminated": "a worker process was killed, most often for want of memory; give fewer "
    f"workers, {GOES_ON}",
    "process pool is not usable": "a worker process was killed, most often for want of memory; give fewer "
    f"workers, {GOES_ON}",
    "shared memory": f"/dev/shm is full; make room (docker run --ipc=host), or give loader.workers=0, {GOES_ON}",
    "</torch_": f"/dev/shm is full; make room (docker run --ipc=host), or give loader.workers=0, {GOES_ON}",
    "no space left on device": REMEDIES[errno.ENOSPC],
    "pytorchstreamwriter failed writing": REMEDIES[errno.ENOSPC],
    "can't allocate memory": f"not enough memory; give a smaller batch_size or model, {GOES_ON}",
    "could not determine home directory": "this user has no home folder; set HOME, or GFM_CACHE, to one that can be "
    "written",
    "out of memory": f"not enough memory on the device; give a smaller batch_size or model, {GOES_ON}",
}


def explain(error: BaseException, where: str = "") -> str | None:
    """A fault of the machine in one line: the path, `where` it is not told, and the remedy. None for any other error,
    which is ours and keeps its traceback."""
    if isinstance(error, OSError) and error.errno is not None:
        path = error.filename or where
        remedy = REMEDIES.get(error.errno) or f"{error.strerror or error}; check that path"
        return f"{path}: {remedy}" if path else remedy
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from "):  # of pathlib, before 3.13
        return f"{str(error).partition('from ')[2].strip(chr(39))}: {REMEDIES[errno.ELOOP]}"
    if isinstance(error, MemoryError):
        return f"not enough memory; give fewer workers, a smaller batch_size or model, {GOES_ON}"
    if isinstance(error, OSError | RuntimeError) or type(error).__module__.startswith("safetensors"):
        text = str(error).lower()
        told = next((r for piece, r in TOLD.items() if piece in text), None)
        return f"{where}: {told}" if told and where else told
    return None
