"""A receiver of webhooks, as a process: `python -m tests.e2e.receiver PORT DIRECTORY`.

Each request becomes a line of `seen.jsonl`, before it is answered with the status that the file
`answer` says: 204 without one. `hold` is no answer at all.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DIRECTORY = Path(sys.argv[2])
_LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        line = {"at": time.time(), "path": self.path, "headers": headers, "body": body}
        with _LOCK, (DIRECTORY / "seen.jsonl").open("a") as seen:
            seen.write(json.dumps(line) + "\n")
        answer = DIRECTORY / "answer"
        status = answer.read_text() if answer.exists() else "204"
        if status == "hold":
            time.sleep(600)
        self.send_response_only(int(status))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
