"""The job of every peer: buy a picture of the stub, and put it where it can be found."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

REDIS = os.environ["BENCH_REDIS_URL"]
PROVIDER = os.environ["BENCH_PROVIDER_URL"] + "/images/generations"
HEADERS = {"Authorization": "Bearer sk-stub"}
IMPATIENT = "PEER_IMPATIENT" in os.environ

_IMAGES = Path(os.environ["BENCH_IMAGES"])


def keep(name: str, answer: dict[str, Any]) -> dict[str, Any]:
    image = answer["data"][0]
    file = f"{name}.png"
    (_IMAGES / file).write_bytes(base64.b64decode(image["b64_json"]))
    return {"url": f"/files/{file}", "revised_prompt": image["revised_prompt"]}
