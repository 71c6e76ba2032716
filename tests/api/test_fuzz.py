"""Whatever is sent as a body is a valid submission or a clean refusal, never a crash."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Request
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from api.errors import ApiError, ValidationFailed
from api.json_body import json_object
from api.schemas import GenerationRequest
from api.submission import read_submission
from common.catalog import Catalog

CATALOG = Catalog.load()
NAMES = [field.alias or name for name, field in GenerationRequest.model_fields.items()]

# Surrogates included: JSON can say them.
texts = st.text(st.characters(exclude_categories=()), max_size=12)
words = st.sampled_from(
    [*(model.id for model in CATALOG), "auto", "1024x1024", "512x512", "hd", "vivid", "png", "16:9"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
bodies = st.dictionaries(st.sampled_from(NAMES) | texts, values, max_size=8)


@settings(max_examples=150, deadline=None)
@given(bodies)
def test_any_object_is_a_submission_or_a_refusal_that_can_be_sent(body: dict[str, Any]) -> None:
    try:
        submission = read_submission(body, CATALOG, {"openai", "bfl"})
    except ApiError as error:
        orjson.dumps(error.body())
        assert error.status in (400, 503)
        if isinstance(error, ValidationFailed):
            assert {problem.param for problem in error.problems} <= set(NAMES)
    else:
        orjson.dumps(submission)
        assert submission.model.takes_size(submission.request.size)
        assert 1 <= submission.request.n <= submission.model.max_n
        assert submission.request.prompt.strip()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | bodies.map(lambda body: repr(body).encode("utf-8", "replace")))
def test_any_bytes_are_an_object_or_a_refusal(data: bytes) -> None:
    builder = EnvironBuilder(method="POST", data=data, content_type="application/json")
    try:
        body = json_object(Request(builder.get_environ()))
    except ApiError as error:
        assert (error.status, error.code) == (400, "invalid_json")
    else:
        assert isinstance(body, dict)
    finally:
        builder.close()
