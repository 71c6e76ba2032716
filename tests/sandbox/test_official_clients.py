"""The providers' own Python clients judge the sandbox: they get their pictures and know its errors.

Each is used as its documentation says and pointed here by an argument or a variable of its own.
Nothing in them is replaced.
"""

from __future__ import annotations

import base64
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import httpx
import openai
import pytest
import replicate
import requests
import together
import trustme
from google import genai
from google.genai import errors, types
from PIL import Image
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput

REPLICATE = "black-forest-labs/flux-schnell"
TOGETHER = HUGGING_FACE = "black-forest-labs/FLUX.1-schnell"
GEMINI = "gemini-3.1-flash-image"
FAL = "fal-ai/flux/schnell"
SQUARE = {"width": 256, "height": 256}


def opened(data: bytes | str | None) -> Image.Image:
    """The picture in these bytes, or in their base64; it has to decode to its last pixel."""
    assert data
    picture = Image.open(BytesIO(base64.b64decode(data) if isinstance(data, str) else data))
    picture.load()
    return picture


def fetched(url: str) -> Image.Image:
    answer = requests.get(url, timeout=20)
    assert answer.status_code == 200
    return opened(answer.content)


class Door(ThreadingHTTPServer):
    """Speaks TLS and passes everything on: what stands before a server in earnest.

    Two clients need it. One has `https://` written in, the other takes nothing else for the
    address of a file.
    """

    daemon_threads = True

    def __init__(self, beyond: str, certificates: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Doorman)
        self.beyond = beyond
        self.certificates = certificates  # written here: what a client has to trust
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(certificates))
        tls = SSLContext(PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.host = f"127.0.0.1:{self.server_address[1]}"


class _Doorman(BaseHTTPRequestHandler):
    # HTTP/1.0, as the base class has it: no connection outlives its answer. Two of the clients
    # cannot be closed, and a connection they kept would be a warning at some later test.
    server: Door

    def pass_on(self) -> None:
        headers = {**self.headers, "X-Forwarded-Proto": "https"}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = requests.request(
            self.command,
            self.server.beyond + self.path,
            headers=headers,
            data=body,
            timeout=60,
            allow_redirects=False,
        )
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = do_PUT = pass_on  # noqa: N815

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="session")
def door(_shared: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with Door(_shared.url, tmp_path_factory.mktemp("door") / "certificates.pem") as door:
        threading.Thread(target=door.serve_forever, args=(0.02,), daemon=True).start()
        yield door
        door.shutdown()


@pytest.fixture(autouse=True)
def trust_the_door_alone(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """All six load the certificates that these variables name."""
    monkeypatch.setenv("SSL_CERT_FILE", str(door.certificates))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


class Watch:
    """Refuses this process every address but the machine's own while `on`, and notes it."""

    def __init__(self) -> None:
        self.on = False
        self.abroad: list[Any] = []
        sys.addaudithook(self._look)  # for ever: Python knows no way to take it back

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        match event, arguments:
            case "socket.connect", (_, ("127.0.0.1", *_)):
                return
            case "socket.connect", (_, (host, *_)):
                self.abroad.append(host)
            case "socket.getaddrinfo", (host, *_) if host not in ("127.0.0.1", b"127.0.0.1"):
                self.abroad.append(host)
            case _:
                return
        raise ConnectionRefusedError(host)


@pytest.fixture(scope="session")
def _watch() -> Watch:
    return Watch()


@pytest.fixture(autouse=True)
def nobody_calls_home(_watch: Watch) -> Iterator[None]:
    """No client may speak to anybody but the sandbox, be it telemetry or a list of models."""
    _watch.abroad.clear()
    _watch.on = True
    yield
    _watch.on = False
    assert _watch.abroad == []


# -- OpenAI


@pytest.fixture
def openai_client(sandbox: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{sandbox.url}/openai/v1",
        api_key="sk-test",
        max_retries=0,
        _strict_response_validation=True,  # it checks what comes against its own types
    ) as client:
        yield client


def test_openai_gets_its_pictures(sandbox: Any, openai_client: openai.OpenAI) -> None:
    answer = openai_client.images.generate(
        model="gpt-image-2", prompt="a fox", n=2, size="1024x1536", output_format="webp"
    )

    pictures = [opened(item.b64_json) for item in answer.data or []]
    assert [(it.format, it.size) for it in pictures] == [("WEBP", (1024, 1536))] * 2
    assert len(sandbox.purchases()) == 2
    assert answer.usage is not None
    assert answer.usage.output_tokens > 0


def test_openai_finds_its_models(openai_client: openai.OpenAI) -> None:
    listed = {model.id for model in openai_client.models.list()}

    assert openai_client.models.retrieve("gpt-image-2").id in listed


@pytest.mark.parametrize(
    ("prompt", "fields", "error", "code"),
    [
        ("sim:moderated", {}, openai.BadRequestError, "moderation_blocked"),
        ("a fox", {"response_format": "url"}, openai.BadRequestError, "unknown_parameter"),
        ("a fox", {"model": "dall-e-3"}, openai.NotFoundError, "model_not_found"),
        ("sim:bad_key", {}, openai.AuthenticationError, "invalid_api_key"),
        ("sim:rate_limited", {}, openai.RateLimitError, "rate_limit_exceeded"),
        ("sim:no_credit", {}, openai.RateLimitError, "insufficient_quota"),
        ("sim:overloaded", {}, openai.InternalServerError, None),
    ],
)
def test_openai_knows_a_refusal(
    sandbox: Any, openai_client: openai.OpenAI, prompt: str, fields: Any, error: Any, code: Any
) -> None:
    with pytest.raises(error) as refused:
        openai_client.images.generate(**{"model": "gpt-image-2", "prompt": prompt} | fields)

    assert type(refused.value) is error
    assert refused.value.request_id
    assert code in (None, refused.value.code)
    assert sandbox.purchases() == []


def test_openai_asks_again_by_itself_and_pays_once(
    sandbox: Any, openai_client: openai.OpenAI
) -> None:
    patient = openai_client.with_options(max_retries=1)

    answer = patient.images.generate(model="gpt-image-2", prompt="a fox sim:rate_limited:0*1")

    assert len(answer.data or []) == len(sandbox.purchases()) == 1
    assert sandbox.calls("openai")["submits"] == 2


def test_openai_has_paid_for_a_cut_connection(sandbox: Any, openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        openai_client.images.generate(model="gpt-image-2", prompt="a fox sim:reset")

    assert len(sandbox.purchases()) == 1


# -- Replicate


@pytest.fixture
def replicate_client(door: Door) -> replicate.Client:
    return replicate.Client(api_token="r8_test", base_url=f"https://{door.host}/replicate")


def test_replicate_runs_a_model_and_reads_its_files(
    sandbox: Any, replicate_client: replicate.Client
) -> None:
    inputs = {"prompt": "a fox", "num_outputs": 2, "aspect_ratio": "16:9", "output_format": "png"}

    files = replicate_client.run(REPLICATE, input=inputs)

    assert [type(file) for file in files] == [FileOutput] * 2
    pictures = [opened(file.read()) for file in files]
    assert [(it.format, it.size) for it in pictures] == [("PNG", (1344, 768))] * 2
    assert len(sandbox.purchases()) == 2


def test_replicate_polls_a_prediction_where_its_variable_points(
    sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_BASE_URL", f"{sandbox.url}/replicate")
    with httpx.HTTPTransport() as transport:  # what it makes by itself it never closes
        client = replicate.Client(api_token="r8_test", transport=transport)
        client.poll_interval = 0.01

        prediction = client.models.predictions.create(REPLICATE, input={"prompt": "a fox"})
        started = prediction.status
        prediction.wait()

    assert (started, prediction.status) == ("starting", "succeeded")
    (url,) = prediction.output or ()
    picture = fetched(url)
    assert (picture.format, picture.size) == ("WEBP", (1024, 1024))
    (bought,) = sandbox.purchases()
    assert bought["job_id"] == prediction.id


def test_replicate_cancels_a_prediction(sandbox: Any, replicate_client: replicate.Client) -> None:
    sandbox.fault({"delay": 600})
    prediction = replicate_client.models.predictions.create(REPLICATE, input={"prompt": "a fox"})

    prediction.cancel()

    assert prediction.status == "canceled"


@pytest.mark.parametrize(
    ("fault", "says", "bought"),
    [("moderated", "NSFW", 0), ("moderated_output", "E005", 1), ("failed", "PA", 1)],
)
def test_replicate_knows_a_prediction_that_failed(
    sandbox: Any, replicate_client: replicate.Client, fault: str, says: str, bought: int
) -> None:
    with pytest.raises(ModelError, match=says) as failed:
        replicate_client.run(REPLICATE, input={"prompt": f"a fox sim:{fault}"})

    assert failed.value.prediction.status == "failed"
    assert len(sandbox.purchases()) == bought


@pytest.mark.parametrize(
    ("fields", "status", "title", "says"),
    [
        ({"prompt": "sim:bad_key"}, 401, "Unauthenticated", "token"),
        ({"prompt": "sim:no_credit"}, 402, "Insufficient credit", "insufficient credit"),
        ({"num_outputs": 9}, 422, "Input validation failed", "- input.num_outputs"),
        ({"prompt": "sim:rate_limited"}, 429, "Too many requests", "resets in ~1s"),
        ({"prompt": "sim:overloaded"}, 503, "Service unavailable", "unavailable"),
    ],
)
def test_replicate_knows_a_refusal(
    sandbox: Any,
    replicate_client: replicate.Client,
    fields: Any,
    status: int,
    title: str,
    says: str,
) -> None:
    with pytest.raises(ReplicateError) as refused:
        replicate_client.run(REPLICATE, input={"prompt": "a fox"} | fields)

    assert (refused.value.status, refused.value.title) == (status, title)
    assert says in (refused.value.detail or "")
    assert sandbox.purchases() == []


# -- Together AI


@pytest.fixture
def together_client(sandbox: Any) -> Iterator[together.Together]:
    with together.Together(
        base_url=f"{sandbox.url}/together",  # it writes /v1 itself
        api_key="k",
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


def test_together_gets_its_pictures_as_base64(
    sandbox: Any, together_client: together.Together
) -> None:
    answer = together_client.images.generate(
        model=TOGETHER,
        prompt="a fox",
        n=2,
        width=512,
        height=256,
        steps=4,
        seed=7,
        output_format="png",
        response_format="base64",
    )

    pictures = [opened(item.b64_json) for item in answer.data if item.type == "b64_json"]
    assert [(it.format, it.size) for it in pictures] == [("PNG", (512, 256))] * 2
    assert len(sandbox.purchases()) == 2


def test_together_gets_its_pictures_as_addresses(
    sandbox: Any, together_client: together.Together
) -> None:
    answer = together_client.images.generate(model=TOGETHER, prompt="a fox", width=512, height=256)

    (picture,) = [fetched(item.url) for item in answer.data if item.type == "url"]
    assert (picture.format, picture.size) == ("JPEG", (512, 256))
    assert len(sandbox.purchases()) == 1


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [
        ({"width": 1000}, together.BadRequestError, {"param": "width"}),
        ({"prompt": "sim:bad_key"}, together.AuthenticationError, {"code": "invalid_api_key"}),
        ({"prompt": "sim:no_credit"}, together.APIStatusError, {"type": "credit_limit"}),
        ({"model": "no-such-model"}, together.NotFoundError, {"code": "model_not_available"}),
        (
            {"prompt": "sim:moderated"},
            together.UnprocessableEntityError,
            {"message": "The prompt may contain NSFW content"},
        ),
        ({"prompt": "sim:rate_limited"}, together.RateLimitError, {"type": "rate_limit"}),
        ({"prompt": "sim:overloaded"}, together.InternalServerError, {"type": "overloaded"}),
    ],
)
def test_together_knows_a_refusal(
    sandbox: Any, together_client: together.Together, fields: Any, error: Any, told: dict[str, str]
) -> None:
    with pytest.raises(error) as refused:
        together_client.images.generate(**{"model": TOGETHER, "prompt": "a fox"} | fields)

    assert type(refused.value) is error
    assert told.items() <= refused.value.body["error"].items()
    assert sandbox.purchases() == []


def test_together_has_paid_for_a_cut_connection(
    sandbox: Any, together_client: together.Together
) -> None:
    with pytest.raises(together.APIConnectionError):
        together_client.images.generate(model=TOGETHER, prompt="a fox sim:reset")

    assert len(sandbox.purchases()) == 1


# -- Hugging Face


@pytest.fixture(scope="session")
def hub() -> Iterator[Any]:
    """The module: when it is imported it reads whether it may fetch a list for telemetry."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        import huggingface_hub.constants
    assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
    yield huggingface_hub
    huggingface_hub.close_session()


@pytest.fixture
def hugging_face(sandbox: Any, hub: Any) -> Callable[..., Any]:
    # By address: of a bare name it asks the Hub, whose address is one for the whole library, and
    # then calls a router whose address cannot be changed. The path is the router's.
    url = f"{sandbox.url}/huggingface/models/{HUGGING_FACE}"
    return partial(hub.InferenceClient, model=url, token="hf_test")


def test_huggingface_hub_gets_its_picture(sandbox: Any, hugging_face: Any) -> None:
    picture = hugging_face().text_to_image(
        "a fox", width=512, height=256, num_inference_steps=4, guidance_scale=0.0, seed=7
    )

    picture.load()
    assert (picture.format, picture.size) == ("PNG", (512, 256))
    assert len(sandbox.purchases()) == 1


@pytest.mark.parametrize(
    ("fault", "status", "says"),
    [
        ("bad_key", 401, "Invalid username or password."),
        ("no_credit", 402, "You have exceeded your monthly included credits"),
        ("rate_limited", 429, "Rate limit reached."),
        ("server_error", 500, "Internal Server Error"),
        ("overloaded", 503, f"Model {HUGGING_FACE} is currently loading"),
    ],
)
def test_huggingface_hub_knows_a_refusal(
    sandbox: Any, hub: Any, hugging_face: Any, fault: str, status: int, says: str
) -> None:
    with pytest.raises(hub.errors.HfHubHTTPError) as refused:
        hugging_face().text_to_image(f"a fox sim:{fault}")

    assert refused.value.response.status_code == status
    assert refused.value.request_id
    assert says in (refused.value.server_message or "")
    assert sandbox.purchases() == []


def test_huggingface_hub_knows_a_wrong_field(sandbox: Any, hub: Any, hugging_face: Any) -> None:
    with pytest.raises(hub.errors.BadRequestError, match="width"):
        hugging_face().text_to_image("a fox", width=5)

    assert sandbox.purchases() == []


def test_huggingface_hub_has_paid_for_what_it_did_not_wait_for(
    sandbox: Any, hub: Any, hugging_face: Any
) -> None:
    with pytest.raises(hub.InferenceTimeoutError):
        hugging_face(timeout=0.5).text_to_image("a fox sim:hang")

    assert len(sandbox.purchases()) == 1


# -- Gemini


@pytest.fixture
def gemini_client(sandbox: Any) -> Iterator[genai.Client]:
    options = types.HttpOptions(
        base_url=f"{sandbox.url}/gemini",
        api_version="v1beta",  # what is documented of pictures; it would ask for v1
    )
    with genai.Client(api_key="k", http_options=options) as client:
        yield client


def draw(
    client: genai.Client, prompt: str, *, model: str = GEMINI, **image: str
) -> types.GenerateContentResponse:
    return client.models.generate_content(
        model=model,
        contents=prompt,
        config=types.GenerateContentConfig(
            response_modalities=["IMAGE"], image_config=types.ImageConfig(**image), seed=7
        ),
    )


def test_google_genai_gets_its_picture(sandbox: Any, gemini_client: genai.Client) -> None:
    answer = draw(gemini_client, "a fox", aspect_ratio="16:9", image_size="2K")

    (part,) = answer.parts or ()
    assert part.inline_data is not None
    picture = opened(part.inline_data.data)
    assert part.inline_data.mime_type == "image/jpeg"
    assert (picture.format, picture.size) == ("JPEG", (2752, 1536))
    (bought,) = sandbox.purchases()
    assert bought["job_id"] == answer.response_id
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.candidates_token_count == 1680


def test_google_genai_tells_a_draft_from_the_picture(
    sandbox: Any, gemini_client: genai.Client
) -> None:
    answer = draw(gemini_client, "a fox", model="gemini-3-pro-image", image_size="1K")

    pictures = [part for part in answer.parts or () if part.inline_data is not None]
    assert [bool(part.thought) for part in pictures] == [True, False]
    assert len(sandbox.purchases()) == 1


def test_google_genai_finds_its_models(gemini_client: genai.Client) -> None:
    listed = {model.name for model in gemini_client.models.list()}

    assert gemini_client.models.get(model=GEMINI).name in listed


def test_google_genai_knows_a_refused_prompt(sandbox: Any, gemini_client: genai.Client) -> None:
    answer = draw(gemini_client, "a fox sim:moderated")

    assert answer.candidates is None
    assert answer.prompt_feedback is not None
    assert answer.prompt_feedback.block_reason is types.BlockedReason.PROHIBITED_CONTENT
    assert sandbox.purchases() == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("moderated_output", types.FinishReason.IMAGE_SAFETY),
        ("failed", types.FinishReason.NO_IMAGE),
        ("text_only", types.FinishReason.STOP),
    ],
)
def test_google_genai_knows_why_there_is_no_picture(
    sandbox: Any, gemini_client: genai.Client, fault: str, reason: types.FinishReason
) -> None:
    answer = draw(gemini_client, f"a fox sim:{fault}")

    (candidate,) = answer.candidates or ()
    assert candidate.finish_reason is reason
    assert [part for part in answer.parts or () if part.inline_data] == []
    assert len(sandbox.purchases()) == 1


@pytest.mark.parametrize(
    ("fields", "error", "code", "status"),
    [
        ({"prompt": "sim:bad_key"}, errors.ClientError, 400, "INVALID_ARGUMENT"),
        ({"aspect_ratio": "7:5"}, errors.ClientError, 400, "INVALID_ARGUMENT"),
        ({"prompt": "sim:no_credit"}, errors.ClientError, 402, "RESOURCE_EXHAUSTED"),
        ({"model": "imagen-4.0-generate-001"}, errors.ClientError, 404, "NOT_FOUND"),
        ({"prompt": "sim:rate_limited"}, errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
        ({"prompt": "sim:server_error"}, errors.ServerError, 500, "INTERNAL"),
        ({"prompt": "sim:overloaded"}, errors.ServerError, 503, "UNAVAILABLE"),
    ],
)
def test_google_genai_knows_a_refusal(
    sandbox: Any, gemini_client: genai.Client, fields: Any, error: Any, code: int, status: str
) -> None:
    with pytest.raises(error) as refused:
        draw(gemini_client, **{"prompt": "a fox"} | fields)

    assert (refused.value.code, refused.value.status) == (code, status)
    assert refused.value.message
    assert sandbox.purchases() == []


# -- fal


@pytest.fixture(scope="session")
def fal_client(door: Door) -> Any:
    """The module: it reads where to call when it is imported, and puts `https://` before it."""
    assert "fal_client" not in sys.modules
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FAL_RUN_HOST", f"{door.host}/fal")
        environment.setenv("FAL_QUEUE_RUN_HOST", f"{door.host}/fal")
        import fal_client
    return fal_client


@pytest.fixture
def fal(sandbox: Any, fal_client: Any) -> Any:
    return fal_client.SyncClient(key="k")


def asked(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "image_size": SQUARE, "output_format": "png"} | fields


def test_fal_client_gets_its_pictures(sandbox: Any, fal: Any, fal_client: Any) -> None:
    seen: list[Any] = []

    answer = fal.subscribe(
        FAL, asked("a fox", num_images=2), with_logs=True, on_queue_update=seen.append
    )

    pictures = [opened(httpx.get(image["url"]).content) for image in answer["images"]]
    assert [(it.format, it.size) for it in pictures] == [("PNG", (256, 256))] * 2
    assert len(sandbox.purchases()) == 2
    assert isinstance(seen[-1], fal_client.Completed)
    assert seen[-1].metrics["inference_time"] >= 0


def test_fal_client_finds_a_request_again_by_its_id(sandbox: Any, fal: Any) -> None:
    request_id = fal.submit(FAL, asked("a fox", sync_mode=True)).request_id

    answer = fal.result(FAL, request_id)  # at an address that the client makes up itself

    (image,) = answer["images"]
    assert opened(image["url"].partition(",")[2]).size == (256, 256)
    (bought,) = sandbox.purchases()
    assert bought["job_id"] == request_id


def test_fal_client_knows_how_a_request_stands(sandbox: Any, fal: Any, fal_client: Any) -> None:
    sandbox.fault({"delay": 600})
    waiting = fal.submit(FAL, asked("a fox"))
    sandbox.fault({"delay": 0})
    running = fal.submit(FAL, asked("a fox sim:never_ready"))

    assert waiting.status() == fal_client.Queued(position=0)
    assert running.status() == fal_client.InProgress(logs=None)


def test_fal_client_cancels_a_request(sandbox: Any, fal: Any, fal_client: Any) -> None:
    sandbox.fault({"delay": 600})
    handle = fal.submit(FAL, asked("a fox"))

    handle.cancel()

    with pytest.raises(fal_client.FalClientHTTPError, match="cancelled") as ended:
        handle.get()
    assert (ended.value.status_code, ended.value.error_type) == (499, "client_cancelled")


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [("moderated", 422, "content_policy_violation"), ("failed", 500, "internal_server_error")],
)
def test_fal_client_knows_a_request_that_failed(
    sandbox: Any, fal: Any, fal_client: Any, fault: str, status: int, kind: str
) -> None:
    handle = fal.submit(FAL, asked(f"a fox sim:{fault}"))

    with pytest.raises(fal_client.FalClientHTTPError) as failed:
        handle.get()

    assert failed.value.status_code == status
    assert [detail["type"] for detail in failed.value.message] == [kind]
    assert handle.status().error_type == kind
    assert sandbox.purchases() == []


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"prompt": "sim:bad_key"}, 401, "key"),
        ({"prompt": "sim:no_credit"}, 403, "Exhausted balance"),
        ({"num_images": 9}, 422, "num_images"),
        ({"prompt": "sim:server_error"}, 500, "Internal server error"),
        ({"prompt": "sim:overloaded"}, 503, "unavailable"),
    ],
)
def test_fal_client_knows_a_refusal(
    sandbox: Any, fal: Any, fal_client: Any, fields: Any, status: int, says: str
) -> None:
    with pytest.raises(fal_client.FalClientHTTPError) as refused:
        fal.submit(FAL, asked("a fox") | fields)

    assert refused.value.status_code == status
    assert says in str(refused.value.message)
    assert sandbox.purchases() == []


def test_fal_client_asks_again_by_itself_and_pays_once(sandbox: Any, fal: Any) -> None:
    """It cannot be told to raise a 429 at once: it would ask ten times, for a minute."""
    answer = fal.subscribe(FAL, asked("a fox sim:rate_limited*2"))

    assert len(answer["images"]) == len(sandbox.purchases()) == 1
    assert sandbox.calls("fal")["submits"] == 3
