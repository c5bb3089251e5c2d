"""What may be asked: the parameters of each route, checked at the door."""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.datastructures import QueryParams

from deploy.dashboard.views.curves import MOST_NAMES, MOST_POINTS
from deploy.dashboard.views.runs import KINDS, MOST_EVENTS
from deploy.dashboard.views.samples import Filter

Text = Annotated[str, Field(max_length=1000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class BadQuestion(Exception):
    """A parameter that breaks its rule; the message is for people."""


class OfRun(BaseModel):
    """Any route: which run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Text | None = None


class OfPrompt(OfRun):
    """Rewards, before and after."""

    prompt: Text | None = None


class OfPosterior(OfPrompt):
    """The posterior page."""

    steps: int = Field(default=20, ge=1, le=10_000)


class OfCurves(OfRun):
    """Curves; names come beside, since they may be many."""

    x: Literal["step", "time"] = "step"
    begin: Finite | None = Field(default=None, alias="from")
    end: Finite | None = Field(default=None, alias="to")
    after: Finite | None = None
    points: int = Field(default=MOST_POINTS, ge=3, le=MOST_POINTS)


class OfSamples(OfRun):
    """Which samples, in which order."""

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
    sort: Literal["newest", "oldest", "reward", "-reward", "log_q", "-log_q"] = "newest"
    limit: int = Field(default=50, ge=1, le=200)
    page: int = Field(default=0, ge=0, le=10**6)

    @property
    def filter(self) -> Filter:
        """Without order and paging."""
        return Filter(**self.model_dump(exclude={"run", "sort", "limit", "page"}))


class OfEvents(OfRun):
    """Which events."""

    kind: Text = ""
    before: Count | None = None
    limit: int = Field(default=100, ge=1, le=MOST_EVENTS)

    @property
    def kinds(self) -> list[str]:
        """Those asked for; none is all."""
        return [name for name in self.kind.split(",") if name]

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := [name for name in self.kinds if name not in KINDS]:
            raise ValueError(f"kind = {unknown[0]!r} is none of {', '.join(KINDS)}")
        return self


class OfComparison(BaseModel):
    """Which runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: Text

    @property
    def ids(self) -> list[str]:
        """Different ones, in the order given."""
        return list(dict.fromkeys(name for name in self.runs.split(",") if name))

    @model_validator(mode="after")
    def _several(self) -> Self:
        if not 2 <= len(self.ids) <= 8:
            raise ValueError(f"runs names {len(self.ids)} runs and 2 to 8 can be compared: runs=A,B")
        return self


class Login(BaseModel):
    """What the page posts."""

    model_config = ConfigDict(strict=True, extra="forbid")

    token: Text


Params = TypeVar("Params", bound=BaseModel)


def parse(kind: type[Params], params: QueryParams, beside: frozenset[str] = frozenset()) -> Params:
    """The parameters as `kind`, those named in `beside` left out. Raise BadQuestion."""
    keys = [key for key in params.keys() if key not in beside]  # noqa: SIM118 - it is no dict
    if twice := [key for key in keys if len(params.getlist(key)) > 1]:
        raise BadQuestion(f"{twice[0]} is given more than once; give it once")
    try:
        return kind.model_validate_strings({key: params[key] for key in keys})
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            known = ", ".join(field.alias or name for name, field in kind.model_fields.items())
            raise BadQuestion(f"there is no parameter {first['loc'][-1]!r} here; known are: {known}") from None
        where = f"{first['loc'][-1]}: " if first["loc"] else ""
        raise BadQuestion(f"{where}{first['msg'].removeprefix('Value error, ')}; see docs/dashboard-api.md") from None


def curve_names(params: QueryParams) -> list[str]:
    """Of `names=A,B` and any number of `name=C`, for names with a comma in them. Raise BadQuestion."""
    listed = [name for value in params.getlist("names") for name in value.split(",")]
    names = list(dict.fromkeys(name for name in [*listed, *params.getlist("name")] if name))
    if not names or len(names) > MOST_NAMES:
        raise BadQuestion(f"{len(names)} curves are named and 1 to {MOST_NAMES} may be; use names=A,B")
    if long := [name for name in names if len(name) > 300]:
        raise BadQuestion(f"{long[0][:40]}... is no curve; /api/catalog lists them")
    return names
