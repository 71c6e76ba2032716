"""What the contract suite has to know of each provider: one entry of CASES."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from common.catalog import Route
from common.errors import JobFailed, ProviderError, Refused
from common.task import ImageRequest
from tests.contracts.scripted import Reply

__all__ = ["CASES", "PNG", "Case"]

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
IMAGES_PATH = "/images/generations"


@dataclass(frozen=True)
class Case:
    """How to reach a provider in the sandbox, what to ask of it, and how it answers."""

    sandbox_path: str
    documents: str  # its name in examples.json, and the stem of its file in openapi/
    submit_path: str
    route: Route
    request: ImageRequest
    accepts: Callable[[str], Any]  # base URL -> the answer to a submit that succeeds
    key_header: str
    has_jobs: bool  # answers a submit with a job, not with pictures
    variants: tuple[tuple[ImageRequest, Route], ...]  # further requests that must be well formed
    newer: dict[str, Any] = field(default_factory=dict)  # request fields younger than the document
    document_path: str = ""  # the submit's path in the document, when it is a template there
    wrong: dict[str, Any] = field(default_factory=lambda: {"size": "48x48"})  # it refuses this
    wrong_named: str = "size|width"  # how its refusal names that
    errors: dict[str, type[ProviderError]] = field(default_factory=dict)  # where not the usual ones
    default_wait: float | None = None  # seconds assumed after a 429 that names none
    polled: frozenset[str] = frozenset()  # examples of answers to a poll that do not say so
    lacks: frozenset[str] = frozenset()  # faults for which the provider has no form
    reasons: tuple[str, ...] = ()  # how it words a refusal of the prompt, and one of the picture
    tells_cost: bool = True
    names_calls: bool = True  # its answers say by what it knows the call
    takes_any_size: bool = False
    picture_format: str = "PNG"
    is_polled: bool = True  # its jobs are asked about; else they have only to be fetched
    job_state: dict[str, Any] = field(default_factory=dict)  # what its jobs cannot do without
    # Name of an example, its answer, base URL -> the answers of which that one is a part.
    script: Callable[[str, Reply, str], list[Reply]] = lambda _, answer, __: [answer]
    sold_together: int = 1  # how many pictures are one purchase
    key_sent: Callable[[str], str] = str  # what its header holds of a key


def _openai() -> Case:
    route = Route("openai", "gpt-image-2", quality={"standard": "medium", "hd": "high"})
    return Case(
        sandbox_path="/openai/v1",
        documents="openai",
        submit_path=IMAGES_PATH,
        route=route,
        request=ImageRequest("dall-e-3", "a red fox"),
        accepts=lambda _: {
            "created": 1764000000,
            "data": [{"b64_json": base64.b64encode(PNG).decode()}],
        },
        key_header="authorization",
        reasons=("safety_violations=[sexual]", "safety_violations=[sexual]"),
        has_jobs=False,
        variants=(
            (ImageRequest("dall-e-3", "x", quality="hd", style="vivid", user="a@b.example"), route),
            (
                ImageRequest("dall-e-2", "x", size="256x256", seed=4, negative_prompt="blur"),
                Route(
                    "openai",
                    "gpt-image-2",
                    quality={"standard": "low"},
                    upstream_sizes={"256x256": "1024x1024"},
                ),
            ),
            (
                ImageRequest(
                    "gpt-image-2",
                    "x",
                    quality="high",
                    size="auto",
                    background="transparent",
                    output_format="webp",
                    output_compression=80,
                    moderation="low",
                    response_format="b64_json",
                ),
                Route("openai", "gpt-image-2"),
            ),
        ),
        newer={"safety_identifier": {"type": "string", "maxLength": 64}},
    )


def _bfl() -> Case:
    route = Route("bfl", "flux-pro-1.1")
    wide = ImageRequest("flux-pro", "a red fox", size="1344x768")
    every_field = ImageRequest(
        "flux-pro",
        "x",
        size="1440x960",
        quality="hd",
        seed=7,
        negative_prompt="blur",
        output_format="webp",
        user="a@b.example",
        moderation="low",
    )
    others = (
        "flux-dev", "flux-pro-1.1-ultra", "flux-kontext-pro", "flux-kontext-max", "flux-2-pro",
        "flux-2-max", "flux-2-flex", "flux-2-klein-4b", "flux-2-klein-9b",
    )  # fmt: skip
    return Case(
        sandbox_path="/bfl",
        documents="black-forest-labs",
        submit_path=f"/v1/{route.model}",
        route=route,
        request=ImageRequest("flux-pro", "a red fox"),
        accepts=lambda base: {
            "id": "job-1",
            "polling_url": f"{base}/v1/get_result?id=job-1",
            "cost": 4.0,
        },
        key_header="x-key",
        reasons=("Safety Filter", "Derivative Works Filter"),
        has_jobs=True,
        variants=(
            (wide, route),
            (every_field, route),
            *((wide, Route("bfl", model)) for model in others),
        ),
        default_wait=5,
    )


def _every_field(model: str) -> ImageRequest:
    return ImageRequest(
        model,
        "x",
        size="1344x768",
        quality="hd",
        seed=4294967295,
        negative_prompt="blur",
        output_format="webp",
        user="a@b.example",
        moderation="low",
    )


def _replicate() -> Case:
    route = Route("replicate", "black-forest-labs/flux-schnell")
    return Case(
        sandbox_path="/replicate/v1",
        documents="replicate",
        submit_path=f"/models/{route.model}/predictions",
        route=route,
        request=ImageRequest("flux-schnell", "a red fox"),
        accepts=lambda _: {"id": "job-1", "status": "starting", "output": None},
        key_header="authorization",
        reasons=("NSFW content detected", "flagged as sensitive"),
        has_jobs=True,
        variants=((_every_field("flux-schnell"), route),),
        document_path="/models/{model_owner}/{model_name}/predictions",
        # Its size follows from a shape, which is always one it takes.
        wrong={"output_format": "tiff"},
        wrong_named="output_format",
        polled=frozenset({"done", "refused", "cancelled", "aborted", "expired"}),
    )


def _fal() -> Case:
    route = Route("fal", "fal-ai/flux/schnell")

    def result(base: str) -> dict[str, Any]:
        images = [{"url": f"{base}/a.png", "width": 1024, "height": 1024}]
        return {"images": images, "seed": 7, "has_nsfw_concepts": [False], "prompt": "x"}

    def script(example: str, answer: Reply, base: str) -> list[Reply]:
        match example:
            case "completed":
                return [answer, Reply(result(base))]
            case "completed but failed":
                return [answer, Reply({}, 422)]
            case "result" | "result, one blanked" | "refused" | "runner gone":
                return [Reply({"status": "COMPLETED"}), answer]
        return [answer]

    return Case(
        sandbox_path="/fal",
        documents="fal",
        submit_path=f"/{route.model}",
        route=route,
        request=ImageRequest("flux-schnell", "a red fox"),
        accepts=lambda base: {
            "request_id": "job-1",
            "status_url": f"{base}/fal-ai/flux/requests/job-1/status",
            "response_url": f"{base}/fal-ai/flux/requests/job-1",
            "cancel_url": f"{base}/fal-ai/flux/requests/job-1/cancel",
            "status": "IN_QUEUE",
        },
        key_header="authorization",
        reasons=("flagged by a content checker", "has_nsfw_concepts"),
        has_jobs=True,
        variants=((_every_field("flux-schnell"), route),),
        polled=frozenset(
            {"waiting", "running", "completed", "completed but failed", "result"}
            | {"result, one blanked", "refused", "runner gone"}
        ),
        job_state={"model": route.model, "count": 2},
        script=script,
    )


def _together() -> Case:
    route = Route("together", "black-forest-labs/FLUX.1-schnell")
    item = {"index": 0, "b64_json": base64.b64encode(PNG).decode(), "type": "b64_json"}
    return Case(
        sandbox_path="/together/v1",
        documents="together",
        submit_path=IMAGES_PATH,
        route=route,
        request=ImageRequest("flux-schnell", "a red fox"),
        accepts=lambda _: {"id": "o1", "model": route.model, "object": "list", "data": [item]},
        key_header="authorization",
        reasons=("prompt may contain NSFW", "image may contain NSFW"),
        has_jobs=False,
        variants=(
            (ImageRequest("flux-schnell", "x", output_format="jpeg"), route),
            (_every_field("flux-schnell"), route),
            (_every_field("flux-pro"), Route("together", "black-forest-labs/FLUX.1.1-pro")),
        ),
    )


def _huggingface() -> Case:
    route = Route("huggingface", "black-forest-labs/FLUX.1-schnell")
    return Case(
        sandbox_path="/huggingface",
        documents="huggingface",
        submit_path=f"/models/{route.model}",
        route=route,
        request=ImageRequest("flux-schnell", "a red fox"),
        accepts=lambda _: PNG,
        key_header="authorization",
        has_jobs=False,
        variants=(
            (_every_field("flux-schnell"), route),
            (_every_field("own"), Route("huggingface", "ada/own-model")),
        ),
        document_path="/models/{model_id}",
        lacks=frozenset({"moderated", "moderated_output"}),
        tells_cost=False,
    )


def _stability() -> Case:
    route = Route("stability", "sd3.5-large")
    image = base64.b64encode(PNG).decode()
    return Case(
        sandbox_path="/stability",
        documents="stability",
        submit_path="/v2beta/stable-image/generate/sd3",
        route=route,
        request=ImageRequest("stable-diffusion-3", "a red fox"),
        accepts=lambda _: {"image": image, "finish_reason": "SUCCESS", "seed": 7},
        key_header="authorization",
        reasons=("flagged by our content moderation system", "CONTENT_FILTERED"),
        has_jobs=False,
        variants=(
            (_every_field("stable-diffusion-3"), route),
            (
                ImageRequest("stable-diffusion-3", "x", size="1024x1792", seed=0),
                Route("stability", "sd3.5-medium"),
            ),
        ),
        # Its size follows from a shape, which is always one it takes.
        wrong={"negative_prompt": "x" * 10_001},
        wrong_named="negative_prompt",
        # Work that failed is free there, and a model is a field like any other.
        errors={"server_error": JobFailed, "model": Refused},
        default_wait=60,
    )


def _midjourney() -> Case:
    route = Route("midjourney", "v7")
    every_field = ImageRequest(
        "midjourney",
        "x",
        size="1792x1024",
        seed=2**32 - 1,
        negative_prompt="blur",
        user="a@b.example",
    )
    return Case(
        sandbox_path="/midjourney",
        documents="midjourney-proxy",
        submit_path="/mj/submit/imagine",
        route=route,
        request=ImageRequest("midjourney", "a red fox"),
        accepts=lambda _: {"code": 1, "description": "提交成功", "result": "1712205491372224"},
        key_header="mj-api-secret",
        reasons=("the word moderated is banned", "Banned prompt detected"),
        has_jobs=True,
        variants=((every_field, route),),
        polled=frozenset({"running", "done", "failed", "unknown id"}),
        lacks=frozenset({"no_credit"}),  # a subscription is paid, not the call
        tells_cost=False,
        takes_any_size=True,
        sold_together=4,
    )


def _ideogram() -> Case:
    route = Route("ideogram", "ideogram-v3", quality={"low": "TURBO", "hd": "QUALITY"})
    return Case(
        sandbox_path="/ideogram",
        documents="ideogram",
        submit_path="/v1/ideogram-v3/generate",
        route=route,
        request=ImageRequest("ideogram-v3", "a red fox"),
        accepts=lambda base: {
            "created": "2026-11-22T12:00:00+00:00",
            "data": [
                {
                    "url": f"{base}/api/images/ephemeral/a.png?exp=1764003600&sig=00",
                    "prompt": "a red fox",
                    "resolution": "1024x1024",
                    "is_image_safe": True,
                    "seed": 7,
                }
            ],
        },
        key_header="api-key",
        reasons=("failed safety check due to the inclusion", "is_image_safe is false"),
        has_jobs=True,
        variants=(
            (_every_field("ideogram-v3"), route),
            (ImageRequest("ideogram-v3", "x", size="512x512", quality="low"), route),
            (ImageRequest("ideogram-v3", "x", size="1792x1024", seed=2**31), route),
        ),
        names_calls=False,
        takes_any_size=True,
        is_polled=False,
    )


def _gemini() -> Case:
    route = Route("gemini", "gemini-3.1-flash-image")
    inline = {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}
    parts = [{"text": "Here is your fox"}, {"inlineData": inline}]
    return Case(
        sandbox_path="/gemini/v1beta",
        documents="google-gemini",
        submit_path=f"/models/{route.model}:generateContent",
        route=route,
        request=ImageRequest("gemini-image", "a red fox"),
        accepts=lambda _: {
            "candidates": [{"index": 0, "finishReason": "STOP", "content": {"parts": parts}}]
        },
        key_header="x-goog-api-key",
        reasons=("PROHIBITED_CONTENT", "IMAGE_SAFETY"),
        has_jobs=False,
        variants=(
            (_every_field("gemini-image"), route),
            (ImageRequest("gemini-image", "x", size="2048x2048"), route),
            (ImageRequest("own", "x", size="512x512"), Route("gemini", "gemini-2.5-flash-image")),
        ),
        document_path="/models/{modelsId}:generateContent",
        takes_any_size=True,
        picture_format="JPEG",
    )


def _a1111() -> Case:
    route = Route("a1111", "default", quality={"standard": "20"})
    info = {"seed": 7, "all_seeds": [7], "index_of_first_image": 0, "infotexts": ["x"]}
    return Case(
        sandbox_path="/a1111",
        documents="automatic1111",
        submit_path="/sdapi/v1/txt2img",
        route=route,
        request=ImageRequest("sd-webui", "a red fox"),
        accepts=lambda _: {
            "images": [base64.b64encode(PNG).decode()],
            "parameters": {"prompt": "a red fox"},
            "info": json.dumps(info),
        },
        key_header="authorization",
        has_jobs=False,
        variants=(
            (_every_field("sd-webui"), route),
            (ImageRequest("own", "x", size="64x2048"), Route("a1111", "sandbox-anime")),
        ),
        # It takes any number of pixels, and makes of it one that it can.
        wrong={"negative_prompt": ["x"]},
        wrong_named="negative_prompt",
        errors={"server_error": JobFailed},  # said by the server itself, of work that is over
        lacks=frozenset({"no_credit", "rate_limited", "moderated", "moderated_output"}),
        tells_cost=False,
        names_calls=False,
        key_sent=lambda key: base64.b64encode(key.encode()).decode(),
    )


def _compatible() -> Case:
    route = Route("compatible", "gpt-image-2")
    own = ImageRequest(
        "own",
        "x",
        size="768x512",
        seed=7,
        negative_prompt="blur",
        style="natural",
        user="a@b.example",
    )
    passed_on = ImageRequest(
        "gpt-image-2",
        "x",
        quality="high",
        background="transparent",
        output_format="webp",
        output_compression=80,
        moderation="low",
    )
    return Case(
        sandbox_path="/compatible/v1",
        documents="openai-compatible",
        submit_path=IMAGES_PATH,
        route=route,
        request=ImageRequest("gpt-image-2", "a red fox"),
        accepts=lambda _: {"data": [{"b64_json": base64.b64encode(PNG).decode()}]},
        key_header="authorization",
        has_jobs=False,
        variants=(
            (
                ImageRequest("dall-e-3", "x", quality="hd", style="vivid"),
                Route("compatible", "dall-e-3"),
            ),
            (own, Route("compatible", "qwen-image")),
            (passed_on, route),
        ),
        newer={"moderation": {"enum": ["auto", "low"]}},  # OpenAI's, and its resellers'
        document_path=f"/v1{IMAGES_PATH}",
        tells_cost=False,
    )


def _comfyui() -> Case:
    route = Route("comfyui", "default")

    def script(example: str, answer: Reply, base: str) -> list[Reply]:
        match example:
            case "queue":
                return [Reply({}), answer]
            case "not yet":
                return [answer, Reply({"queue_running": [], "queue_pending": []})]
            case "done" | "failed":
                return [Reply({"job-1": entry}) for entry in answer.body.values()]
        return [answer]

    return Case(
        sandbox_path="/comfyui",
        documents="comfyui",
        submit_path="/prompt",
        route=route,
        request=ImageRequest("comfyui", "a red fox"),
        accepts=lambda _: {"prompt_id": "job-1", "number": 12, "node_errors": {}},
        key_header="authorization",
        has_jobs=True,
        variants=((_every_field("comfyui"), route),),
        wrong={"size": "8x8"},
        # It asks for no money and has no rules.
        lacks=frozenset({"no_credit", "moderated", "moderated_output"}),
        tells_cost=False,
        polled=frozenset({"done", "failed", "queue"}),
        job_state={"count": 2, "seed": 7, "unseen": 9},
        script=script,
    )


CASES = {
    "openai": _openai(),
    "bfl": _bfl(),
    "replicate": _replicate(),
    "fal": _fal(),
    "together": _together(),
    "huggingface": _huggingface(),
    "stability": _stability(),
    "midjourney": _midjourney(),
    "ideogram": _ideogram(),
    "gemini": _gemini(),
    "a1111": _a1111(),
    "compatible": _compatible(),
    "comfyui": _comfyui(),
}
