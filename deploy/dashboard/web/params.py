"""Query parameters of each route, validated before a view sees them."""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.datastructures import QueryParams

from deploy.dashboard.data.pattern_search import compiled
from deploy.dashboard.views.curves import MAX_NAMES, MAX_POINTS, Axis
from deploy.dashboard.views.runs import KINDS, MAX_EVENTS
from deploy.dashboard.views.samples import Filter

MAX_NAME_LENGTH = 300
Text = Annotated[str, Field(max_length=1000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class BadParams(Exception):
    """An invalid parameter; the message is for the user."""


class RunParams(BaseModel):
    """The run, common to all routes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Text | None = None


class PromptParams(RunParams):
    """`/api/rewards` and `/api/before-after`."""

    prompt: Text | None = None


class PosteriorParams(PromptParams):
    """`/api/posterior`."""

    steps: int = Field(default=20, ge=1, le=10_000)


class CurveParams(RunParams):
    """`/api/curves`, without the names, which `curve_names` reads."""

    x: Axis = "step"
    begin: Finite | None = Field(default=None, alias="from")
    end: Finite | None = Field(default=None, alias="to")
    after: Finite | None = None
    points: int = Field(default=MAX_POINTS, ge=3, le=MAX_POINTS)


class SavedSampleParams(RunParams):
    """`/api/samples.jsonl`: filter and order."""

    prompt: Text | None = None
    behaviour: Text | None = None
    phase: Literal["train", "before", "after"] = "train"
    fresh: bool | None = None
    reward_from: Finite | None = None
    reward_to: Finite | None = None
    step_from: Count | None = None
    step_to: Count | None = None
    version_from: Count | None = None
    version_to: Count | None = None
    text: Text | None = None
    pattern: Annotated[str, Field(max_length=MAX_NAME_LENGTH)] | None = None
    sort: Literal["newest", "oldest", "prompt", "reward", "-reward", "log_q", "-log_q"] = "newest"

    @property
    def filter(self) -> Filter:
        """The filter, without order and page."""
        return Filter(**self.model_dump(exclude={"run", "sort", "limit", "page"}))

    @model_validator(mode="after")
    def _check_pattern(self) -> Self:
        if self.pattern:
            compiled(self.pattern)
        return self


class SampleParams(SavedSampleParams):
    """`/api/samples`: filter, order and page."""

    limit: int = Field(default=50, ge=1, le=200)
    page: int = Field(default=0, ge=0, le=10**6)


class EventParams(RunParams):
    """`/api/events`."""

    kind: Text = ""
    before: Count | None = None
    limit: int = Field(default=100, ge=1, le=MAX_EVENTS)

    @property
    def kinds(self) -> list[str]:
        """The kinds to return; an empty list means all kinds."""
        return [name for name in self.kind.split(",") if name]

    @model_validator(mode="after")
    def _check_kinds(self) -> Self:
        if unknown := [name for name in self.kinds if name not in KINDS]:
            raise ValueError(f"kind = {unknown[0]!r} is unknown; use one of {', '.join(KINDS)}")
        return self


class CompareParams(BaseModel):
    """`/api/compare`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: Text

    @property
    def ids(self) -> list[str]:
        """Distinct run ids, in the order given."""
        return list(dict.fromkeys(name for name in self.runs.split(",") if name))

    @model_validator(mode="after")
    def _check_count(self) -> Self:
        if not 2 <= len(self.ids) <= 8:
            raise ValueError(f"runs names {len(self.ids)} runs and 2 to 8 can be compared: runs=A,B")
        return self


class LoginBody(BaseModel):
    """The JSON body of `/api/login`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    token: Text


Params = TypeVar("Params", bound=BaseModel)


def parse(kind: type[Params], query: QueryParams, ignored: frozenset[str] = frozenset()) -> Params:
    """The query as `kind`, without the keys in `ignored`. Raise BadParams."""
    keys = [key for key in query.keys() if key not in ignored]  # noqa: SIM118 - QueryParams is not a dict
    if repeated := [key for key in keys if len(query.getlist(key)) > 1]:
        raise BadParams(f"{repeated[0]} is given more than once; give it once")
    try:
        return kind.model_validate_strings({key: query[key] for key in keys})
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            allowed = ", ".join(field.alias or name for name, field in kind.model_fields.items())
            raise BadParams(f"{first['loc'][-1]!r} is not a parameter of this route; use: {allowed}") from None
        where = f"{first['loc'][-1]}: " if first["loc"] else ""
        raise BadParams(f"{where}{first['msg'].removeprefix('Value error, ')}; see docs/dashboard-api.md") from None


def curve_names(query: QueryParams) -> list[str]:
    """Curve names of `names=A,B` and of each `name=C` (for names that contain a comma). Raise BadParams."""
    listed = [name for value in query.getlist("names") for name in value.split(",")]
    names = list(dict.fromkeys(name for name in [*listed, *query.getlist("name")] if name))
    if not names or len(names) > MAX_NAMES:
        raise BadParams(f"{len(names)} curves are named and 1 to {MAX_NAMES} are allowed; use names=A,B")
    if long := [name for name in names if len(name) > MAX_NAME_LENGTH]:
        raise BadParams(f"{long[0][:40]}... is not a curve name; /api/catalog lists them")
    return names
