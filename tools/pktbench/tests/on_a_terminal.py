"""Runs a program on its own terminal, as a user would, and prints a JSON report about it.

    on_a_terminal.py '[[WAIT_FOR, ACTION], ...]' PROGRAM [ARGUMENT ...]

An action runs when its text was drawn after the action before. "key:q" presses a key, "size:20x5" resizes the terminal,
"signal:TERM" sends a signal. Standard output of the program is a pipe, as with `> result.txt`.
"""

import fcntl
import json
import os
import pty
import selectors
import signal
import struct
import subprocess
import sys
import termios
import time

steps, program = json.loads(sys.argv[1]), sys.argv[2:]
master, slave = pty.openpty()


def resize(columns, rows):
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


resize(80, 24)
before = termios.tcgetattr(slave)
child = subprocess.Popen(
    program,
    stdin=slave,
    stdout=subprocess.PIPE,
    stderr=slave,
    start_new_session=True,
    preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
)


def do(action):
    kind, argument = action.split(":")
    if kind == "key":
        os.write(master, argument.encode())
    elif kind == "size":
        resize(*map(int, argument.split("x")))
    else:
        child.send_signal(getattr(signal, "SIG" + argument))


selector = selectors.DefaultSelector()
selector.register(master, selectors.EVENT_READ)
selector.register(child.stdout, selectors.EVENT_READ)
screen, stdout, seen, was_raw = b"", b"", 0, False
give_up_at = time.monotonic() + 60
while True:
    events = selector.select(0.2)
    for key, _ in events:
        bytes_read = os.read(key.fd, 65536)
        if key.fd == master:
            screen += bytes_read
            was_raw = was_raw or not termios.tcgetattr(slave)[3] & termios.ICANON
        elif bytes_read:
            stdout += bytes_read
        else:
            selector.unregister(child.stdout)
    if steps and (at := screen.find(steps[0][0].encode(), seen)) >= 0:
        seen = at + len(steps[0][0])
        do(steps.pop(0)[1])
    if not events and child.poll() is not None:
        break
    if time.monotonic() > give_up_at:
        child.kill()
        child.wait()
        break

print(
    json.dumps(
        {
            "code": child.returncode,
            "stdout": stdout.decode(),
            "screen": screen.decode(errors="replace"),
            "was_raw": was_raw,
            "is_restored": termios.tcgetattr(slave) == before,
            "actions_left": len(steps),
        }
    )
)
