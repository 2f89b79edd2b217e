"""POST /v1/rank and /v1/retrieve: decode, wait for the token, rank, encode."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from features.keys import actor_key
from features.records import Offsets, decode_token, partitions_in
from service import answer_bytes, filters, openapi, requests
from service.answers import RankAnswer, RankRows
from service.arms import arm_of
from service.core import Service
from service.event_applying import STREAM
from service.http import answer, request_id
from service.ranked import Question, Ranked
from service.routes import examples
from service.unranked import unranked

INLINE = 1_000
"""Candidates (and exclusions) ranked on the event loop; more go to the one worker thread."""

INLINE_EXPLAINED = 20

Ask = requests.RankRequest | requests.RetrieveRequest


def wanted_of(token: str | None) -> Offsets:
    """What user states have to hold for a request with this token. InvalidInput for a bad one."""
    offsets = {} if token is None else decode_token(token)
    return {name: offsets[name] for name in partitions_in(STREAM, offsets)}


async def wait_for(service: Service, question: Question, wanted: Offsets, seconds: float) -> bool:
    """Wait until user states hold what lies before `wanted`; False when time ran out. Where they are kept beside this
    process, the question's is read on the way."""
    running = service.running
    if running.watch is None:
        progress = running.consumer.progress
        return progress.reached(wanted) or await progress.wait(wanted, seconds)
    key = actor_key(question.user, question.session)
    question.known, reached = await running.watch.state(key, wanted, seconds)
    return reached


def question_of(service: Service, ask: Ask, rid: str) -> Question:
    """The question of a decoded request, without its time and candidates."""
    user, session = requests.optional_id(ask.user, "user"), requests.optional_id(ask.session, "session")
    return Question(
        request_id=rid,
        t=0,
        objective=service.objectives.get(ask.objective),
        arm=arm_of(user, session, rid, service.settings.control_share),
        user=user,
        session=session,
        query=requests.check_query(ask.query),
        fields=requests.field_map(ask.fields),
        exclude=frozenset(requests.id_texts(ask.exclude, "exclude")),
        filters=ask.filter,
        top_k=ask.top_k,
        pre_rank=ask.pre_rank,
        explain=ask.explain,
    )


async def columns_for(service: Service, conditions: Sequence[requests.Condition]) -> None:
    """Have fields read that no filter has named before: in a thread of its own, beside requests and updates."""
    engine = service.running.engine
    if not filters.ready(engine.catalogue, conditions):
        await asyncio.to_thread(filters.prepare, engine.catalogue, conditions, engine.lock)


async def wait_and_date(service: Service, question: Question, ask: Ask) -> None:
    """Wait for the request's token, then read the clock: in this order, so that what it waited for lies before."""
    wanted, longest = wanted_of(ask.after), service.settings.wait_ms
    seconds = min(longest if ask.wait_ms is None else ask.wait_ms, longest) / 1000
    question.missed_token = not await wait_for(service, question, wanted, seconds)
    question.t = service.clock()


def router(service: Service) -> APIRouter:
    """The two routes of one service."""
    routes = APIRouter(tags=["ranking"])
    worker = ThreadPoolExecutor(1, "ranking")

    async def run(inline: bool, work: Callable[[], Ranked], form: str, rid: str) -> Response:
        if inline:
            return answer(answer_bytes.to_bytes(work(), form), rid)
        loop = asyncio.get_running_loop()
        with service.metrics.ranking_waiting.track_inprogress():
            content = await loop.run_in_executor(worker, lambda: answer_bytes.to_bytes(work(), form))
        return answer(content, rid)

    described: dict[str, Any] = openapi.describe(
        body=requests.RankRequest,
        body_example=examples.RANK,
        answer=[RankAnswer, RankRows],
        example=examples.RANKED,
        errors=(401, 413, 422, 503),
    )

    @routes.post("/v1/rank", summary="Rank candidates", openapi_extra=described)
    async def rank(request: Request) -> Response:
        """Order the candidates of a request, best first, with calibrated probabilities."""
        ask, ids, fields = requests.decode_rank(await request.body(), service.settings.max_candidates)
        question = question_of(service, ask, request_id(request))
        if service.without_base:
            question.t = service.clock()
            return answer(answer_bytes.to_bytes(unranked(question, ids), ask.format), question.request_id)
        ranker = service.running.ranker
        await columns_for(service, ask.filter)
        await wait_and_date(service, question, ask)
        limit = INLINE_EXPLAINED if ask.explain else INLINE
        inline = len(ids) <= limit and len(question.exclude) <= INLINE and not question.filters
        return await run(inline, partial(ranker.rank, question, ids, fields), ask.format, question.request_id)

    described = openapi.describe(
        body=requests.RetrieveRequest,
        body_example=examples.RETRIEVE,
        answer=[RankAnswer, RankRows],
        example=examples.RANKED,
        errors=(401, 413, 422, 503),
    )

    @routes.post("/v1/retrieve", summary="Find and rank items of the catalogue", openapi_extra=described)
    async def retrieve(request: Request) -> Response:
        """As rank, with the whole catalogue as candidates: coarse over all, then fine over the best."""
        ask = requests.decode(await request.body(), requests.RetrieveRequest)
        question = question_of(service, ask, request_id(request))
        retriever = service.running.retriever
        keep = min(ask.pre_rank or service.settings.pre_rank, service.settings.max_candidates)
        question.pre_rank = None
        await columns_for(service, ask.filter)
        await wait_and_date(service, question, ask)
        work = partial(retriever.retrieve, question, ask.match, max(keep, ask.top_k))
        return await run(False, work, ask.format, question.request_id)

    return routes
