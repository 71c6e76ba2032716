"""A Stable Diffusion web UI (AUTOMATIC1111, Forge, SD.Next): draws while the call is open."""

from __future__ import annotations

import re
import time
from typing import Any

import orjson

from common.catalog import Route
from common.errors import BadAnswer, JobFailed, ModelNotServed, ProviderError
from common.task import ImageRequest
from common.transport import Answer
from workers.providers.base import Order, Outcome, Picture, Pictures, Provider, from_base64

__all__ = ["Automatic1111"]

_LOADED = ("", "default")  # a route's names for the checkpoint that the server has loaded
# To a question about checkpoints. The submit that follows gets the same answer, and names it.
_NOT_TOLD = (401, 403, 404, 405, 410)


class Automatic1111(Provider):
    """`POST {base}/sdapi/v1/txt2img`, or `img2img`, which answers when the pictures are made.

    All calls of a server stand in one queue, and time in the queue counts. The server is the
    user's own: there is no cost to tell.

    Nothing is ever cancelled. The API can only interrupt whatever runs now, and between asking
    whose work that is and interrupting it, it may have become somebody else's.
    """

    name = "a1111"
    auth = ("Authorization", "Basic ")
    pictures_per_call = 4
    longest_submit = 1800.0
    progress_every = 2.0
    mask_form = "black"

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        deadline = time.monotonic() + timeout
        if order.route.model not in _LOADED:
            self._look_for(order.route.model, deadline)
        answer = self._api.post(
            "/sdapi/v1/img2img" if order.images else "/sdapi/v1/txt2img",
            _body(order) | _images(order),
            deadline=deadline,
            pictures=2 * order.count,  # a grid shows all of them once more
        )
        if not answer.ok:
            raise self._error(answer)
        pictures = _pictures(answer.json(), order.count)
        if not pictures:
            raise BadAnswer("a1111 answered without a picture that could be read.")
        return Pictures(pictures)

    def progress(self, order: Order, *, timeout: float) -> int | None:
        # `GET /sdapi/v1/progress` tells of whatever runs now, and not reliably whose it is.
        answer = self._api.post(
            "/internal/progress",
            {"id_task": _task_id(order), "id_live_preview": -1, "live_preview": False},
            deadline=time.monotonic() + timeout,
        )
        if answer.status in (404, 405):
            return None  # a server without its user interface
        if not answer.ok:
            raise self._error(answer)
        match answer.json():
            # SD.Next says the number of somebody else's work to those who are not active.
            case {"active": True, "progress": int() | float() as share}:
                return int(100 * min(max(share, 0), 1))
        return None

    def _look_for(self, checkpoint: str, deadline: float) -> None:
        """See that the server has the checkpoint: of one it has not, it says nothing and takes
        another. Raises ModelNotServed."""
        answer = self._api.get("/sdapi/v1/sd-models", deadline=deadline, verdicts=_NOT_TOLD)
        names = _checkpoints(answer)
        if names and checkpoint not in names:
            raise ModelNotServed(f"a1111 has no checkpoint of the name {checkpoint}.")

    def _error(self, answer: Answer) -> ProviderError:
        match answer.json():
            case {"error": str(name), "errors": str(errors), **more}:
                detail = more.get("detail")
                said = detail if isinstance(detail, str) and detail else errors
                if answer.status == 500:
                    # The server's own word for work that failed; a proxy's has another form.
                    said = f"{name}: {said}"
                    return self._api.error(answer, JobFailed, said=said, billed="no")
                return self._api.error(answer, said=said)
            case {"detail": "Not Found"}:
                said = "Not Found. Perhaps the server was started without --api."
                return self._api.error(answer, said=said)
        return self._api.error(answer)


def _task_id(order: Order) -> str:
    return f"task({order.key})"


def _body(order: Order) -> dict[str, Any]:
    request, route = order.request, order.route
    size = route.upstream_size(request.size)
    width, height = (int(side) for side in size.split("x"))
    body: dict[str, Any] = {
        "prompt": request.prompt,
        "width": width,
        "height": height,
        "batch_size": order.count,
        "send_images": True,
        "save_images": False,  # neither pictures nor a grid of them on the server's disk
    }
    if order.key:
        body["force_task_id"] = _task_id(order)
    if (steps := _steps(request, route)) is not None:
        body["steps"] = steps
    if request.seed is not None:
        body["seed"] = request.seed + order.first
    if request.negative_prompt:
        body["negative_prompt"] = request.negative_prompt
    if route.model not in _LOADED:
        # For this call: unless told otherwise, the server then goes back to its own choice.
        body["override_settings"] = {"sd_model_checkpoint": route.model}
    return body


def _images(order: Order) -> dict[str, Any]:
    """What `img2img` takes beside the rest (stable-diffusion-webui, modules/api/models.py)."""
    body: dict[str, Any] = {}
    if order.images:
        # Cut to the shape of the result where that is another, and not squeezed.
        body |= {"init_images": [image.base64 for image in order.images], "resize_mode": 1}
    if order.images and order.request.strength is not None:
        body["denoising_strength"] = order.request.strength
    if order.mask:
        # What is black is made anew, from what was there before.
        body |= {"mask": order.mask.base64, "inpainting_mask_invert": 1, "inpainting_fill": 1}
    return body


def _steps(request: ImageRequest, route: Route) -> int | None:
    told = route.quality.get(request.quality or "standard", "")
    return int(told) if told.isdecimal() else None


def _pictures(body: dict[str, Any], count: int) -> tuple[Picture, ...]:
    images = body.get("images")
    if not isinstance(images, list):
        return ()
    info = _info(body.get("info"))
    match info.get("index_of_first_image"):
        case int(first) if first >= 0:
            pass
        case _:
            first = max(0, len(images) - count)  # if there is a grid, it comes first
    seeds = info.get("all_seeds")
    pictures = []
    for number, image in enumerate(images[first : first + count]):
        if data := from_base64(image):
            pictures.append(Picture(data, seed=_seed(seeds, number)))
    return tuple(pictures)


def _info(text: object) -> dict[str, Any]:
    """What is told about the pictures: JSON within JSON. Empty when it cannot be read."""
    try:
        info = orjson.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}


def _seed(seeds: object, number: int) -> int | None:
    seed = seeds[number] if isinstance(seeds, list) and number < len(seeds) else None
    return seed if isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 else None


def _checkpoints(answer: Answer) -> set[str]:
    """Every name by which the server finds one of its checkpoints; empty when it does not tell."""
    try:
        entries = orjson.loads(answer.body) if answer.ok else []
    except ValueError:
        return set()
    names = set()
    for entry in entries if isinstance(entries, list) else []:
        match entry:
            case {"title": str(title), "model_name": str(name), "filename": str(path)}:
                file = re.split(r"[/\\]", path)[-1]
                names |= {title, title.partition(" [")[0], name, file, file.rpartition(".")[0]}
                names |= {entry.get("hash"), entry.get("sha256")}
    return {name for name in names if isinstance(name, str) and name}
