"""The sandbox speaks ComfyUI's dialect."""

import json
import uuid
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from ops.sandbox.dialects.comfyui import NODES


def graph(documents: Any, **inputs: Any) -> dict[str, Any]:
    """The documented one, with a model that is there; `inputs` go to the nodes that have them."""
    (sample,) = documents.examples("comfyui")
    nodes: dict[str, Any] = json.loads(json.dumps(sample["body"]["prompt"]))
    for node in nodes.values():
        given = {"ckpt_name": "sd_xl_base_1.0.safetensors", "filename_prefix": uuid.uuid4().hex}
        known = NODES[node["class_type"]].inputs
        node["inputs"] |= {n: v for n, v in (given | inputs).items() if n in known and n != "text"}
    nodes["6"]["inputs"]["text"] = inputs.get("text", "a fox")
    return nodes


def call(sandbox, method: str, path: str, **options: Any) -> Any:
    return sandbox.http.request(
        method, f"{sandbox.url}/comfyui{path}", timeout=20, allow_redirects=False, **options
    )


def submit(sandbox, prompt: Any, job_id: str | None = None, path: str = "/prompt") -> Any:
    body = {"prompt": prompt, "prompt_id": job_id or str(uuid.uuid4()), "client_id": "test"}
    return call(sandbox, "POST", path, json=body)


def end(sandbox, prompt: Any) -> Any:
    """The history of a job that is over."""
    job_id = submit(sandbox, prompt).json()["prompt_id"]
    history = sandbox.until(lambda: call(sandbox, "GET", f"/history/{job_id}").json(), bool)
    assert set(history) == {job_id}
    return history[job_id]


def state(sandbox, job_id: str) -> str:
    return str(call(sandbox, "GET", f"/api/jobs/{job_id}").json().get("status"))


def test_the_documented_request_is_answered_as_documented(sandbox, documents):
    (sample,) = documents.examples("comfyui")
    body = sample["body"] | {"prompt": graph(documents, filename_prefix="gw")}
    job_id = body["prompt_id"]
    sandbox.fault({"delay": 0.3})

    rejected = call(sandbox, "POST", sample["path"], json=sample["body"])
    accepted = call(sandbox, "POST", sample["path"], json=body)
    queue = call(sandbox, "GET", "/queue").json()
    early = call(sandbox, "GET", f"/history/{job_id}")
    history = sandbox.until(lambda: call(sandbox, "GET", f"/history/{job_id}").json(), bool)

    documents.check("comfyui.json", "PromptRejected", rejected.json())
    assert rejected.status_code == 400
    (problem,) = rejected.json()["node_errors"]["4"]["errors"]
    assert problem["type"] == "value_not_in_list"
    documents.check("comfyui.json", "PromptAccepted", accepted.json())
    assert accepted.json()["prompt_id"] == job_id
    documents.check("comfyui.json", "Queue", queue)
    assert job_id in [entry[1] for entries in queue.values() for entry in entries]
    assert (early.status_code, early.json()) == (200, {})
    documents.check("comfyui.json", "History", history)
    files = history[job_id]["outputs"]["9"]["images"]
    assert len(files) == 2
    assert all(file["filename"].startswith("gw_") for file in files)
    for file in files:
        answer = call(sandbox, "GET", "/view", params=file)
        assert answer.headers["Content-Type"] == "image/png"
        assert Image.open(BytesIO(answer.content)).size == (1024, 768)
    assert len(sandbox.purchases()) == 2
    assert {entry["prompt"] for entry in sandbox.purchases()} == {"a fox"}


def test_every_documented_path_is_served_and_those_of_old_below_api_too(sandbox, documents):
    for path in documents.paths("comfyui.json"):
        for prefix in ("",) if path.startswith("/api") else ("", "/api"):
            url = prefix + path.replace("{prompt_id}", "x").replace("{job_id}", "x")
            answers = [call(sandbox, method, url, json={}) for method in ("GET", "POST")]

            assert any(answer.status_code != 405 for answer in answers)
            assert not any("URL was not found" in answer.text for answer in answers)


def test_an_id_is_taken_once(sandbox, documents):
    job_id = str(uuid.uuid4())
    first = submit(sandbox, graph(documents), job_id)

    again = submit(sandbox, graph(documents), job_id, path="/api/prompt")

    documents.check("comfyui.json", "SimpleError", again.json())
    assert (first.status_code, again.status_code) == (200, 409)
    assert again.json() == {"error": "prompt_id already exists"}
    assert len(sandbox.purchases()) == 2


def test_an_id_is_a_uuid_in_lower_case_or_the_servers_own(sandbox, documents):
    wrong = submit(sandbox, graph(documents), str(uuid.uuid4()).upper())
    own = call(sandbox, "POST", "/prompt", json={"prompt": graph(documents)})

    assert wrong.json()["error"]["type"] == "invalid_prompt_id"
    assert str(uuid.UUID(own.json()["prompt_id"])) == own.json()["prompt_id"]


@pytest.mark.parametrize(
    ("node", "changed", "kind"),
    [
        ("3", {"seed": None}, "required_input_missing"),
        ("3", {"seed": "7"}, "invalid_input_type"),
        ("3", {"seed": -1}, "value_smaller_than_min"),
        ("3", {"cfg": 100.5}, "value_bigger_than_max"),
        ("3", {"steps": 2.5}, "invalid_input_type"),
        ("3", {"sampler_name": "oiler"}, "value_not_in_list"),
        ("3", {"model": ["4", 1]}, "return_type_mismatch"),
        ("3", {"model": ["99", 0]}, "bad_linked_input"),
        ("3", {"model": "4"}, "bad_linked_input"),
        ("5", {"width": 8}, "value_smaller_than_min"),
        ("5", {"batch_size": "%count%"}, "invalid_input_type"),
        ("6", {"text": 5}, "invalid_input_type"),
    ],
)
def test_what_is_wrong_with_a_node_is_named(sandbox, documents, node, changed, kind):
    prompt = graph(documents)
    prompt[node]["inputs"] |= changed

    answer = submit(sandbox, prompt)

    documents.check("comfyui.json", "PromptRejected", answer.json())
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "prompt_outputs_failed_validation"
    assert set(answer.json()["node_errors"]) == {node}
    (problem,) = answer.json()["node_errors"][node]["errors"]
    assert problem["type"] == kind
    assert next(iter(changed)) in problem["details"]
    assert sandbox.purchases() == []


def test_a_graph_that_cannot_run_is_refused(sandbox, documents):
    sound = graph(documents)
    endless = sound | {
        "3": sound["3"] | {"inputs": sound["3"]["inputs"] | {"latent_image": ["3", 0]}}
    }
    for prompt, kind in (
        (None, "no_prompt"),
        ({}, "prompt_no_outputs"),
        ({n: node for n, node in sound.items() if n != "9"}, "prompt_no_outputs"),
        (sound | {"1": {"class_type": "SaveImages", "inputs": {}}}, "invalid_prompt"),
        (sound | {"1": {"inputs": {}}}, "invalid_prompt"),
        (sound | {"1": 5}, "invalid_prompt"),
        (endless, "invalid_prompt"),
    ):
        answer = submit(sandbox, prompt)

        documents.check("comfyui.json", "PromptRejected", answer.json())
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, kind)
    assert sandbox.purchases() == []


def test_a_graph_that_ran_before_makes_nothing_new(sandbox, documents):
    prompt = graph(documents)
    assert end(sandbox, prompt)["outputs"]

    again = end(sandbox, prompt)

    assert again["status"]["status_str"] == "success"
    assert again["outputs"] == {}
    assert len(sandbox.purchases()) == 2


def test_previews_are_temporary(sandbox, documents):
    prompt = graph(documents)
    prompt["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}

    files = end(sandbox, prompt)["outputs"]["9"]["images"]

    assert {file["type"] for file in files} == {"temp"}
    assert call(sandbox, "GET", "/view", params=files[0]).status_code == 200
    assert call(sandbox, "GET", "/view", params=files[0] | {"type": "output"}).status_code == 404


def test_a_job_can_end_in_an_error(sandbox, documents):
    entry = end(sandbox, graph(documents, text="sim:failed"))

    assert entry["status"]["status_str"] == "error"
    assert entry["outputs"] == {}
    word, told = entry["status"]["messages"][-1]
    assert (word, told["node_id"], told["node_type"]) == ("execution_error", "3", "KSampler")
    assert state(sandbox, entry["prompt"][1]) == "failed"
    assert len(sandbox.purchases()) == 2


def test_a_job_is_told_of_in_the_younger_way_too(sandbox, documents):
    sandbox.fault({"delay": 0.5})
    job_id = submit(sandbox, graph(documents)).json()["prompt_id"]
    seen = []

    while not seen or seen[-1]["status"] != "completed":
        seen.append(call(sandbox, "GET", f"/api/jobs/{job_id}").json())
        documents.check("comfyui.json", "Job", seen[-1])

    assert {told["status"] for told in seen} == {"pending", "in_progress", "completed"}
    assert seen[-1]["outputs_count"] == 2
    unknown = call(sandbox, "GET", "/api/jobs/none")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Job not found"})


def test_a_job_is_cancelled_while_it_waits_and_while_it_runs(sandbox, documents):
    sandbox.fault({"delay": 60})
    waits = [submit(sandbox, graph(documents)).json()["prompt_id"] for _ in range(2)]
    sandbox.fault({"delay": 0})
    runs = [
        submit(sandbox, graph(documents, text="sim:never_ready")).json()["prompt_id"]
        for _ in range(3)
    ]

    call(sandbox, "POST", "/queue", json={"delete": [waits[0], runs[0]]})
    call(sandbox, "POST", "/interrupt", json={"prompt_id": runs[0]})
    told = [call(sandbox, "POST", f"/api/jobs/{one}/cancel").json() for one in (waits[1], runs[1])]

    assert told == [{"cancelled": True}] * 2
    assert [state(sandbox, one) for one in waits] == ["None", "None"]
    assert [state(sandbox, one) for one in runs] == ["cancelled", "cancelled", "in_progress"]
    remaining = {"exec_info": {"queue_remaining": 1}}
    assert sandbox.until(lambda: call(sandbox, "GET", "/prompt").json(), remaining.__eq__)
    ended = call(sandbox, "GET", f"/history/{runs[0]}").json()[runs[0]]
    assert ended["status"]["messages"][-1][0] == "execution_interrupted"
    call(sandbox, "POST", "/interrupt")
    assert state(sandbox, runs[2]) == "cancelled"
    assert call(sandbox, "POST", f"/api/jobs/{runs[2]}/cancel").json() == {"cancelled": False}


def test_a_history_can_be_deleted_and_the_files_stay(sandbox, documents):
    entry = end(sandbox, graph(documents))
    job_id = entry["prompt"][1]

    call(sandbox, "POST", "/history", json={"delete": [job_id]})

    assert call(sandbox, "GET", f"/history/{job_id}").json() == {}
    file = entry["outputs"]["9"]["images"][0]
    assert call(sandbox, "GET", "/view", params=file).status_code == 200


def test_a_restart_forgets_a_job(sandbox, documents):
    job_id = submit(sandbox, graph(documents, text="sim:job_lost")).json()["prompt_id"]

    assert call(sandbox, "GET", f"/history/{job_id}").json() == {}
    assert job_id not in call(sandbox, "GET", "/queue").text
    assert state(sandbox, job_id) == "None"


def test_a_picture_is_not_there_too_late_or_elsewhere(sandbox, documents):
    def view(text: str, **changed: str) -> int:
        file = end(sandbox, graph(documents, text=text))["outputs"]["9"]["images"][0]
        return int(call(sandbox, "GET", "/view", params=file | changed).status_code)

    assert view("a fox") == 200
    assert view("a fox", filename="none.png") == 404
    assert view("a fox", filename="../secret.png") == 400
    assert view("a fox", subfolder="../..") == 403
    assert view("sim:expired_url") == 404
    assert view("sim:redirect_image") == 302


def test_a_picture_is_not_there_before_the_job_is_over(sandbox, documents):
    file = end(sandbox, graph(documents))["outputs"]["9"]["images"][-1]
    number = int(file["filename"].split("_")[1])
    sandbox.fault({"delay": 0.5})
    submit(sandbox, graph(documents, filename_prefix="next"))

    name = f"/view?filename=next_{number + 1:05}_.png"
    early = call(sandbox, "GET", name)
    late = sandbox.until(lambda: call(sandbox, "GET", name), lambda answer: answer.ok)

    assert early.status_code == 404
    assert late.content


def test_a_page_of_somebody_elses_is_turned_away(sandbox):
    own = {"Origin": sandbox.url}

    assert call(sandbox, "GET", "/queue", headers=own).status_code == 200
    assert call(sandbox, "GET", "/queue", headers={"Origin": "http://evil"}).status_code == 403


@pytest.mark.parametrize(
    ("fault", "status"),
    [("bad_key", 401), ("rate_limited", 429), ("overloaded", 503), ("server_error", 500)],
)
def test_a_proxy_turns_calls_away(sandbox, documents, fault, status):
    answer = submit(sandbox, graph(documents, text=f"sim:{fault}"))

    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.headers.get("Retry-After") == ("1" if fault == "rate_limited" else None)
    assert sandbox.purchases() == []
