"""Attempts on the processes that hold the credential, and on root's files."""

from __future__ import annotations

from .attempt import Attempt, Group

_ATTACH = r"""python3 - $W $PPID $S <<'END'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
local = ctypes.create_string_buffer(8)
vector = (ctypes.c_size_t * 2)(ctypes.addressof(local), 8)
for pid in map(int, sys.argv[1:]):
    calls = {
        "attach": lambda: libc.ptrace(16, pid, None, None),
        "seize": lambda: libc.ptrace(0x4206, pid, None, None),
        "read": lambda: libc.process_vm_readv(pid, vector, 1, vector, 1, 0),
        "descriptor": lambda: libc.syscall(438, os.pidfd_open(pid), 4, 0),
    }
    for name, call in calls.items():
        failed = call() == -1
        print("refused" if failed and ctypes.get_errno() == 1 else f"OTHER: {name} {ctypes.get_errno()}")
END
"""

PROCESSES = Group(
    "The processes that hold the token",
    (
        Attempt(
            "read the environment of every process (`/proc/*/environ`)",
            "Those of worker, supervisor and shell host are closed. The others have no credential.",
            "cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | "
            "grep -aiE 'sk-ant|token=|api_?key|e2b_.*key'; "
            "for p in $W $S $PPID; do try cat /proc/$p/environ; done",
        ),
        Attempt(
            "read their memory (`/proc/*/mem`, `maps`, `map_files`)",
            "Permission denied.",
            "for p in $W $S $PPID; do try head -c 1 /proc/$p/mem; try head -c 1 /proc/$p/maps; "
            "try ls /proc/$p/map_files; done",
        ),
        Attempt(
            "open their files and sockets (`/proc/*/fd`)",
            "Permission denied.",
            "for p in $W $S $PPID; do try ls /proc/$p/fd; try cat /proc/$p/fd/0; try ls /proc/$p/cwd/; done",
        ),
        Attempt(
            "attach with ptrace, `process_vm_readv`, `pidfd_getfd`",
            "Not permitted, for each of the three.",
            _ATTACH,
        ),
        Attempt(
            "write into the worker's log or report pipe by `/proc/*/fd`",
            "Permission denied, so it can report no event and no end.",
            "for p in $W $S; do for n in 1 2 3 4 5 6 7 8; do "
            'try sh -c \'echo "{\\"report\\": \\"ended\\"}" > /proc/\'$p/fd/$n; done; done',
        ),
        Attempt(
            "signal the supervisor",
            "Not permitted.",
            "for s in TERM KILL STOP HUP; do try kill -$s $S; done; try kill -KILL 1",
        ),
        Attempt(
            "lower the supervisor's limits or priority",
            "Not permitted.",
            "try prlimit --pid $S --nofile=3:3; try renice -n 19 -p $S; try taskset -p 1 $S",
        ),
        Attempt(
            "make the kernel spare itself and kill the supervisor when memory is short",
            "Permission denied. (It may only make itself more likely to be killed.)",
            "try bash -c 'echo -1000 > /proc/self/oom_score_adj'; "
            'try bash -c "echo 1000 > /proc/$S/oom_score_adj"',
        ),
        Attempt(
            "become root: `sudo`, `su`, a setuid copy of bash",
            "`no_new_privs`: they stay the agent's user, without capabilities.",
            "sudo -n id -u 2>/dev/null; su -c 'id -u' root </dev/null 2>/dev/null; cp /bin/bash b; "
            "chmod u+s b; ./b -p -c 'id -u'; rm b; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status",
            r"(?!0\n)[1-9]\d*\nCapEff:\s0+\nNoNewPrivs:\s1",
        ),
        Attempt(
            "get capabilities in a user namespace of its own",
            "It has them there only: the processes and root's files stay closed.",
            "for f in /proc/$W/mem /proc/$S/environ $H/run/state.json $H/inbox/x; do "
            "try unshare -Urm cat $f; done",
        ),
        Attempt(
            "set the clock",
            "Not permitted.",
            "try date -s '2001-01-01'; "
            "try python3 -c 'import time; time.clock_settime(time.CLOCK_REALTIME, 1.0)'",
        ),
        Attempt(
            "change kernel settings (`core_pattern`, `sysrq`)",
            "Refused.",
            'for f in kernel/core_pattern kernel/randomize_va_space; do try sh -c "echo x > /proc/sys/$f"; '
            "done",
        ),
    ),
)

_CONNECT = r"""try python3 -c '
import socket; socket.socket(socket.AF_UNIX).connect("/opt/anthropic-managed-agents/run/supervisor.sock")'
"""
_WATCH = r"""for d in run inbox; do try python3 - $H/$d <<'END'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.inotify_add_watch(libc.inotify_init(), sys.argv[1].encode(), 0xFFF) < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
END
done
"""

FILES = Group(
    "Root's files in the sandbox",
    (
        Attempt(
            "read the supervisor's folder: state, plan of the preparation, requests with tokens",
            "Permission denied.",
            "for f in run run/state.json run/plan-1 inbox inbox/x.json; do try ls $H/$f; try cat $H/$f; done",
        ),
        Attempt(
            "be told by inotify when a plan or request is written",
            "Permission denied.",
            _WATCH,
        ),
        Attempt("talk to the supervisor's socket", "Permission denied.", _CONNECT),
        Attempt(
            "run `supervisorctl` to stop or start workers",
            "It runs as the agent, and so may not open the socket.",
            "for c in status 'stop 1 99' 'watch 1'; do "
            "setsid python3 -I -S $H/lib/managed_session_worker/supervisorctl.py $c; done",
            r'(.*"event": "refused".*ermission denied.*\n?)+',
        ),
        Attempt(
            "read or change the record of what the preparation has done (`prepared.json`)",
            "Permission denied.",
            "try cat $H/prepared.json; try sh -c \"echo '{}' > $H/prepared.json\"; try rm $H/prepared.json; "
            "try mv $H/prepared.json /tmp/; try touch $H/prepared.new",
        ),
        Attempt(
            "falsify, empty, replace or remove the logs",
            "It can read `worker.log`, which has no credential, and change nothing.",
            'for f in worker.log supervisor.log; do try sh -c "echo x >> $H/$f"; try truncate -s 0 $H/$f; '
            "try ln -sf /dev/null $H/$f; done; try rm -f $H/worker.log; try mv $H/worker.log /tmp/",
        ),
        Attempt(
            "write or remove exit records",
            "Permission denied.",
            'try touch $H/exits/9.json; echo \'{"reason": "Idle"}\' > /tmp/9.json; '
            "try mv /tmp/9.json $H/exits/; try mv $H/exits /tmp/exits",
        ),
        Attempt(
            "change the worker's code and its Python",
            "Permission denied.",
            "for f in lib/managed_session_worker/shell_host.py lib/anthropic/__init__.py lib/json.py "
            "python/bin/python3; do try touch $H/$f; done; try mv $H /tmp/h; try mkdir $H/lib/x",
        ),
        Attempt(
            "change a file of the template that root's programs read",
            "Permission denied.",
            "for f in /usr/local/bin/id /usr/bin/id /etc/passwd /etc/profile /etc/ld.so.preload /etc/hosts; "
            "do try touch $f; done",
        ),
        Attempt(
            "hard links to root's files, to have them changed or given away",
            "The kernel refuses them.",
            "for f in $H/worker.log /etc/shadow /etc/passwd; do "
            "try python3 -c 'import os, sys; os.link(sys.argv[1], \"/mnt/session/hard\")' $f; done",
        ),
        Attempt(
            "put its own file system over our directory",
            "Only within a namespace of its own, which nobody else sees.",
            'unshare -Urm sh -c "mount -t tmpfs x $H && mkdir $H/run && touch $H/run/supervisor.sock" '
            "2>/dev/null; try ls $H/run",
        ),
        Attempt(
            "listen under the socket's name, as an impostor of the supervisor",
            "It can do so in its own folders and in the abstract namespace, where nobody looks. "
            "Processes may have any name.",
            "python3 - >/dev/null 2>&1 <<'END' &\n"
            "import ctypes, socket, time\n"
            "ctypes.CDLL(None).prctl(15, b'session-worker', 0, 0, 0)\n"
            "kept = []\n"
            "for name in ('\\0/opt/anthropic-managed-agents/run/supervisor.sock', '/tmp/supervisor.sock'):\n"
            "    kept.append(socket.socket(socket.AF_UNIX)); kept[-1].bind(name); kept[-1].listen()\n"
            "time.sleep(600)\n"
            "END\n"
            "until test -e /tmp/supervisor.sock; do sleep 0.05; done; "
            "try python3 -c 'import socket; "
            'socket.socket(socket.AF_UNIX).bind("/opt/anthropic-managed-agents/run/supervisor.sock")\'',
        ),
        Attempt(
            "file tools by a symbolic link out of the session's directory",
            "The tool refuses the path.",
            "ln -s /etc/passwd link; ln -s /opt/anthropic-managed-agents folder; ln -s loop loop; echo made",
            "made",
        ),
        Attempt(
            "`read` of such a link",
            "The same.",
            tool="read",
            arguments={"file_path": "link"},
            sees=r".*outside.*",
        ),
        Attempt(
            "`write` through such a link",
            "The same.",
            tool="write",
            arguments={"file_path": "folder/worker.log", "content": "x"},
            sees=r".*outside.*",
        ),
        Attempt(
            "`read` of a device that never ends",
            "The same, and tools read regular files only.",
            tool="read",
            arguments={"file_path": "/dev/zero"},
            sees=r".*outside.*",
        ),
    ),
)
