"""Makes passwords for the users of Redis, and the files that tell them to whom they concern.

    python3 ops/redis/make_users.py DIRECTORY [--at redis:6379] [--scheme rediss] [--options '?…']

writes DIRECTORY/users.acl for the server, which holds hashes only, DIRECTORY/<user>.password and,
for the processes of Darkroom, DIRECTORY/<user>.url to use as REDIS_URL. Passwords that are there
already are kept; a user whose password file was removed gets a new one. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import secrets
from pathlib import Path

TEMPLATE = Path(__file__).with_name("users.acl")
PROCESSES = ("web", "worker", "beat", "flower", "admin")


def main() -> None:
    """Write the files, which only their owner can reach."""
    parser = argparse.ArgumentParser(description="Makes users of Redis, with passwords.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--scheme", default="redis", help="of the URLs (%(default)s)")
    parser.add_argument("--at", default="redis:6379", help="host, or hosts (%(default)s)")
    parser.add_argument("--path", default="0", help="the database, or service/0 (%(default)s)")
    parser.add_argument("--options", default="", help="such as ?ssl_ca_certs=/run/ca.pem")
    given = parser.parse_args()
    # A container's user is none of this machine's, and has to be able to read a file that it is
    # handed; the directory keeps everybody else away.
    given.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = [line.strip() for line in TEMPLATE.read_text("utf-8").splitlines()]
    users = "\n".join(line for line in lines if line and not line.startswith("#")) + "\n"
    for name in re.findall(r"\{(\w+)\}", users):
        password = _password(given.directory / f"{name}.password")
        users = users.replace(f"{{{name}}}", f"#{hashlib.sha256(password.encode()).hexdigest()}")
        if name in PROCESSES:
            url = f"{given.scheme}://{name}:{password}@{given.at}/{given.path}{given.options}"
            (given.directory / f"{name}.url").write_text(url)
    (given.directory / "users.acl").write_text(users)


def _password(file: Path) -> str:
    if not file.exists():
        file.write_text(secrets.token_urlsafe(32))
    return file.read_text().strip()


if __name__ == "__main__":
    main()
