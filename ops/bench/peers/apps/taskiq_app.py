"""FastAPI and taskiq as their guides show them, on Redis' streams, which are acknowledged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import aiohttp
from bought import HEADERS, IMPATIENT, PROVIDER, REDIS, keep
from fastapi import FastAPI
from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

# taskiq-redis gives what a lost worker had to another after ten minutes: too long for a test.
_patience: dict[str, Any] = {"idle_timeout": 5_000} if IMPATIENT else {}
results = RedisAsyncResultBackend(redis_url=REDIS)
broker = RedisStreamBroker(url=REDIS, **_patience).with_result_backend(results)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_session(state: TaskiqState) -> None:
    state.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def close_session(state: TaskiqState) -> None:
    await state.session.close()


@broker.task
async def generate(
    body: dict[str, Any], context: Annotated[Context, TaskiqDepends()]
) -> dict[str, Any]:
    async with context.state.session.post(PROVIDER, json=body, headers=HEADERS) as answer:
        answer.raise_for_status()
        return keep(context.message.task_id, await answer.json())


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


app = FastAPI(lifespan=lifespan)


@app.post("/images", status_code=202)
async def submit(body: dict[str, Any]) -> Any:
    task = await generate.kiq(body)
    return {"id": task.task_id, "status": "pending"}


@app.get("/images/{task_id}")
async def poll(task_id: str) -> Any:
    if not await results.is_result_ready(task_id):
        return {"id": task_id, "status": "pending"}
    result = await results.get_result(task_id)
    return {"id": task_id, "status": "completed", "result": result.return_value}
