"""Section `outputs`: copies new and changed files of the agent's outputs folder into a mounted bucket.

    {"mount": path of the bucket, "folder": folder in it, "seconds": …}

The copies are made by the agent's user, which may write into the bucket anyway: a link of the agent leads
nowhere that the agent could not read itself. Links are not followed. A file is copied if its copy is missing,
has another size or is older; the bucket's times are those of the copies. Nothing is deleted.
"""

import json
import sys
from typing import Any

from managed_session_worker.preparation import mount_table
from managed_session_worker.preparation.sandbox import Sandbox, SectionFailedError

_COPY = r"""
import json, os, shutil, stat, sys
source, target = sys.argv[1], sys.argv[2]
copied, failed = 0, []
def fails(path, error):
    failed.append("%s: %s" % (os.path.relpath(path, source)[-150:], error.strerror or error))
def unchanged(entry, place):
    try:
        there, here = os.stat(place), entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return there.st_size == here.st_size and there.st_mtime >= here.st_mtime
def copy(path, place):
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return 0
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
    return 1
def each(folder, place):
    global copied
    for entry in os.scandir(folder):
        there = os.path.join(place, entry.name)
        try:
            if entry.is_dir(follow_symlinks=False):
                each(entry.path, there)
            elif entry.is_file(follow_symlinks=False) and not unchanged(entry, there):
                copied += copy(entry.path, there)
        except OSError as error:
            fails(entry.path, error)
try:
    if stat.S_ISDIR(os.lstat(source).st_mode):
        each(source, target)
except FileNotFoundError:
    pass
except OSError as error:
    fails(source, error)
print(json.dumps({"copied": copied, "count": len(failed), "failed": failed[:5]}))
"""


def run(content: dict[str, Any], sandbox: Sandbox) -> None:
    """Copy the files.

    Raises:
        SectionFailedError: some could not be copied, or not in time.
    """
    mount, seconds = str(content["mount"]), float(content["seconds"])
    if not mount_table.is_served(mount):
        # What is written there would fill the sandbox's own disk.
        raise SectionFailedError("sandbox.outputs", f"the bucket at {mount} is not mounted")
    source, target = f"{sandbox.paths.workdir}/outputs", f"{mount}/{content['folder']}"
    finished = sandbox.run_as_agent(
        [sys.executable, "-I", "-S", "-c", _COPY, source, target], seconds=seconds, cwd="/"
    )
    if finished.status is None:
        why = f"the copying took longer than {seconds:.0f} seconds and was stopped"
        raise SectionFailedError("sandbox.outputs", why, finished.output)
    try:
        report = json.loads(finished.output.splitlines()[-1])
        count, failed = int(report["count"]), [str(each) for each in report["failed"]]
    except (ValueError, TypeError, KeyError, IndexError):
        why = f"the copying ended with exit status {finished.status}"
        raise SectionFailedError("sandbox.outputs", why, finished.output) from None
    if count:
        why = f"{count} {'file' if count == 1 else 'files'} could not be copied"
        raise SectionFailedError("sandbox.outputs", why, "\n".join(failed))
