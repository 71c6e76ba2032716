"""The JSON documents that go in and out, as pydantic models: the source of `/openapi.json`.

Only the request is checked against its model. Answers are plain dicts, built where they are
sent; tests hold them to these models.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

__all__ = [
    "DEFAULT_MODEL",
    "EVENTS_EXAMPLE",
    "AdminTaskQuery",
    "EditForm",
    "EditJson",
    "EditRequest",
    "ErrorEnvelope",
    "EventsQuery",
    "FilePath",
    "FileQuery",
    "GenerationRequest",
    "Health",
    "ImageTask",
    "InlineImages",
    "ModelList",
    "ModelObject",
    "ModelPath",
    "ModelQuery",
    "Readiness",
    "TaskPath",
    "UsageQuery",
    "UsageReport",
    "VariationForm",
    "VariationJson",
    "VariationRequest",
]

DEFAULT_MODEL = "dall-e-3"
_DEFAULT_EDIT_MODEL = "gpt-image-2"
_DEFAULT_VARIATION_MODEL = "dall-e-2"

TASK_ID = "imgtask_0f4c2d5e8a9b4c7d9e1f2a3b4c5d6e7f"
_IMAGE_URL = f"http://localhost:8000/files/{TASK_ID}/0.png?expires=1706086400&signature=4Yv…"

EVENTS_EXAMPLE = f"""retry: 2000

id: 0
event: status
data: {{"task_id":"{TASK_ID}","status":"pending"}}

id: 1
event: status
data: {{"task_id":"{TASK_ID}","status":"processing"}}

id: 41
event: progress
data: {{"task_id":"{TASK_ID}","progress":40}}

:

id: 101
event: progress
data: {{"task_id":"{TASK_ID}","progress":100}}

id: 102
event: status
data: {{"task_id":"{TASK_ID}","status":"completed"}}

id: 103
event: image
data: {{"task_id":"{TASK_ID}","index":0,"url":"{_IMAGE_URL}",…}}

id: 999
event: done
data: {{"created":1706000000,"id":"{TASK_ID}","status":"completed","progress":100,"data":[…],…}}

"""


_Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class GenerationRequest(BaseModel):
    """What to generate. Each model's own limits are in its entry of `/v1/models`.

    A known parameter that the chosen model does not take is ignored and named in `warnings`; so
    is an unknown field. `null` means absent.
    """

    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        json_schema_extra={
            "examples": [
                {"prompt": "a red apple"},
                {"model": "flux-pro", "prompt": "a red apple", "n": 2, "size": "1024x768"},
                {
                    "model": "dall-e-3",
                    "prompt": "a red apple",
                    "size": "1792x1024",
                    "quality": "hd",
                    "style": "natural",
                    "response_format": "b64_json",
                },
                {
                    "prompt": "a red apple",
                    "metadata": {"order": "4711"},
                    "webhook_url": "https://shop.example.com/hooks/images",
                    "webhook_events": ["completed", "failed"],
                },
            ]
        },
    )

    model: str = Field(
        DEFAULT_MODEL,
        description="Id of a listed model.",
        examples=["dall-e-3", "flux-pro", "midjourney"],
    )
    prompt: str = Field(description="Description of the wanted image; each model has its limit.")
    n: int = Field(1, ge=1, le=4, description="Number of images; some models allow fewer than 4.")
    size: str | None = Field(
        None,
        description="WIDTHxHEIGHT in pixels, one that the model takes, or auto. "
        "Default: the model's, `1024x1024` for most.",
        examples=["1024x1024", "1792x1024", "512x512"],
    )
    quality: str | None = Field(
        None,
        description="`standard` (default) or `hd`: dall-e-3. Other models have their own words.",
        examples=["standard", "hd"],
    )
    response_format: Literal["url", "b64_json"] = Field(
        "url", description="How the finished images are delivered."
    )
    style: str | None = Field(
        None, description="`vivid` (default) or `natural`: dall-e-3.", examples=["vivid", "natural"]
    )
    user: str | None = Field(
        None, max_length=512, description="Identifier of the end user, at most 512 characters."
    )
    seed: int | None = Field(None, ge=0, le=2**32 - 1, description="For repeatable results.")
    negative_prompt: str | None = Field(None, description="What should not be in the image.")
    aspect_ratio: str | None = Field(
        None, pattern=r"^[1-9][0-9]{0,3}:[1-9][0-9]{0,3}$", examples=["16:9"]
    )
    output_format: str | None = Field(
        None, description="One of the formats that the model offers.", examples=["png", "jpeg"]
    )
    output_compression: int | None = Field(None, ge=0, le=100)
    background: Literal["auto", "transparent", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    metadata: _Metadata | None = Field(
        None,
        description="Anything of yours that the task should say: at most 16 pairs, keys of at most "
        "64 and values of at most 512 characters.",
        examples=[{"order": "4711"}],
    )
    webhook_url: str | None = Field(
        None,
        max_length=2048,
        description="Gets a signed POST with the task when it has ended (Standard Webhooks). "
        "Public, and https.",
        examples=["https://shop.example.com/hooks/images"],
    )
    webhook_events: Annotated[list[Literal["completed", "failed"]], Field(min_length=1)] | None = (
        Field(None, description="The ends to be told of. Default: both.", examples=[["completed"]])
    )
    asynchronous: bool | None = Field(
        None, alias="async", description="Changes nothing: every submit is a task."
    )


class EditRequest(GenerationRequest):
    """What to change in one or several images."""

    model: str = Field(
        _DEFAULT_EDIT_MODEL,
        description="Id of a listed model that has `edits`. The default is what follows on "
        "OpenAI's own, which it retired.",
        examples=["gpt-image-2", "flux-kontext-pro"],
    )
    prompt: str = Field(description="What the result should show.")
    size: str | None = Field(
        None,
        description="WIDTHxHEIGHT in pixels, one that the model takes, or auto. Default: of the "
        "model's sizes the one most like the first image in shape.",
    )
    input_fidelity: Literal["high", "low"] | None = Field(
        None, description="For models that list it: how closely details of the input are kept."
    )
    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        description="For models that list it: how far the result may go from the image; 0 is the "
        "image itself, at 1 hardly anything is left of it.",
    )


class VariationRequest(GenerationRequest):
    """Of which image to make others like it. There is no prompt."""

    model: str = Field(
        _DEFAULT_VARIATION_MODEL, description="Id of a listed model that has `variations`."
    )
    prompt: str = Field("", description="Ignored.")


class ImageReference(BaseModel):
    """An image by its address."""

    image_url: str = Field(
        description="A public https address, at most three redirects away, or a `data:` URL.",
        examples=["https://example.com/photo.png"],
    )


_Image = str | ImageReference
_File = Annotated[bytes, WithJsonSchema({"type": "string", "format": "binary"})]
_EDIT = {"prompt": "Put a red hat on the fox", "model": "gpt-image-2", "size": "1024x1024"}


class EditJson(EditRequest):
    """Images by address or as `data:` URLs; the body may have 70 MB."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {**_EDIT, "images": [{"image_url": "https://example.com/fox.png"}]},
                {**_EDIT, "image_url": "https://example.com/fox.png"},
                {
                    **_EDIT,
                    "images": ["https://example.com/fox.png", "data:image/png;base64,iVBORw0K…"],
                    "mask": {"image_url": "https://example.com/mask.png"},
                },
            ]
        }
    )

    images: list[_Image] | None = None
    image_url: str | None = Field(None, description="The same as `images` with this one.")
    image: _Image | list[_Image] | None = Field(None, description="The same as `images`.")
    mask: _Image | None = Field(
        None,
        description="A PNG of the first image's size; what is fully transparent in it is made "
        "anew.",
    )
    mask_url: str | None = Field(None, description="The same as `mask`.")


class EditForm(EditRequest):
    """Images as files of at most 50 MB each, 200 MB in all; or by address, as in JSON."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_EDIT, "image": "<fox.png>"}]})

    image: list[_File] = Field(
        description="One file, or several under `image` or `image[]`: PNG, JPEG or WebP."
    )
    mask: _File | None = Field(
        None,
        description="A PNG of the first image's size; what is fully transparent in it is made "
        "anew.",
    )


class VariationJson(VariationRequest):
    """The image by address or as a `data:` URL."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"n": 2, "image_url": "https://example.com/fox.png"}]}
    )

    image_url: str | None = None
    image: _Image | None = Field(None, description="The same as `image_url`.")


class VariationForm(VariationRequest):
    """The image as a file; or by address, as in JSON."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"n": 2, "image": "<fox.png>"}]})

    image: _File = Field(description="For dall-e-2: a square PNG of at most 4 MB.")


class TaskImage(BaseModel):
    """One image: a placeholder until the task is completed."""

    url: str | None = Field(
        None, description="Empty until completed; then loads without a key until `expires_at`."
    )
    b64_json: str | None = Field(None, description="The image in Base64; null if it is lost.")
    revised_prompt: str = Field(description="The prompt that was used.")
    width: int | None = Field(None, description="Pixels that the image really has.")
    height: int | None = Field(None, description="Pixels that the image really has.")
    error: str | None = Field(None, description="Why there is no image here any more.")


class Failed(BaseModel):
    """Why something came to nothing, and whether it was charged."""

    code: str
    message: str
    retryable: bool = Field(description="Whether the same request may succeed later.")
    billed: Literal["no", "yes", "unknown"]


class ImageTask(BaseModel):
    """A task. `status` says which of the optional fields are there."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "created": 1706000000,
                    "id": TASK_ID,
                    "task_id": TASK_ID,
                    "object": "image.generation.task",
                    "status": "pending",
                    "progress": 0,
                    "model": "flux-pro",
                    "poll_url": f"/v1/images/generations/{TASK_ID}",
                    "data": [{"url": "", "revised_prompt": "a red apple"}],
                    "warnings": [],
                },
                {
                    "created": 1706000000,
                    "id": TASK_ID,
                    "task_id": TASK_ID,
                    "object": "image.generation.task",
                    "status": "completed",
                    "progress": 100,
                    "model": "flux-pro",
                    "poll_url": f"/v1/images/generations/{TASK_ID}",
                    "data": [
                        {
                            "url": _IMAGE_URL,
                            "revised_prompt": "a red apple",
                            "width": 1024,
                            "height": 1024,
                        }
                    ],
                    "warnings": [],
                    "size": "1024x1024",
                    "started": 1706000001,
                    "completed_at": 1706000009,
                    "expires_at": 1706086409,
                    "metadata": {"order": "4711"},
                    "webhook": {
                        "id": f"{TASK_ID}_completed",
                        "url": "https://shop.example.com/hooks/images",
                        "events": ["completed", "failed"],
                        "status": "delivered",
                        "attempts": [{"at": 1706000009, "status": 200, "error": None, "ms": 84}],
                        "next_attempt_at": None,
                    },
                    "provider": "bfl",
                    "provider_model": "flux-pro-1.1",
                    "usage": {
                        "provider": "bfl",
                        "model": "flux-pro-1.1",
                        "cost_usd": 0.04,
                        "seconds": 7.412,
                    },
                    "timeline": [
                        {"at": 1706000000.118, "event": "accepted"},
                        {"at": 1706000001.044, "event": "claimed", "worker": "3fa9c1"},
                        {
                            "at": 1706000001.047,
                            "event": "submitted",
                            "provider": "bfl",
                            "model": "flux-pro-1.1",
                            "calls": 1,
                        },
                        {"at": 1706000001.402, "event": "job_accepted", "call": 0},
                        {"at": 1706000008.459, "event": "stored", "images": 1},
                        {"at": 1706000008.459, "event": "completed"},
                    ],
                },
                {
                    "created": 1706000000,
                    "id": TASK_ID,
                    "task_id": TASK_ID,
                    "object": "image.generation.task",
                    "status": "failed",
                    "progress": 0,
                    "model": "flux-pro",
                    "poll_url": f"/v1/images/generations/{TASK_ID}",
                    "data": [],
                    "warnings": [],
                    "size": "1024x1024",
                    "failed_at": 1706000009,
                    "expires_at": 1706086409,
                    "error": "The prompt was refused by the provider.",
                    "error_detail": {
                        "code": "content_policy_violation",
                        "message": "The prompt was refused by the provider.",
                        "retryable": False,
                        "billed": "no",
                    },
                },
                {
                    "created": 1706000000,
                    "id": TASK_ID,
                    "task_id": TASK_ID,
                    "object": "image.generation.task",
                    "status": "failed",
                    "progress": 0,
                    "model": "flux-schnell",
                    "poll_url": f"/v1/images/generations/{TASK_ID}",
                    "data": [],
                    "warnings": [],
                    "size": "1024x1024",
                    "cancellation_status": "cancelled",
                    "cancelled": True,
                    "failed_at": 1706000004,
                    "expires_at": 1706086404,
                    "error": "The task was cancelled.",
                    "error_detail": {
                        "code": "cancelled",
                        "message": "The task was cancelled.",
                        "retryable": False,
                        "billed": "no",
                    },
                },
            ]
        }
    )

    created: int = Field(description="Unix seconds.")
    id: str
    task_id: str
    object: Literal["image.generation.task"]
    status: Literal["pending", "processing", "completed", "failed"]
    progress: int = Field(ge=0, le=100)
    model: str
    poll_url: str = Field(description="Relative to the host; works exactly as returned.")
    data: list[TaskImage]
    warnings: list[str] = Field(description="What of the request was not done, and why.")
    size: str | None = Field(
        None,
        description="What was asked for. Each image says its own width and height; where they are "
        "others, because the provider chose them, `warnings` says so.",
    )
    quality: str | None = None
    style: str | None = None
    sandbox: bool | None = Field(None, description="True when no real provider was asked.")
    queue_position: int | None = Field(
        None, ge=1, description="Its place among the tasks that no worker has taken up: 1 is next."
    )
    eta_seconds: int | None = Field(
        None,
        ge=0,
        description="Seconds until it is done, by what was measured lately; absent when unknown.",
    )
    blocked_reason: (
        Literal["rate_limited", "failing", "full", "no_credit", "bad_key", "not_served", "paused"]
        | None
    ) = Field(
        None,
        description="Why no provider takes it at the moment: the provider asked to wait, fails "
        "again and again, has as many calls as it may, wants money, refuses our key, or no longer "
        "has the model; or the operator has paused it.",
    )
    started: int | None = Field(None, description="Unix seconds.")
    completed_at: int | None = Field(None, description="Unix seconds.")
    failed_at: int | None = Field(None, description="Unix seconds.")
    expires_at: int | None = Field(
        None, description="Unix seconds; until then the task and its images are kept."
    )
    provider: str | None = None
    provider_model: str | None = None
    usage: Usage | None = None
    missing: list[Failed] | None = Field(None, description="Images that could not be had.")
    error: str | None = Field(None, description="For people.")
    error_detail: Failed | None = None
    cancelled: bool | None = None
    cancellation_status: Literal["requested", "declined", "cancelled"] | None = Field(
        None,
        description="What came of the wish to cancel it. `requested`: its provider is being asked "
        "to stop. `declined`: it has not stopped, and the task goes on or was completed.",
    )
    metadata: dict[str, str] | None = Field(None, description="As it was submitted.")
    webhook: WebhookState | None = Field(
        None, description="Where word of the end goes. Not part of what a webhook itself says."
    )
    timeline: list[TimelineEntry] | None = Field(
        None,
        description="What happened to the task, in order. Of very many entries some in the middle "
        "are left out.",
    )


class WebhookAttempt(BaseModel):
    """One try to deliver: what was answered, or why nothing was."""

    at: int = Field(description="Unix seconds.")
    status: int | None = Field(description="HTTP status of the answer.")
    error: str | None = Field(description="For people: why there was no answer.")
    ms: int | None = Field(description="Milliseconds that it took.")


class WebhookState(BaseModel):
    """How far the delivery of a webhook has come."""

    id: str | None = Field(description="The `webhook-id` of every try; null until the task ends.")
    url: str = Field(description="Without its query.")
    events: list[Literal["completed", "failed"]]
    status: Literal["pending", "delivered", "failed", "gone", "not_asked"] = Field(
        description="`failed`: all tries were in vain. `gone`: the receiver answered 410 and is "
        "left alone. `not_asked`: the task's end is not among the events."
    )
    attempts: list[WebhookAttempt] = Field(description="The last 20, oldest first.")
    next_attempt_at: int | None = Field(
        description="Unix seconds; null while one is under way, and when there will be none."
    )


class TimelineEntry(BaseModel):
    """One thing that happened. Events come with what is known of them; there may be others than
    those named here.

    `accepted`: the task was taken in. `claimed`: a worker has begun to work on it; `worker_lost`:
    one died over it. `submitted`: calls are sent to a provider. `job_accepted`: the provider works
    on a call; `received`: it answered with pictures. `turned_away`: it did not carry a call out;
    `call_failed`: a call ended without a picture. `in_doubt`, `missed`, `late_answer`: what became
    of a call, or of its pictures, is waited for, and was learned. `deferred`: the task waits.
    `cancel_requested`: its provider is to be told to stop; `cancel_declined`: it has not stopped.
    `stored`: its pictures are kept. `completed`, `failed`, `cancelled`: it is over. `notified`: its
    webhook was delivered, or given up. `retry`: the operator had it made of a task that had failed.
    `omitted`: so many entries are left out here.
    """

    model_config = ConfigDict(extra="allow")

    at: float = Field(description="Unix seconds.")
    event: str = Field(examples=["claimed"])
    worker: str | None = Field(None, description="Tells workers apart, and no more.")
    provider: str | None = None
    model: str | None = Field(None, description="What the provider calls it.")
    calls: int | None = Field(None, description="How many were sent.")
    call: int | None = Field(None, description="The first picture that the call brings, from 0.")
    state: str | None = Field(None, description="What was learned late of a call.")
    error: str | None = Field(None, description="What went wrong.")
    billed: Literal["no", "yes", "unknown"] | None = None
    reason: str | None = Field(None, description="Why it waits.")
    wait_seconds: float | None = Field(None, description="For how long at most.")
    images: int | None = None
    outcome: Literal["delivered", "failed", "gone"] | None = Field(
        None, description="What came of its webhook."
    )
    of: str | None = Field(None, description="The failed task that it is a retry of.")
    entries: int | None = None


class TaskList(BaseModel):
    """A page of the caller's tasks, the newest first."""

    object: Literal["list"]
    data: list[ImageTask] = Field(
        description="As when polled, but that images are given by address always."
    )
    first_id: str | None
    last_id: str | None = Field(description="What to give as `after` to go on.")
    has_more: bool


class Usage(BaseModel):
    """What a completed task took. Beside these the provider's own counts, as far as it tells."""

    model_config = ConfigDict(extra="allow")

    provider: str
    model: str = Field(description="What the provider calls it.")
    request_id: str | None = Field(None, description="The provider's name for the call.")
    seconds: float | None = Field(None, description="From the call to its pictures.")
    cost_usd: float | None = Field(None, description="US dollars, all pictures together.")
    cost_estimated: bool | None = Field(
        None, description="True when the cost is our sum from list prices."
    )


class InlineImage(BaseModel):
    """One image of an answer that was waited for."""

    url: str | None = None
    b64_json: str | None = None
    revised_prompt: str
    error: str | None = Field(None, description="Why there is no image here any more.")


class InlineImages(BaseModel):
    """The finished images, in the form of OpenAI's Images API."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "created": 1706000000,
                    "data": [{"url": _IMAGE_URL, "revised_prompt": "a red apple"}],
                }
            ]
        }
    )

    created: int = Field(description="Unix seconds.")
    data: list[InlineImage]


class ValidationProblem(BaseModel):
    """One thing that is wrong with the request."""

    field: str | None
    message: str


class Error(BaseModel):
    """What went wrong; further helpers are there where they help."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    code: str
    param: str | None = Field(description="The field that is to blame.")
    did_you_mean: str | None = None
    suggestions: list[str] | None = None
    alternatives: list[str] | None = None
    hint: str | None = None
    retryable: bool | None = None
    retry_after: int | None = Field(None, description="Seconds.")
    billed: Literal["no", "yes", "unknown"] | None = None
    limit: (
        Literal["requests_per_minute", "tasks_in_flight", "images_per_day", "usd_per_month"] | None
    ) = Field(None, description="Of the key: the one that is in the way.")
    resets_in: int | None = Field(
        None, description="Seconds until a used up quota counts from zero again."
    )
    reason: str | None = Field(
        None,
        description="Of `task_not_cancellable`: `completed` or `failed`, it is over; `sending`, it "
        "is just being sent, ask again; `in_doubt`, what became of a call is being found out; "
        "`unstoppable`, its provider cannot be told to stop; `not_stopped`, it has not.",
    )
    task_id: str | None = None
    request_id: str | None = None


class ErrorEnvelope(BaseModel):
    """Every error answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "message": "There is no model 'dalle-3'.",
                        "type": "invalid_request_error",
                        "code": "model_not_found",
                        "param": "model",
                        "did_you_mean": "dall-e-3",
                        "suggestions": ["dall-e-3", "dall-e-2"],
                        "hint": "GET /v1/models lists all models.",
                    },
                    "validation_errors": [
                        {"field": "model", "message": "There is no model 'dalle-3'."}
                    ],
                },
                {
                    "error": {
                        "message": "The task cannot be cancelled. Its provider is at work and "
                        "cannot be told to stop. The task goes on as if it had not been asked to "
                        "stop.",
                        "type": "invalid_request_error",
                        "code": "task_not_cancellable",
                        "param": None,
                        "reason": "unstoppable",
                        "task_id": TASK_ID,
                        "retryable": False,
                    }
                },
                {
                    "error": {
                        "message": "This key may make 60 requests per minute.",
                        "type": "rate_limit_exceeded",
                        "code": "rate_limit_exceeded",
                        "param": None,
                        "limit": "requests_per_minute",
                        "retry_after": 1,
                        "retryable": True,
                    }
                },
                {
                    "error": {
                        "message": "This key may make 100 images a day (UTC), and has made 99; "
                        "2 more would be too many.",
                        "type": "insufficient_balance",
                        "code": "quota_exceeded",
                        "param": None,
                        "limit": "images_per_day",
                        "resets_in": 21600,
                        "retryable": False,
                        "hint": "GET /v1/usage tells what is used and what is left.",
                    }
                },
            ]
        }
    )

    error: Error
    validation_errors: list[ValidationProblem] | None = None


class UsedSums(BaseModel):
    """Images and their price. An image counts from its submit on, and no longer once it is sure
    that it was not charged."""

    images: int
    spend_usd: float = Field(description="US dollars.")
    estimated_usd: float = Field(
        description="The part of `spend_usd` that is not known for sure: open tasks, calls whose "
        "outcome is unknown, and sums from list prices where the provider does not tell."
    )
    unpriced_images: int = Field(
        description="Those of `images` of which no price is known; they add nothing to the spend."
    )


class UsedInPeriod(UsedSums):
    """What was used in a month or on a day, UTC."""

    period: str = Field(examples=["2026-11", "2026-11-25"])
    models: dict[str, UsedSums]


class LimitLeft(BaseModel):
    """A limit, and what is left of it."""

    limit: float
    remaining: float


class KeyLimits(BaseModel):
    """The limits of a key; null: none."""

    models: list[str] | None = Field(description="Ids, in which `*` stands for any characters.")
    expires_at: int | None = Field(description="Unix seconds.")
    requests_per_minute: LimitLeft | None
    tasks_in_flight: LimitLeft | None
    images_per_day: LimitLeft | None
    usd_per_month: LimitLeft | None


class UsageReport(BaseModel):
    """What the caller's key has used and what is left to it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "usage",
                    "month": {
                        "period": "2026-11",
                        "images": 120,
                        "spend_usd": 4.8,
                        "estimated_usd": 0.04,
                        "unpriced_images": 0,
                        "models": {
                            "flux-pro": {
                                "images": 120,
                                "spend_usd": 4.8,
                                "estimated_usd": 0.04,
                                "unpriced_images": 0,
                            }
                        },
                    },
                    "today": {
                        "period": "2026-11-25",
                        "images": 0,
                        "spend_usd": 0.0,
                        "estimated_usd": 0.0,
                        "unpriced_images": 0,
                        "models": {},
                    },
                    "open_tasks": 1,
                    "limits": {
                        "models": ["flux-*", "dall-e-3"],
                        "expires_at": None,
                        "requests_per_minute": {"limit": 60, "remaining": 59},
                        "tasks_in_flight": {"limit": 10, "remaining": 9},
                        "images_per_day": None,
                        "usd_per_month": {"limit": 20.0, "remaining": 15.2},
                    },
                }
            ]
        }
    )

    object: Literal["usage"]
    month: UsedInPeriod = Field(description="This month, or the one that was asked for.")
    today: UsedInPeriod
    open_tasks: int = Field(description="Tasks that are not final.")
    limits: KeyLimits


class Recommendation(BaseModel):
    """Where a model stands among those that can be used now."""

    preferred_rank: int = Field(ge=1)
    success_rate_24h: float | None = Field(ge=0, le=1, description="null: too few samples.")
    sample_count_24h: int
    status: Literal["ready", "insufficient_samples"]
    updated_at: int | None = Field(description="Unix seconds; null: never counted.")


class SourceImages(BaseModel):
    """The images that a model takes to start from."""

    max_images: int
    mask: bool = Field(description="Whether a mask can say what is made anew.")
    formats: list[str]
    square: bool = Field(description="Whether they have to be square.")
    max_bytes: int | None = Field(description="Of all together; null: that of any request.")
    parameters: list[str] = Field(description="What it can be told then.")


class ImageModel(BaseModel):
    """What a model can do."""

    operations: list[Literal["generation", "edit", "variation"]]
    edits: SourceImages | None = Field(None, description="When it takes images to edit.")
    variations: SourceImages | None = Field(None, description="When it makes variations.")

    mode: Literal["inline", "task"] = Field(
        description="How the provider usually answers; a submit here is a task in every case."
    )
    description: str
    sizes: list[str]
    default_size: str
    max_n: int
    max_prompt_characters: int
    parameters: list[str]
    qualities: list[str]
    styles: list[str]
    output_formats: list[str]
    available: bool = Field(description="Whether a provider that serves it is configured.")
    price_per_image_usd: float | None
    typical_seconds: float
    recommendation: Recommendation | None = None


class ModelObject(BaseModel):
    """A model, in OpenAI's form with an `image` object of ours."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "flux-pro",
                    "object": "model",
                    "created": 1727913600,
                    "owned_by": "black-forest-labs",
                    "image": {
                        "operations": ["generation"],
                        "edits": None,
                        "variations": None,
                        "mode": "task",
                        "description": "Photorealistic, high quality.",
                        "sizes": ["512x512", "1024x1024"],
                        "default_size": "1024x1024",
                        "max_n": 4,
                        "max_prompt_characters": 10000,
                        "parameters": ["seed", "output_format"],
                        "qualities": [],
                        "styles": [],
                        "output_formats": ["png", "jpeg", "webp"],
                        "available": True,
                        "price_per_image_usd": 0.04,
                        "typical_seconds": 8.0,
                    },
                }
            ]
        }
    )

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    image: ImageModel


class ModelList(BaseModel):
    """Models."""

    object: Literal["list"]
    data: list[ModelObject]


class Health(BaseModel):
    """The process lives."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether tasks can be taken and worked on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"status": "ready", "missing": [], "sweep_lag_seconds": 0.2},
                {"status": "not_ready", "missing": ["worker"], "sweep_lag_seconds": 0.0},
            ]
        }
    )

    status: Literal["ready", "not_ready"]
    missing: list[Literal["redis", "worker", "sweep", "memory", "disk"]] = Field(
        description="`memory`, `disk`: Redis, or the directory of the images, has no room for new "
        "tasks; accepted ones are finished."
    )
    sweep_lag_seconds: float | None = Field(
        None,
        description="How long the oldest task that is due, for a retry or a takeover, has been "
        "waiting to be looked at; absent without Redis.",
    )


class _Parameters(BaseModel):
    """Parameters of a path or a query: text, judged by the view.

    flask-openapi asks for the schema of a query model at every request.
    """

    model_json_schema = classmethod(cache(BaseModel.model_json_schema.__func__))  # type: ignore


class TaskPath(_Parameters):
    task_id: str = Field(description="As returned by the submit.", examples=[TASK_ID])


def _as(**described: Any) -> Callable[[dict[str, Any]], None]:
    """Let the document say of an optional parameter what the view wants of its text."""

    def change(schema: dict[str, Any]) -> None:
        del schema["anyOf"], schema["default"]  # text or null, which is null unless it is given
        schema |= described

    return change


class EventsQuery(_Parameters):
    last_event_id: str | None = Field(
        None, description="For clients that cannot send the header `Last-Event-ID`."
    )


class TaskListQuery(_Parameters):
    status: str | None = Field(
        None,
        description="Only tasks of this status.",
        examples=["failed"],
        json_schema_extra=_as(type="string", enum=["pending", "processing", "completed", "failed"]),
    )
    model: str | None = Field(None, description="Only tasks of this model.", examples=["flux-pro"])
    limit: str | None = Field(
        None,
        description="Most tasks on the page.",
        examples=[20],
        json_schema_extra=_as(type="integer", minimum=1, maximum=100, default=20),
    )
    after: str | None = Field(
        None,
        description="Go on behind this task: the `last_id` of the page before.",
        json_schema_extra=_as(type="string", pattern="^imgtask_[0-9a-f]{32}$"),
    )


class AdminTaskQuery(_Parameters):
    show: str | None = Field(
        None,
        description="`open`: tasks that have not ended, the oldest first. `failed`: those that "
        "failed last, but for cancelled ones.",
        json_schema_extra=_as(type="string", enum=["open", "failed"], default="open"),
    )
    key: str | None = Field(
        None,
        description="In place of these the tasks of the key with this id, the newest first.",
        examples=["key_0123456789abcdef"],
    )
    limit: str | None = Field(
        None,
        description="Most tasks.",
        examples=[50],
        json_schema_extra=_as(type="integer", minimum=1, maximum=200, default=50),
    )


class UsageQuery(_Parameters):
    month: str | None = Field(
        None,
        description="One of the 13 months before this one, as YYYY-MM.",
        examples=["2026-11"],
        json_schema_extra=_as(type="string", pattern="^[0-9]{4}-(0[1-9]|1[0-2])$"),
    )


class ModelPath(_Parameters):
    model_id: str = Field(examples=["flux-pro"])


class ModelQuery(_Parameters):
    category: str | None = Field(None, description="`image`.")
    provider: str | None = Field(None, description="Only models that it can serve, such as `bfl`.")
    recommended_for: str | None = Field(
        None,
        description="`image`: the models that can be used now, best first.",
        json_schema_extra=_as(type="string", enum=["image"]),
    )


class FilePath(_Parameters):
    task_id: str
    file: str = Field(description="Index and format.", examples=["0.png"])


class FileQuery(_Parameters):
    expires: str | None = Field(
        None,
        description="Unix seconds, part of the signed address.",
        json_schema_extra=_as(type="integer", minimum=0),
    )
    signature: str | None = Field(None, description="Part of the signed address.")
    thumbnail: str | None = Field(
        None,
        description="As WebP, with this as the longest side in pixels, if the image is larger.",
        examples=[256],
        json_schema_extra=_as(type="integer", minimum=16, maximum=1024),
    )
    download: str | None = Field(
        None,
        description="As an attachment, for browsers to save, and never by a redirect.",
        json_schema_extra=_as(type="string", enum=["1"]),
    )
