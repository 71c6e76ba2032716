"""The sandbox speaks the dialect of AUTOMATIC1111's web UI."""

import base64
import json
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import pytest
from PIL import Image


def generate(sandbox, *, key: str = "", prompt: str = "a fox", **body: Any) -> Any:
    headers = {"Authorization": f"Basic {base64.b64encode(key.encode()).decode()}"} if key else {}
    return sandbox.http.post(
        f"{sandbox.url}/a1111/sdapi/v1/txt2img",
        json={"prompt": prompt, "width": 64, "height": 64} | body,
        headers=headers,
        timeout=20,
    )


def pictures(answer: Any) -> list[Image.Image]:
    return [Image.open(BytesIO(base64.b64decode(image))) for image in answer.json()["images"]]


def told(answer: Any) -> dict[str, Any]:
    return dict(json.loads(answer.json()["info"]))


def progress_of(sandbox, task_id: str) -> dict[str, Any]:
    body = {"id_task": task_id, "id_live_preview": -1, "live_preview": False}
    url = f"{sandbox.url}/a1111/internal/progress"
    return dict(sandbox.http.post(url, json=body, timeout=20).json())


def progress_of_all(sandbox) -> dict[str, Any]:
    url = f"{sandbox.url}/a1111/sdapi/v1/progress?skip_current_image=true"
    return dict(sandbox.http.get(url, timeout=20).json())


@contextmanager
def in_hand(sandbox, *task_ids: str, seconds: float):
    """One request after the other, each answered only after `seconds` of work."""
    sandbox.fault({"provider": "a1111", "delay": seconds})
    with ThreadPoolExecutor(len(task_ids)) as pool:
        requests: list[Future[Any]] = []
        for task_id in task_ids:
            requests.append(pool.submit(generate, sandbox, force_task_id=task_id))
            sandbox.until(
                lambda task_id=task_id: progress_of(sandbox, task_id),
                lambda told: told["active"] or told["queued"],
            )
        yield requests


def test_the_documented_request_is_answered_as_documented(sandbox, documents):
    (sample,) = documents.examples("automatic1111")

    answer = generate(sandbox, **sample["body"])

    assert answer.status_code == 200
    documents.check("automatic1111.json", "TextToImageResponse", answer.json())
    documents.check("automatic1111.json", "Info", told(answer))
    assert [(image.format, image.size) for image in pictures(answer)] == [("PNG", (1024, 768))] * 2
    assert (told(answer)["all_seeds"], told(answer)["index_of_first_image"]) == ([7, 8], 0)
    assert [entry["job_id"] for entry in sandbox.purchases()] == ["task(gw-7f3c)"] * 2


def test_every_field_may_be_left_out(sandbox):
    url = f"{sandbox.url}/a1111/sdapi/v1/txt2img"

    answer = sandbox.http.post(url, json={"who_knows": 1}, timeout=20)

    (picture,) = pictures(answer)
    assert picture.size == (512, 512)
    assert told(answer)["steps"] == 50
    assert 0 <= told(answer)["seed"] < 2**32


def test_the_same_seed_makes_the_same_pictures(sandbox):
    sandbox.fault({"picture": "drawn"})

    one, again, next_one = (
        generate(sandbox, seed=seed, batch_size=2).json()["images"] for seed in (7, 7, 8)
    )

    assert one == again
    assert one[0] != one[1] == next_one[0]


def test_batches_can_follow_one_another(sandbox):
    answer = generate(sandbox, batch_size=2, n_iter=2, seed=3)

    assert len(pictures(answer)) == 4
    assert told(answer)["all_seeds"] == [3, 4, 5, 6]
    assert len(sandbox.purchases()) == 4


def test_sides_are_multiples_of_eight(sandbox):
    (picture,) = pictures(generate(sandbox, width=100, height=71))

    assert picture.size == (96, 64)


def test_pictures_can_be_kept_back(sandbox):
    assert generate(sandbox, send_images=False).json()["images"] == []


def test_a_checkpoint_is_known_by_several_names(sandbox, documents):
    entries = sandbox.http.get(f"{sandbox.url}/a1111/sdapi/v1/sd-models", timeout=20).json()
    for entry in entries:
        documents.check("automatic1111.json", "SDModel", entry)
    other = entries[1]

    for name in (other["title"], other["model_name"], other["hash"]):
        answer = generate(sandbox, override_settings={"sd_model_checkpoint": name})
        assert told(answer)["sd_model_name"] == other["model_name"]

    assert told(generate(sandbox))["sd_model_name"] == entries[0]["model_name"]


def test_a_checkpoint_that_nobody_knows_is_passed_over_in_silence(sandbox):
    answer = generate(sandbox, override_settings={"sd_model_checkpoint": "long-gone"})

    assert answer.status_code == 200
    assert told(answer)["sd_model_name"] == "sandbox-xl"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": 5}, "prompt"),
        ({"batch_size": 0}, "batch_size"),
        ({"width": "wide"}, "width"),
        ({"override_settings": []}, "override_settings"),
    ],
)
def test_a_wrong_field_is_named(sandbox, documents, fields, named):
    answer = generate(sandbox, **fields)

    assert answer.status_code == 422
    documents.check("automatic1111.json", "HTTPValidationError", answer.json())
    assert answer.json()["detail"][0]["loc"] == ["body", named]
    assert sandbox.purchases() == []


def test_a_sampler_that_nobody_knows_is_not_found(sandbox, documents):
    answer = generate(sandbox, sampler_name="Monte Carlo")

    assert answer.status_code == 404
    documents.check("automatic1111.json", "Error", answer.json())
    assert answer.json()["detail"] == "Sampler not found"


def test_what_is_not_served_is_not_found(sandbox):
    assert sandbox.http.post(f"{sandbox.url}/a1111/txt2img", timeout=20).status_code == 404


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 200),
        ("Basic " + base64.b64encode(b"ada:lovelace").decode(), 200),
        ("Basic " + base64.b64encode(b"ada:bad").decode(), 401),
        ("Basic ada:lovelace", 401),
        ("Bearer " + base64.b64encode(b"ada:lovelace").decode(), 401),
    ],
)
def test_a_key_is_a_user_and_a_password_in_base64(sandbox, documents, header, status):
    headers = {"Authorization": header} if header else {}
    calls = (
        ("POST", "txt2img", {"width": 64}),
        ("GET", "progress", None),
        ("GET", "sd-models", None),
    )

    for method, path, body in calls:
        url = f"{sandbox.url}/a1111/sdapi/v1/{path}"
        answer = sandbox.http.request(method, url, json=body, headers=headers, timeout=20)

        assert answer.status_code == status, path
        if status == 401:
            documents.check("automatic1111.json", "Error", answer.json())
            assert answer.json()["detail"] == "Incorrect username or password"


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        ("bad_key", 401, "HTTPException"),
        ("server_error", 500, "RuntimeError"),
        ("failed", 500, "OutOfMemoryError"),
    ],
)
def test_fails_in_its_own_words_and_at_no_cost(sandbox, documents, fault, status, error):
    answer = generate(sandbox, prompt=f"a fox sim:{fault}")

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    documents.check("automatic1111.json", "Error", answer.json())
    assert sandbox.purchases() == []


def test_a_grid_can_come_first(sandbox):
    several = generate(sandbox, prompt="a fox sim:grid_first", batch_size=3, seed=1)
    single = generate(sandbox, prompt="a fox sim:grid_first", seed=1)

    assert [image.size for image in pictures(several)] == [(128, 128)] + [(64, 64)] * 3
    assert told(several)["index_of_first_image"] == 1
    assert told(several)["all_seeds"] == [1, 2, 3]
    assert len(pictures(single)) == 1
    assert told(single)["index_of_first_image"] == 0


def test_can_succeed_with_less_than_was_asked_for(sandbox):
    def count(fault: str) -> int:
        return len(pictures(generate(sandbox, prompt=f"a fox sim:{fault}", batch_size=2)))

    assert (count("fewer_images"), count("no_image")) == (1, 0)
    assert len(sandbox.purchases()) == 4


def test_what_is_told_can_be_unreadable(sandbox):
    assert generate(sandbox, prompt="a fox sim:bad_info").json()["info"] == ""


def test_tells_how_far_a_request_has_come(sandbox, documents):
    with in_hand(sandbox, "mine", seconds=1.0) as (answer,):
        seen = [progress_of(sandbox, "mine")]
        while not answer.done():
            seen.append(progress_of(sandbox, "mine"))

    for state in seen:
        documents.check("automatic1111.json", "InternalProgressResponse", state)
    shares = [state["progress"] for state in seen if state["active"]]
    assert shares == sorted(shares)
    assert len(set(shares)) > 5
    assert 0 <= shares[0] < 0.9 and shares[-1] <= 1
    after = progress_of(sandbox, "mine")
    assert (after["active"], after["completed"], after["progress"]) == (False, True, None)


def test_one_request_waits_for_the_other(sandbox):
    with in_hand(sandbox, "first", "second", seconds=1.0) as (first, second):
        waiting = progress_of(sandbox, "second")
        assert (waiting["active"], waiting["queued"], waiting["progress"]) == (False, True, None)
        assert progress_of(sandbox, "first")["active"]
        first.result()
        assert not second.done()
        assert progress_of(sandbox, "second")["active"]


def test_a_request_that_nobody_made_is_neither_queued_nor_done(sandbox):
    with in_hand(sandbox, "mine", seconds=0.5):
        state = progress_of(sandbox, "another")

    assert [state[name] for name in ("active", "queued", "completed")] == [False] * 3
    assert state["progress"] is None


def test_only_the_last_requests_are_remembered(sandbox):
    for number in range(18):
        generate(sandbox, force_task_id=f"number {number}")

    assert not progress_of(sandbox, "number 0")["completed"]
    assert progress_of(sandbox, "number 17")["completed"]


def test_the_common_progress_is_that_of_whatever_runs(sandbox, documents):
    with in_hand(sandbox, "mine", seconds=1.0):
        state = sandbox.until(lambda: progress_of_all(sandbox), lambda s: s["progress"] > 0)
        documents.check("automatic1111.json", "ProgressResponse", state)
        assert state["state"]["job_count"] == 1
        assert state["current_task"] is None

    idle = progress_of_all(sandbox)
    documents.check("automatic1111.json", "ProgressResponse", idle)
    assert (idle["progress"], idle["state"]["job_count"]) == (0, 0)
