"""From a demand to processes, a Redis and a storage: arithmetic, no simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ops.capacity.costs import Costs

__all__ = ["Demand", "Plan", "plan", "redis_limit"]

_RENEWAL = 10.0  # seconds between two renewals of a lease: a third of LEASE_SECONDS
_BASE64 = 4 / 3  # bytes on the wire for one of a picture that comes within JSON


@dataclass(frozen=True)
class Demand:
    """What is asked for. `looks` is how often a worker asks the provider about a job, 0 where the
    answer has the picture; `polls` is how often a caller asks for its task."""

    per_minute: float
    provider: float  # seconds
    looks: float = 0.0
    polls: float = 3.0
    downloads: float = 1.0  # how often each picture is fetched from a front end

    @property
    def rate(self) -> float:
        """Generations a second."""
        return self.per_minute / 60


@dataclass(frozen=True)
class Plan:
    """What a demand needs. Cores are those in use; processes leave the room that was asked for."""

    in_flight: float
    web_cores: float
    worker_cores: float
    redis_cores: float
    web_processes: int
    worker_processes: int
    processes_bytes: float  # memory of all of them
    redis_bytes: float  # records of what has ended, until they expire
    log_rate: float  # bytes a second into Redis' append-only file
    redis_traffic: float  # bytes a second to and from Redis
    picture_rate: float  # bytes a second into the storage, and as many out for each download
    stored_bytes: float
    stacks: int  # as many as have a Redis each that is busy no more than asked


def plan(
    costs: Costs,
    demand: Demand,
    *,
    busy: float = 0.6,
    slots: int = 500,
    retention_hours: float = 24.0,
    redis_bytes: float = 64e9,
) -> Plan:
    """What is needed so that no process is busy for more than a share `busy` of its time.

    `slots` is WORKER_CONCURRENCY, of which a quarter stays free; `redis_bytes` is `maxmemory` of
    one Redis, of which three quarters are used: the front end refuses new tasks from there on.
    """
    rate = demand.rate
    work = _worker_seconds(costs, demand)
    in_flight = rate * (demand.provider + work)  # Little's law
    web_cores = rate * (
        costs.submit_web + demand.polls * costs.poll_web + demand.downloads * costs.picture_web
    )
    worker_cores = rate * work
    workers = max(1, math.ceil(worker_cores / busy), math.ceil(in_flight / (0.75 * slots)))
    webs = max(1, math.ceil(web_cores / busy))
    redis_cores = _redis_cores(costs, demand, workers)
    records = rate * retention_hours * 3600 * costs.record_bytes
    return Plan(
        in_flight=in_flight,
        web_cores=web_cores,
        worker_cores=worker_cores,
        redis_cores=redis_cores,
        web_processes=webs,
        worker_processes=workers,
        processes_bytes=webs * costs.web_bytes
        + workers * costs.worker_bytes
        + in_flight * costs.slot_bytes,
        redis_bytes=records,
        log_rate=rate * costs.log_bytes,
        redis_traffic=rate * (costs.redis_in_bytes + costs.redis_out_bytes),
        picture_rate=rate * costs.picture_bytes,
        stored_bytes=rate * retention_hours * 3600 * costs.picture_bytes,
        stacks=max(1, math.ceil(redis_cores / busy), math.ceil(records / (0.75 * redis_bytes))),
    )


def redis_limit(costs: Costs, demand: Demand, *, busy: float = 0.6) -> float:
    """Generations a minute, of the kind of `demand`, at which one Redis is busy for that share."""
    workers = plan(costs, demand, busy=busy).worker_processes
    return demand.per_minute * busy / _redis_cores(costs, demand, workers)


def _worker_seconds(costs: Costs, demand: Demand) -> float:
    """Of a worker's processor, for one generation."""
    task = costs.job_worker if demand.looks else costs.task_worker
    # The first looks are within what a job costs: it was measured with a provider of two seconds.
    looks = max(0.0, demand.looks - 4)
    return task + looks * costs.look_worker + costs.picture_worker


def _redis_cores(costs: Costs, demand: Demand, workers: int) -> float:
    task = costs.job_redis if demand.looks else costs.task_redis
    renewals = demand.provider / _RENEWAL * costs.renewal_redis
    each = task + demand.polls * costs.poll_redis + renewals
    return demand.rate * each + workers * costs.idle_redis
