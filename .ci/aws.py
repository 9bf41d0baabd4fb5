#!/usr/bin/env python3
"""Runs a command with an aws on its PATH that takes a third of the time.

    aws.py FOLDER COMMAND [ARGUMENT]...

The AWS command line spends most of its time on importing itself. This process imports
it once, and forks for each aws that the command runs: the aws in FOLDER passes on its
arguments, environment, working directory and files. Where the aws on the PATH is not
that of this Python, it only runs the command.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback

GIVEN = dict(os.environ)
try:
    import awscli.clidriver
    shown = subprocess.run(["aws", "--version"], stdout=subprocess.PIPE, text=True).stdout
    same = shown.startswith(f"aws-cli/{awscli.__version__} ")
except (ImportError, OSError):
    same = False
if not same:
    os.execvp(sys.argv[2], sys.argv[2:])
ADDED = os.environ.items() - GIVEN.items()  # by the import

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps([sys.argv, dict(os.environ), os.getcwd()]).encode() + b"\\n")
    sys.exit(int(server.recv(4) or 255))
"""


def answer(client):
    """Does what the client's process would do."""
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile() as lines:
        sys.argv, environment, folder = json.loads(lines.readline())
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(ADDED)
    os.environ.update(environment)
    os.chdir(folder)
    try:
        status = awscli.clidriver.main()
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    client.sendall(b"%d" % (status or 0))


def main():
    folder, *command = sys.argv[1:]
    with tempfile.TemporaryDirectory() as private, socket.socket(socket.AF_UNIX) as listener:
        path = os.path.join(private, "aws.sock")
        listener.bind(path)
        listener.listen(64)
        program = os.path.join(folder, "aws")
        os.makedirs(folder, exist_ok=True)
        with open(program, "w") as file:
            file.write(CLIENT.format(python=sys.executable, path=path))
        os.chmod(program, 0o755)
        found = os.pathsep.join([os.path.abspath(folder), GIVEN["PATH"]])
        running = os.spawnvpe(os.P_NOWAIT, command[0], command, {**GIVEN, "PATH": found})

        def ended(*_):
            while (child := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if child[0] == running:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # of an aws that ends during the cleanup
                    sys.exit(os.waitstatus_to_exitcode(child[1]))

        signal.signal(signal.SIGCHLD, ended)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(running, signal.SIGTERM))
        signal.signal(signal.SIGINT, lambda *_: None)  # the command gets it too, and may take time to end
        try:
            ended()  # it may have, before there was who notices
            os.environ["AWS_CONFIG_FILE"] = os.devnull
            awscli.clidriver.create_clidriver()  # imports the rest
            gc.freeze()  # where a child looks for garbage, it copies what it shares with this process
            while True:
                client, _ = listener.accept()
                if os.fork() == 0:
                    try:
                        for number in signal.SIGCHLD, signal.SIGTERM, signal.SIGINT:
                            signal.signal(number, signal.SIG_DFL)
                        answer(client)
                    except Exception:
                        traceback.print_exc()
                    finally:
                        os._exit(0)  # all else is its parent's
                client.close()
        finally:
            with contextlib.suppress(FileNotFoundError):  # another run in this folder has ended
                os.remove(program)


main()
