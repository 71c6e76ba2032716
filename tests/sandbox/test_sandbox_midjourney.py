"""The sandbox speaks the dialect of both lines of midjourney-proxy."""

from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from ops.sandbox.pictures import Painter

DOCUMENT = "midjourney-proxy.json"
NOVICEZK, TRUEAI = "/midjourney/mj", "/midjourney/mj-fast/mj"
FULL = "队列已满"


@pytest.fixture
def proxy(sandbox, documents):
    return Proxy(sandbox, documents)


class Proxy:
    """Calls to either line; every answer is held against the document."""

    def __init__(self, sandbox: Any, documents: Any) -> None:
        self.sandbox, self.documents = sandbox, documents
        sandbox.fault({"provider": "midjourney", "delay": 0.2})

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        headers = headers or {"mj-api-secret": "k"}
        url = self.sandbox.url + path
        return self.sandbox.http.post(url, json=body, headers=headers, timeout=20)

    def get(self, path: str, **headers: str) -> Any:
        headers = headers or {"mj-api-secret": "k"}
        return self.sandbox.http.get(self.sandbox.url + path, headers=headers, timeout=20)

    def imagine(self, prompt: str = "a fox --ar 1:1 --v 7", line: str = NOVICEZK) -> Any:
        body = {"prompt": prompt, "state": "task-1"}
        answer = self.post(f"{line}/submit/imagine", body).json()
        self.documents.check(DOCUMENT, "SubmitResult", answer)
        return answer

    def task(self, job_id: str, line: str = NOVICEZK) -> Any:
        task = self.get(f"{line}/task/{job_id}/fetch").json()
        if task["status"] != "PREEMPTED":
            self.documents.check(DOCUMENT, "Task", task)
        return task

    def ended(self, prompt: str = "a fox --ar 1:1 --v 7", line: str = NOVICEZK) -> Any:
        """The task once it is over."""
        job_id = self.imagine(prompt, line)["result"]
        running = ("NOT_START", "SUBMITTED", "IN_PROGRESS")
        return self.sandbox.until(
            lambda: self.task(job_id, line), lambda task: task["status"] not in running
        )

    def picture(self, url: str) -> Any:
        answer = self.sandbox.http.get(url, timeout=20)
        assert answer.ok
        image = Image.open(BytesIO(answer.content))
        image.load()
        return image


@pytest.mark.parametrize("line", [NOVICEZK, TRUEAI])
def test_a_task_goes_from_prompt_to_grid_as_documented(proxy, line):
    accepted = proxy.imagine("a fox --ar 7:4 --v 7", line)
    assert accepted["code"] == 1
    job_id = accepted["result"]
    seen = []

    def look() -> Any:
        seen.append(proxy.task(job_id, line))
        return seen[-1]

    task = proxy.sandbox.until(look, lambda task: task["status"] == "SUCCESS")

    statuses = list(dict.fromkeys(task["status"] for task in seen))
    assert statuses == [s for s in ("SUBMITTED", "IN_PROGRESS", "SUCCESS") if s in statuses]
    assert (task["progress"], task["state"]) == ("100%", "task-1")
    assert task["finishTime"] >= task["startTime"] == task["submitTime"] > 10**12
    assert all(task["progress"].endswith("%") for task in seen)
    assert proxy.picture(task["imageUrl"]).size == (2 * 1344, 2 * 768)
    (purchase,) = proxy.sandbox.purchases()
    assert (purchase["prompt"], purchase["model"]) == ("a fox", "v7")


def test_the_grid_shows_four_different_pictures(proxy):
    grid = proxy.picture(proxy.ended()["imageUrl"])

    corners = [grid.getpixel(at) for at in ((9, 9), (2000, 9), (9, 2000), (2000, 2000))]
    assert len(set(corners)) == 4


def test_a_drawn_grid_shows_the_pictures_that_can_be_had_singly():
    painter = Painter()
    options = {"output_format": "png", "quality": 90}
    grid = Image.open(
        BytesIO(painter.picture("a fox", width=128, height=96, seed=5, grid=True, **options).body)
    )

    singles = [
        Image.open(BytesIO(painter.picture("a fox", width=64, height=48, seed=s, **options).body))
        for s in range(20, 24)
    ]

    boxes = [(0, 0, 64, 48), (64, 0, 128, 48), (0, 48, 64, 96), (64, 48, 128, 96)]
    assert [grid.crop(box).tobytes() for box in boxes] == [each.tobytes() for each in singles]
    assert len({each.tobytes() for each in singles}) == 4


def test_a_running_task_shows_a_small_preview(proxy):
    job_id = proxy.imagine("a fox sim:never_ready")["result"]

    task = proxy.sandbox.until(
        lambda: proxy.task(job_id), lambda task: task["status"] == "IN_PROGRESS"
    )

    preview = proxy.picture(task["imageUrl"])
    assert (preview.format, preview.size) == ("WEBP", (256, 256))
    final = task["imageUrl"].replace("preview.webp", "grid.png")
    assert proxy.sandbox.http.get(final, timeout=20).status_code == 404


def test_only_one_line_has_single_pictures_buttons_and_a_seed(proxy):
    plain, rich = proxy.ended(), proxy.ended("a fox --seed 7", TRUEAI)

    assert not {"imageUrls", "buttons", "seed"} & plain.keys()
    assert [proxy.picture(each["url"]).size for each in rich["imageUrls"]] == [(1024, 1024)] * 4
    assert [each["label"] for each in rich["buttons"]] == [f"{k}{n}" for k in "UV" for n in "1234"]
    assert rich["seed"] == "7"
    asked = proxy.get(f"{TRUEAI}/task/{rich['id']}/image-seed").json()
    assert (asked["code"], asked["result"]) == (1, "7")


@pytest.mark.parametrize("line", [NOVICEZK, TRUEAI])
def test_tasks_are_listed(proxy, line):
    first, second = (proxy.imagine(line=line)["result"] for _ in range(2))

    assert {first, second} <= {task["id"] for task in proxy.get(f"{line}/task/list").json()}
    some = proxy.post(f"{line}/task/list-by-condition", {"ids": [second, "none"]}).json()
    assert [task["id"] for task in some] == [second]


def test_one_line_lists_all_tasks_and_the_other_its_newest_hundred(proxy):
    ids = [proxy.imagine()["result"] for _ in range(102)]

    plain, rich = (proxy.get(f"{line}/task/list").json() for line in (NOVICEZK, TRUEAI))

    assert ids == [task["id"] for task in plain if task["id"] in ids]
    assert [task["id"] for task in rich] == ids[:1:-1]
    for task in (plain[-1], rich[0]):
        proxy.documents.check(DOCUMENT, "Task", task)


def test_one_line_shows_its_queue(proxy):
    proxy.sandbox.fault({"provider": "midjourney", "delay": 600})
    proxy.imagine("a fox")
    waiting = proxy.imagine("a fox sim:queued")["result"]

    listed = proxy.get(f"{NOVICEZK}/task/queue").json()

    assert [task["id"] for task in listed] == [waiting]
    assert proxy.get(f"{TRUEAI}/task/queue").status_code == 404


def test_only_one_line_has_another_name_for_asking_about_several(proxy):
    job_id = proxy.imagine()["result"]

    asked = proxy.post(f"{TRUEAI}/task/list-by-ids", {"ids": [job_id]})

    assert [task["id"] for task in asked.json()] == [job_id]
    assert proxy.post(f"{NOVICEZK}/task/list-by-ids", {"ids": [job_id]}).status_code == 404


@pytest.mark.parametrize("line", [NOVICEZK, TRUEAI])
def test_a_list_can_go_wrong_too_and_leaves_out_what_is_lost(proxy, line):
    lost = proxy.imagine("a fox sim:job_lost", line)["result"]
    proxy.sandbox.fault({"fault": "server_error", "call": "poll", "times": 1})

    first, second = (proxy.get(f"{line}/task/list") for _ in range(2))

    assert (first.status_code, second.status_code) == (500, 200)
    assert lost not in [task["id"] for task in second.json()]
    assert proxy.get(f"{line}/task/list", **{"mj-api-secret": "bad"}).status_code == 401


def test_the_example_request_is_taken(proxy):
    (sample, *_) = proxy.documents.examples("midjourney-proxy")

    answer = proxy.post("/midjourney" + sample["path"], sample["body"])

    assert answer.json()["code"] == 1


@pytest.mark.parametrize("body", [None, [], {}, {"prompt": ""}, {"prompt": 5}, {"prompt": " "}])
def test_a_request_without_a_prompt_is_code_4(proxy, body):
    answer = proxy.post(f"{NOVICEZK}/submit/imagine", body)

    assert (answer.status_code, answer.json()["code"]) == (200, 4)
    assert proxy.sandbox.purchases() == []


@pytest.mark.parametrize(
    "parameter", ["--foo", "--ar wide", "--ar 0:1", "--v 99", "--seed -1", "--seed 4294967296"]
)
def test_a_wrong_parameter_is_a_failed_task(proxy, parameter):
    task = proxy.ended(f"a fox {parameter}")

    assert task["status"] == "FAILURE"
    assert task["failReason"].startswith("[Invalid parameter]")
    assert proxy.sandbox.purchases() == []


@pytest.mark.parametrize(
    ("fault", "novicezk", "trueai"),
    [
        ("no_account", (3, None), (3, None)),
        ("overloaded", (23, None), (9, None)),
        ("active_limit:0", (23, None), (9, None)),
        ("moderated", (24, None), (1, "FAILURE")),
        ("queued", (22, "SUCCESS"), (22, "SUCCESS")),
        ("moderated_output", (1, "FAILURE"), (1, "FAILURE")),
        ("failed", (1, "FAILURE"), (1, "FAILURE")),
        ("modal", (1, "MODAL"), (1, "MODAL")),
        ("unknown_status", (1, "PREEMPTED"), (1, "PREEMPTED")),
        ("no_image", (1, "SUCCESS"), (1, "SUCCESS")),
    ],
)
def test_each_line_goes_wrong_in_its_own_way(proxy, fault, novicezk, trueai):
    for line, (code, status) in ((NOVICEZK, novicezk), (TRUEAI, trueai)):
        proxy.sandbox.clear()
        proxy.sandbox.fault({"picture": "plain"}, {"provider": "midjourney", "delay": 0})
        answer = proxy.imagine(f"a fox sim:{fault} --v 7", line)
        assert answer["code"] == code
        assert (FULL in answer["description"]) is (code in (9, 23))
        if status is None:
            assert answer["result"] is None
        else:
            task = proxy.task(answer["result"], line)
            assert task["status"] == status
            assert bool(task["failReason"]) is (status == "FAILURE")
            assert task["imageUrl"] is None or fault == "queued"
        is_paid = status is not None and fault != "moderated"
        assert len(proxy.sandbox.purchases()) == is_paid


def test_a_task_begins_at_once_or_waits_behind_others(proxy):
    proxy.sandbox.fault({"provider": "midjourney", "delay": 600})

    begun, waiting = (
        proxy.task(proxy.imagine(prompt)["result"]) for prompt in ("a fox", "a fox sim:queued")
    )

    assert (begun["status"], begun["progress"], begun["imageUrl"]) == ("SUBMITTED", "0%", None)
    assert (waiting["status"], waiting["progress"], waiting["startTime"]) == ("NOT_START", "", None)


def test_a_task_can_be_cancelled_in_one_line_only(proxy):
    old = proxy.imagine("a fox sim:never_ready")["result"]
    new = proxy.imagine("a fox sim:never_ready", TRUEAI)["result"]

    assert proxy.post(f"{NOVICEZK}/task/{old}/cancel").status_code == 404
    cancelled = proxy.post(f"{TRUEAI}/task/{new}/cancel")

    assert (cancelled.status_code, cancelled.content) == (200, b"")
    assert proxy.task(new, TRUEAI)["status"] == "CANCEL"


@pytest.mark.parametrize(("line", "status"), [(NOVICEZK, 200), (TRUEAI, 204)])
def test_an_unknown_task_is_an_empty_answer(proxy, line, status):
    job_id = proxy.imagine("a fox sim:job_lost", line)["result"]

    for asked in (job_id, "17"):
        answer = proxy.get(f"{line}/task/{asked}/fetch")
        assert (answer.status_code, answer.content) == (status, b"")


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        (NOVICEZK, {"mj-api-secret": "k"}, 200),
        (NOVICEZK, {"mj-api-secret": "bad"}, 401),
        (NOVICEZK, {"Authorization": "k"}, 401),
        (TRUEAI, {"Mj-Api-Secret": "k"}, 200),
        (TRUEAI, {"Authorization": "k"}, 200),
        (TRUEAI, {"x-key": "k"}, 401),
    ],
)
def test_a_secret_is_needed(proxy, line, headers, status):
    path = f"{line}/submit/imagine"

    answer = proxy.post(path, {"prompt": "a fox"}, **headers)

    assert answer.status_code == status
    assert (status == 200) or answer.content == b""
    assert proxy.get(f"{line}/task/17/fetch", **headers).status_code in (status, 204)


def test_the_limiter_answers_without_a_body(proxy):
    answer = proxy.post(f"{TRUEAI}/submit/imagine", {"prompt": "a fox sim:rate_limited:7"})

    assert (answer.status_code, answer.content) == (429, b"")
    assert answer.headers["Retry-After"] == "7"


@pytest.mark.parametrize("fault", ["expired_url", "redirect_image", "foreign_image_url"])
def test_pictures_can_be_out_of_reach(proxy, fault):
    url = proxy.ended(f"a fox sim:{fault}")["imageUrl"]

    if fault == "foreign_image_url":
        assert url.startswith("http://169.254.169.254/")
        return
    answer = proxy.sandbox.http.get(url, timeout=20, allow_redirects=False)
    assert answer.status_code == (404 if fault == "expired_url" else 302)


def test_a_picture_needs_its_signature(proxy):
    url = proxy.ended()["imageUrl"]

    assert proxy.sandbox.http.get(url.split("?")[0], timeout=20).status_code == 404
    other = url.replace("grid.png", "0_9.png")
    assert proxy.sandbox.http.get(other, timeout=20).status_code == 404
