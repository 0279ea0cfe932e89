"""A PostgreSQL server of a test's own: on a Unix socket in a temporary folder, as a user without rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "nobody"  # PostgreSQL refuses to run as root


def _programs() -> Path:
    """The folder of a release that has pgvector."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]), reverse=True)
    for program in found:
        if Path(f"/usr/share/postgresql/{program.parts[-3]}/extension/vector.control").is_file():
            return program.parent
    pytest.skip("needs PostgreSQL with pgvector: apt-get install postgresql postgresql-17-pgvector (Debian 13)")


@contextmanager
def server(*settings: str) -> Iterator[str]:
    """Its address; with settings of PostgreSQL, as ``work_mem=64MB``."""
    programs = _programs()
    other = {"user": USER, "group": "nogroup"} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="qguard-pg-", dir="/tmp"))
    try:
        if other:
            shutil.chown(folder, USER)

        def run(*words: str) -> None:
            how = {"cwd": folder, "capture_output": True, "text": True, "env": {"LC_ALL": "C"}}
            done = subprocess.run([programs / words[0], *words[1:]], check=False, **how, **other)
            assert done.returncode == 0, done.stderr + done.stdout

        run("initdb", "-D", "data", "-U", "qguard", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c autovacuum=off -c shared_buffers=16MB"
        options += "".join(f" -c {setting}" for setting in settings)
        run("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start")
        try:
            yield f"postgresql://qguard@{str(folder).replace('/', '%2F')}/postgres"
        finally:
            run("pg_ctl", "-D", "data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
