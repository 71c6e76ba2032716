"""As many calls as are in flight are answered in the same moment, each with megabytes of Base64.

Run under gevent by `test_give_way`, against `ops.bench.stub`. Prints the longest time, in seconds
of its processor, for which the loop did not come round, and the length of the shortest picture.
"""

from __future__ import annotations

import sys
import time

import gevent
import requests

from common.transport import Transport


class Watch:
    """Notes how long the loop's thread works between two turns."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.over = False

    def run(self) -> None:
        while not self.over:
            began = time.thread_time()
            gevent.sleep(0.001)
            self.longest = max(self.longest, time.thread_time() - began)


def main(port: int, number: int) -> int:
    transport = Transport(number, guarded=False)

    def call() -> int:
        request = requests.Request("POST", f"http://127.0.0.1:{port}/", data=b"{}").prepare()
        answer = transport.exchange(request, deadline=time.monotonic() + 60, limit=10_000_000)
        return len(answer.json()["data"][0]["b64_json"])

    calls = [gevent.spawn(call) for _ in range(number)]
    watch = Watch()
    watcher = gevent.spawn_later(0.05, watch.run)  # by then all have been sent
    gevent.joinall(calls, raise_error=True)
    watch.over = True
    watcher.join()
    print(watch.longest, min(call.value for call in calls))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
