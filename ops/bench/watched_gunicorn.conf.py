# The product's own configuration of gunicorn, with the event loop watched.
from gevent import monkey

monkey.patch_all()  # before anything else is imported

# ruff: noqa: E402, N999 - as in the configuration that this one stands for
import runpy
from pathlib import Path
from typing import Any

from ops.bench.watched import watch

_product = runpy.run_path(str(Path(__file__).parents[1] / "gunicorn.conf.py"))
globals().update({name: value for name, value in _product.items() if not name.startswith("__")})


def post_worker_init(worker: Any) -> None:
    _product["post_worker_init"](worker)
    watch()
