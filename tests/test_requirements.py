"""Which test covers which of the requirements S1 to S50 that the API was ordered with."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

COVERED_BY = {
    "S1 recommended shortlist": "api/test_models.py::test_the_best_come_first_and_those_with_few_samples_last",
    "S2 listed ids are accepted": "api/test_models.py::test_every_recommended_model_can_be_used",
    "S3 model, default dall-e-3": "api/test_submit.py::test_the_prompt_is_all_that_is_needed",
    "S4 dall-e-3, flux-pro, midjourney are values": "api/test_submit.py::test_a_model_without_a_provider_is_unavailable_and_names_others",
    "S5 prompt, required": "api/test_submit.py::test_a_wrong_value_is_refused_by_name",
    "S6 n, default 1": "api/test_submit.py::test_there_is_one_placeholder_per_image",
    "S7 n from 1 to 4": "api/test_submit.py::test_a_wrong_value_is_refused_by_name",
    "S8 n limited by the model": "api/test_submit.py::test_the_refusal_of_n_says_what_the_model_allows",
    "S9 size, default 1024x1024": "api/test_submit.py::test_the_prompt_is_all_that_is_needed",
    "S10 sizes by model": "api/test_submit.py::test_a_size_out_of_reach_is_answered_with_the_nearest",
    "S11 dall-e-3 1024x1024": "e2e/test_generation.py::test_the_picture_has_the_size_that_was_asked_for",
    "S12 dall-e-3 1792x1024": "e2e/test_generation.py::test_the_picture_has_the_size_that_was_asked_for",
    "S13 dall-e-3 1024x1792, nothing else": "api/test_models.py::test_the_sizes_are_those_that_were_ordered",
    "S14 others 512x512": "api/test_submit.py::test_sizes_that_a_model_takes_are_accepted",
    "S15 others 1024x1024": "api/test_submit.py::test_sizes_that_a_model_takes_are_accepted",
    "S16 further sizes": "api/test_submit.py::test_sizes_that_a_model_takes_are_accepted",
    "S17 quality standard, hd": "api/test_models.py::test_quality_and_style_are_for_dall_e_3",
    "S18 quality for dall-e-3 only": "api/test_submit.py::test_known_parameters_that_the_model_does_not_take_are_dropped_and_named",
    "S19 response_format": "e2e/test_published_clients.py::test_the_openai_sdk_gets_base64_when_it_asks_for_it",
    "S20 style vivid, natural": "api/test_models.py::test_quality_and_style_are_for_dall_e_3",
    "S21 user": "api/test_submit.py::test_what_was_asked_for_is_kept_and_announced",
    "S22 inline on request": "api/test_wait.py::test_a_submit_that_waits_is_answered_with_the_images",
    "S23 created": "api/test_wait.py::test_a_submit_that_waits_is_answered_with_the_images",
    "S24 data": "api/test_wait.py::test_a_submit_that_waits_is_answered_with_the_images",
    "S25 url": "e2e/test_published_clients.py::test_the_openai_sdk_gets_images_when_it_prefers_to_wait",
    "S26 b64_json": "api/test_wait.py::test_a_submit_that_waits_can_have_base64",
    "S27 revised_prompt": "e2e/test_published_clients.py::test_the_openai_sdk_gets_images_when_it_prefers_to_wait",
    "S28 async task at once": "api/test_submit.py::test_every_usable_model_answers_a_pending_task",
    "S29 either way": "api/test_wait.py::test_a_submit_that_waited_in_vain_is_pending",
    "S30 status pending is the test": "e2e/test_published_clients.py::test_a_client_that_polls_with_requests_gets_its_picture",
    "S31 poll_url as returned": "e2e/test_published_clients.py::test_a_client_that_polls_with_requests_gets_its_picture",
    "S32 task_id for later": "e2e/test_published_clients.py::test_a_client_that_polls_with_requests_gets_its_picture",
    "S33 created of the task": "api/test_submit.py::test_every_usable_model_answers_a_pending_task",
    "S34 unique task_id": "api/test_submit.py::test_ids_are_all_different_and_tell_nothing",
    "S35 initial status": "api/test_submit.py::test_every_usable_model_answers_a_pending_task",
    "S36 relative poll_url": "api/test_submit.py::test_the_headers_say_where_to_look_and_when",
    "S37 /v1/images/generations/{id}": "e2e/test_published_clients.py::test_the_three_poll_paths_have_one_body",
    "S38 /v1/tasks/{id}": "e2e/test_published_clients.py::test_the_three_poll_paths_have_one_body",
    "S39 one placeholder per image": "api/test_submit.py::test_there_is_one_placeholder_per_image",
    "S40 url empty until completed": "api/test_poll.py::test_a_new_task_is_pending_on_all_paths",
    "S41 status delivers the result": "api/test_poll.py::test_a_completed_task_delivers_its_images",
    "S42 dall-e-3": "api/test_models.py::test_the_seven_models_are_listed_as_they_are",
    "S43 dall-e-2": "api/test_models.py::test_the_seven_models_are_listed_as_they_are",
    "S44 flux-pro": "api/test_models.py::test_the_seven_models_are_listed_as_they_are",
    "S45 flux-schnell": "api/test_models.py::test_the_seven_models_are_listed_as_they_are",
    "S46 midjourney": "api/test_models.py::test_the_seven_models_are_listed_as_they_are",
    "S47 ideogram-v3": "api/test_models.py::test_the_seven_models_are_listed_as_they_are",
    "S48 stable-diffusion-3": "api/test_models.py::test_the_seven_models_are_listed_as_they_are",
    "S49 model, type, features": "api/test_models.py::test_the_seven_models_are_listed_as_they_are",
    "S50 both shapes for every model": "api/test_submit.py::test_every_usable_model_answers_a_pending_task",
}  # fmt: skip


def test_every_requirement_is_covered() -> None:
    assert [name.split()[0] for name in COVERED_BY] == [f"S{n}" for n in range(1, 51)]


@pytest.mark.parametrize("test", sorted(set(COVERED_BY.values())))
def test_the_test_that_covers_it_exists(test: str) -> None:
    path, _, name = test.partition("::")
    tree = ast.parse((TESTS / path).read_text("utf-8"))

    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
