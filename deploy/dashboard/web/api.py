"""Routes under /api/: each parses its parameters, calls a view and returns JSON (docs/dashboard-api.md)."""

import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from deploy.artifacts.json_files import plain
from deploy.artifacts.summary import installed_versions
from deploy.dashboard.data.pattern_search import PatternTooSlow
from deploy.dashboard.data.run_index import Runs
from deploy.dashboard.data.run_reader import HistoryUnreadable, RunReader
from deploy.dashboard.views.actors import actor_view
from deploy.dashboard.views.buffer import buffer_view
from deploy.dashboard.views.curves import CurveQuery, catalog, csv_lines, curves
from deploy.dashboard.views.overview import limits, overview
from deploy.dashboard.views.posterior import posterior_view
from deploy.dashboard.views.result import result_plot
from deploy.dashboard.views.rewards import reward_view
from deploy.dashboard.views.runs import compare, events, runs_view
from deploy.dashboard.views.samples import before_after, one_sample, prompts, sample_lines, samples
from deploy.dashboard.views.status import state_of
from deploy.dashboard.web.event_stream import stream
from deploy.dashboard.web.params import (
    BadParams,
    CompareParams,
    CurveParams,
    EventParams,
    LoginBody,
    PosteriorParams,
    PromptParams,
    RunParams,
    SampleParams,
    SavedSampleParams,
    curve_names,
    parse,
)
from deploy.dashboard.web.security import Access

MAX_STREAMS = 32
MAX_LOGIN_BYTES = 1024
SESSION_S = 30 * 24 * 3600
NAME_KEYS = frozenset({"names", "name"})


class Json(Response):
    """A JSON response in ASCII, so that any string of a model can be sent; non-finite numbers become null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the body."""
        try:
            return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        except (ValueError, TypeError):
            return json.dumps(plain(content), allow_nan=False, separators=(",", ":")).encode()


class _CountedStream(StreamingResponse):
    """An event stream that calls `end` once it is over, also where the client left before its first byte."""

    def __init__(self, texts: AsyncIterator[str], end: Callable[[], None]) -> None:
        super().__init__(texts, media_type="text/event-stream")
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()


class Api:
    """Request handlers of one dashboard."""

    def __init__(self, runs: Runs, access: Access, stopping: threading.Event) -> None:
        self._runs = runs
        self._access = access
        self._stopping = stopping
        self._streams = 0

    def routes(self) -> list[Route]:
        """All routes; every one except login and logout is a GET."""
        handlers: Mapping[str, Callable[[Request], Any]] = {
            "runs": self._all_runs,
            "overview": self._overview,
            "catalog": lambda request: catalog(self._run(request, parse(RunParams, request.query_params).run)),
            "curves": self._curves,
            "buffer": self._buffer,
            "rewards": self._rewards,
            "posterior": self._posterior,
            "actors": self._actors,
            "prompts": lambda request: prompts(self._run(request, parse(RunParams, request.query_params).run)),
            "samples": self._samples,
            "samples/{number:int}": self._sample,
            "before-after": self._before_after,
            "events": self._events,
            "compare": self._compare,
        }
        plain_routes = [
            Route(f"/api/{path}", partial(self._respond, handler), methods=["GET"])
            for path, handler in handlers.items()
        ]
        return [
            *plain_routes,
            Route("/api/curves.csv", self._csv, methods=["GET"]),
            Route("/api/samples.jsonl", self._sample_lines, methods=["GET"]),
            Route("/api/result.png", self._picture, methods=["GET"]),
            Route("/api/stream", self._stream, methods=["GET"]),
            Route("/api/login", self._login, methods=["POST"]),
            Route("/api/logout", self._logout, methods=["POST"]),
        ]

    async def _respond(self, handler: Callable[[Request], Any], request: Request) -> Response:
        """Call the handler in a thread: reading takes time, and the streams must not stop meanwhile."""
        return Json(await run_in_threadpool(self._call, handler, request))

    def _call(self, handler: Callable[[Request], Any], request: Request) -> Any:
        try:
            return handler(request)
        except (BadParams, PatternTooSlow) as error:
            raise HTTPException(400, str(error)) from error
        except HistoryUnreadable as error:
            raise HTTPException(503, str(error)) from error

    def _run(self, request: Request, run_id: str | None) -> RunReader:
        run = self._runs.get(run_id)
        if run is None:
            raise HTTPException(404, f"run {run_id!r} does not exist; /api/runs lists the runs")
        return run

    def _all_runs(self, request: Request) -> Any:
        parse(RunParams, request.query_params)
        return runs_view(self._runs.look(), self._access.token is not None, installed_versions().get("tributary", ""))

    def _overview(self, request: Request) -> Any:
        return overview(self._run(request, parse(RunParams, request.query_params).run))

    def _curves(self, request: Request) -> Any:
        params = parse(CurveParams, request.query_params, NAME_KEYS)
        names = curve_names(request.query_params)
        query = CurveQuery(names, params.x, params.begin, params.end, params.after, params.points)
        return curves(self._run(request, params.run), query)

    def _buffer(self, request: Request) -> Any:
        run = self._run(request, parse(RunParams, request.query_params).run)
        return buffer_view(run, limits(run))

    def _rewards(self, request: Request) -> Any:
        params = parse(PromptParams, request.query_params)
        return reward_view(self._run(request, params.run), params.prompt)

    def _posterior(self, request: Request) -> Any:
        params = parse(PosteriorParams, request.query_params)
        run = self._run(request, params.run)
        return posterior_view(run, params.prompt, params.steps, limits(run).get("log_z_exact"))

    def _actors(self, request: Request) -> Any:
        run = self._run(request, parse(RunParams, request.query_params).run)
        now = time.time()
        return actor_view(run, state_of(run, now)[0], now)

    def _samples(self, request: Request) -> Any:
        params = parse(SampleParams, request.query_params)
        return samples(self._run(request, params.run), params.filter, params.sort, params.limit, params.page)

    def _sample(self, request: Request) -> Any:
        params = parse(RunParams, request.query_params)
        number = request.path_params["number"]
        sample = one_sample(self._run(request, params.run), min(number, 2**62))
        if sample is None:
            raise HTTPException(404, f"sample {number} does not exist, or was removed when old ones were thinned out")
        return sample

    def _before_after(self, request: Request) -> Any:
        params = parse(PromptParams, request.query_params)
        if params.prompt is None:
            raise HTTPException(400, "prompt=ID is missing; /api/prompts lists the ids")
        return before_after(self._run(request, params.run), params.prompt)

    def _events(self, request: Request) -> Any:
        params = parse(EventParams, request.query_params)
        return events(self._run(request, params.run), params.kinds, params.before, params.limit)

    def _compare(self, request: Request) -> Any:
        return compare([self._run(request, name) for name in parse(CompareParams, request.query_params).ids])

    async def _csv(self, request: Request) -> Response:
        def run_and_names(request: Request) -> tuple[RunReader, list[str]]:
            params = parse(RunParams, request.query_params, NAME_KEYS)
            return self._run(request, params.run), curve_names(request.query_params)

        run, names = await run_in_threadpool(self._call, run_and_names, request)
        headers = {"content-disposition": 'attachment; filename="curves.csv"'}
        return StreamingResponse(csv_lines(run, names), media_type="text/csv; charset=utf-8", headers=headers)

    async def _sample_lines(self, request: Request) -> Response:
        def lines(request: Request) -> str:
            params = parse(SavedSampleParams, request.query_params)
            return "".join(sample_lines(self._run(request, params.run), params.filter, params.sort))

        headers = {"content-disposition": 'attachment; filename="samples.jsonl"'}
        content = await run_in_threadpool(self._call, lines, request)
        return Response(content, media_type="application/jsonl; charset=utf-8", headers=headers)

    async def _picture(self, request: Request) -> Response:
        """The plot that the result names: a file of the run's folder."""

        def read(request: Request) -> bytes:
            run = self._run(request, parse(RunParams, request.query_params).run)
            plot = result_plot(run)
            if plot is None:
                raise HTTPException(404, "the run has no plot of its result")
            return plot[1]

        return Response(await run_in_threadpool(self._call, read, request), media_type="image/png")

    async def _stream(self, request: Request) -> Response:
        if self._streams >= MAX_STREAMS:
            raise HTTPException(503, f"{MAX_STREAMS} pages are open, which is the limit: close one")
        self._streams += 1  # before the first await, so that no two requests take the same place
        try:
            params = await run_in_threadpool(self._call, lambda r: parse(RunParams, r.query_params), request)
            run = await run_in_threadpool(self._call, lambda r: self._run(r, params.run), request)
            texts = stream(run, request.headers.get("last-event-id"), self._stopping)
            return _CountedStream(texts, self._end_stream)
        except BaseException:
            self._end_stream()
            raise

    def _end_stream(self) -> None:
        self._streams -= 1

    async def _login(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_LOGIN_BYTES:
                raise HTTPException(400, f"the body is longer than {MAX_LOGIN_BYTES} bytes")
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(400, 'send {"token": "..."} as application/json')
        try:
            token = LoginBody.model_validate_json(body).token
        except ValidationError as error:
            raise HTTPException(400, 'send {"token": "..."} without other fields') from error
        if self._access.token is not None and not self._access.is_token(token):
            raise HTTPException(401, "the token is wrong. The server printed the right one when it started.")
        answer = Response(status_code=204)
        answer.set_cookie(
            self._access.cookie, self._access.session, SESSION_S, path="/", httponly=True, samesite="strict"
        )
        return answer

    async def _logout(self, request: Request) -> Response:
        answer = Response(status_code=204)
        answer.delete_cookie(self._access.cookie, path="/", httponly=True, samesite="strict")
        return answer
