"""POST /v1/embeddings and GET /v1/items: what the ranker knows of users, items and queries, as vectors and fields."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from features.errors import InvalidRequest, TooLarge
from service import openapi, requests
from service.answers import EmbeddingsAnswer, ItemsAnswer
from service.core import Service
from service.embeddings import embed
from service.http import answer, json_answer, request_id
from service.routes import examples

MOST = 1_000
MOST_ITEMS = 200


def router(service: Service) -> APIRouter:
    """The routes of one service."""
    routes = APIRouter(tags=["representations"])
    described: dict[str, Any] = openapi.describe(
        body=requests.EmbeddingsRequest,
        body_example=examples.EMBEDDINGS,
        answer=[EmbeddingsAnswer],
        errors=(401, 413, 422, 503),
    )

    @routes.post("/v1/embeddings", summary="Vectors of users, items, queries", openapi_extra=described)
    async def embeddings(request: Request) -> Response:
        """32-d coarse and 64-d tower vectors of the base model, for a model of your own."""
        ask = requests.decode(await request.body(), requests.EmbeddingsRequest)
        count = len(ask.users) + len(ask.items) + len(ask.queries)
        if count == 0:
            raise InvalidRequest("nothing to embed", hint="send users, items or queries")
        if count > MOST:
            raise TooLarge(f"{count} vectors, the limit is {MOST}", value=count, hint="send fewer at once")
        users, items = requests.id_texts(ask.users, "users"), requests.id_texts(ask.items, "items")
        queries = [requests.check_query(query) or "" for query in ask.queries]
        engine, rid = service.running.engine, request_id(request)

        def encoded() -> bytes:
            found = embed(engine, users, items, queries)
            head = {"request_id": rid, "base": engine.artifact.sha256}
            return orjson.dumps({**head, **found}, option=orjson.OPT_SERIALIZE_NUMPY)

        return answer(await asyncio.to_thread(encoded), rid)

    listed = openapi.describe(answer=[ItemsAnswer], errors=(401, 413, 422, 503))
    ids = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MOST_ITEMS}
    parameters = [{"name": "ids", "in": "query", "required": True, "schema": ids, "explode": True}]

    @routes.get("/v1/items", summary="Fields of items", openapi_extra={**listed, "parameters": parameters})
    async def items(request: Request) -> Response:
        """The catalogue's fields of the items named by `ids` (repeat the parameter); unknown ones are left out."""
        names = request.query_params.getlist("ids")
        if not names:
            raise InvalidRequest("ids is missing", field="ids", hint="/v1/items?ids=A&ids=B")
        if len(names) > MOST_ITEMS:
            raise TooLarge(f"{len(names)} items, the limit is {MOST_ITEMS}", field="ids", value=len(names))
        checked = requests.id_texts(names, "ids")
        engine = service.running.engine
        with engine.lock:
            rows: list[int] = np.asarray(engine.catalogue.rows(checked)).tolist()
            shown = [
                {
                    "id": name,
                    "fields": engine.catalogue.fields(row),
                    "available": bool(engine.catalogue.available[row] and not engine.catalogue.deleted[row]),
                }
                for name, row in zip(checked, rows, strict=True)
                if row >= 0
            ]
        return json_answer({"request_id": request_id(request), "items": shown}, request_id(request))

    return routes
