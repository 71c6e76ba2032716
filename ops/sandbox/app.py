"""Puts the sandbox together: the dialects, the bill and the control calls."""

from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from pydantic import ValidationError
from werkzeug.middleware.proxy_fix import ProxyFix

from ops.sandbox.dialects import DIALECTS
from ops.sandbox.dialects.base import Desk
from ops.sandbox.faults import FAULTS, Faults, UnknownFault, parse_orders
from ops.sandbox.ledger import Calls, Ledger
from ops.sandbox.pictures import Painter
from ops.sandbox.server import ClientGone


def create_app(*, speed: float = 1.0, ledger: Path | None = None) -> Flask:
    """The whole sandbox. `speed` divides every delay; see Ledger for `ledger` and OSError."""
    app = Flask("sandbox")
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # Addresses in answers begin like the one that was called, also behind a server that speaks TLS.
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=0, x_proto=1)  # type: ignore[method-assign]
    purchases, calls, faults, painter = Ledger(ledger), Calls(), Faults(), Painter()
    for provider, make_blueprint in DIALECTS.items():
        desk = Desk(provider, purchases, calls, faults, painter, speed)
        app.register_blueprint(make_blueprint(desk), url_prefix=f"/{provider}")
    _register_control(app, purchases, calls, faults)
    app.register_error_handler(ClientGone, lambda _: Response(status=499))
    app.register_error_handler(UnknownFault, _unknown_fault)
    return app


def _register_control(app: Flask, ledger: Ledger, calls: Calls, faults: Faults) -> None:
    @app.get("/")
    def index() -> dict[str, Any]:
        return {
            "sandbox": "speaks the providers' protocols offline; nothing here costs money",
            "providers": {name: request.host_url + name for name in DIALECTS},
            "control": sorted(
                f"{' '.join(sorted((rule.methods or set()) - {'HEAD', 'OPTIONS'}))} {rule.rule}"
                for rule in app.url_map.iter_rules()
                if rule.rule.startswith("/_sandbox")
            ),
            "faults": FAULTS,
        }

    @app.get("/_sandbox/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/_sandbox/purchases")
    def purchases() -> dict[str, Any]:
        return {"purchases": ledger.purchases()}

    @app.delete("/_sandbox/purchases")
    def clear_purchases() -> tuple[str, int]:
        ledger.clear()
        return "", 204

    @app.get("/_sandbox/calls")
    def show_calls() -> dict[str, Any]:
        return {"calls": calls.counts(list(DIALECTS))}

    @app.delete("/_sandbox/calls")
    def clear_calls() -> tuple[str, int]:
        calls.clear()
        return "", 204

    @app.get("/_sandbox/faults")
    def show_faults() -> dict[str, Any]:
        return faults.as_json()

    @app.post("/_sandbox/faults")
    def add_faults() -> tuple[dict[str, Any], int]:
        try:
            orders = parse_orders(request.get_json(silent=True))
        except ValidationError as problem:
            return {"error": str(problem)}, 400
        faults.obey(orders)
        return faults.as_json(), 200

    @app.delete("/_sandbox/faults")
    def clear_faults() -> tuple[str, int]:
        faults.clear()
        return "", 204


def _unknown_fault(problem: UnknownFault) -> tuple[Response, int]:
    error = {"message": str(problem), "type": "sandbox_error", "param": None, "code": None}
    return jsonify(error=error), 400
