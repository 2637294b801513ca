"""Read the claims file beside a suite, and check it against the suite.

``suites/papers/edvit.yaml`` has its claims in ``suites/papers/edvit.claims.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from harness.errors import SuiteError, nearest
from harness.results.claims.claims import RECORDED, Claim, Number, Ordering, Placed, Ratio, Statement
from harness.results.claims.printed import Accepted
from harness.suite.suite import Suite
from harness.suite.validate import validated
from harness.suite.yamlfile import Source, YamlBlock, read_yaml
from harness.train.counting.footprint import STATIC
from harness.types import Params
from harness.types.column_names import column_named, near_columns
from harness.types.fields import NAME

__all__ = ["Claims", "ClaimsFile", "load_claims"]

KINDS: dict[str, type[Claim]] = {"of": Ratio, "value": Number, "better": Ordering, "placed": Placed}
"""The key that determines the kind of a claim. A statement has none of these keys."""


def _measured(value: str) -> str:
    """Return the measured column that a heading names.

    Raises:
        ValueError: it is no column, or a count, whose tolerance each claim states for itself.
    """
    name = column_named(value) or value
    if name in STATIC:
        raise ValueError(f"{name} is a count: give each claim its own tolerance: and because:")
    if name not in RECORDED:
        raise ValueError(f"no column {value!r}; {near_columns(value, RECORDED)}")
    return name


_Names = Annotated[str, Field(pattern=NAME, max_length=80)]


class ClaimsFile(Params):
    """The keys of a claims file. Each claim is checked by itself, by the kind that its keys say."""

    paper: str | None = Field(None, min_length=1, description="the paper")
    scale: str | None = Field(
        None,
        min_length=1,
        max_length=40,
        description="the data on which the orderings are tried, if not the paper's",
    )
    claims_of: _Names | None = Field(
        None, description="another suite in this folder, whose claims are judged here too"
    )
    tolerances: Mapping[Annotated[str, AfterValidator(_measured)], Accepted] = Field(
        {}, description="by measured quantity: accepted difference of the numbers that give none"
    )
    fitted: Mapping[str, Annotated[str, Field(min_length=1)]] = Field(
        {}, description="by method: what was chosen in our configuration so that the paper's counts are met"
    )
    claims: Mapping[_Names, Any] = Field({}, description="the claims by name")

    @model_validator(mode="after")
    def _some(self) -> ClaimsFile:
        if not self.claims and self.claims_of is None:
            raise ValueError("claims: missing; write the claims, or claims_of:, the suite that has them")
        if self.paper is None and self.claims_of is None:
            raise ValueError("paper: missing")
        return self


@dataclass(frozen=True)
class Claims:
    """The claims of a file, checked against its suite: ``claims`` by name, in the order of the file.

    ``scale`` names the data on which the orderings are tried; it is empty for the paper's own data. ``absent`` has a
    reason for each claim of another suite's file that is about a method or fleet which this suite does not have.
    """

    paper: str
    claims: Mapping[str, Claim]
    sources: Mapping[str, Source]
    scale: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)

    def where(self, name: str, *keys: str) -> str:
        """Return the place of a claim, or of a key of it."""
        return self.sources[name].where("claims", name, *keys)


def load_claims(path: Path, suite: Suite) -> Claims:
    """Read the claims file beside the suite at ``path``.

    Raises:
        SuiteError: there is no such file, or a claim is wrong. The message has file:line and what is allowed.
    """
    beside = path.with_suffix(".claims.yaml")
    if not beside.is_file():
        raise SuiteError(f"{path}: has no claims: there is no {beside.name} beside it")
    file, source = _read(beside)
    for method in file.fitted:
        if method not in suite.methods:
            where, allowed = source.where("fitted", method), nearest(method, suite.methods)
            raise SuiteError(f"{where}: no method {method!r} in the suite; {allowed}")
    files = [(file, source)]
    if file.claims_of is not None:
        files.insert(0, _shared(file.claims_of, path, source))
    claims: dict[str, Claim] = {}
    sources: dict[str, Source] = {}
    absent: dict[str, str] = {}
    for content, place in files:
        for name, claim in _claims(content, place).items():
            claims[name], sources[name] = claim, place
            absent.pop(name, None)
            problem = _unknown(name, claim, suite, place)
            if problem is not None and content is file:
                raise SuiteError(problem[0])
            if problem is not None:
                absent[name] = problem[1]
    paper = next(content.paper for content, _ in reversed(files) if content.paper is not None)
    result = Claims(paper, claims, sources, file.scale or "", absent)
    _check_same(result)
    return result


def _read(path: Path) -> tuple[ClaimsFile, Source]:
    tree, source = read_yaml(path)
    return validated(ClaimsFile, tree, source, ()), source


def _shared(name: str, path: Path, source: Source) -> tuple[ClaimsFile, Source]:
    """Return the claims file of the suite ``name`` beside the suite at ``path``."""
    other = path.with_name(f"{name}.claims.yaml")
    known = [file.name.removesuffix(".claims.yaml") for file in path.parent.glob("*.claims.yaml")]
    if name == path.stem or not other.is_file():
        allowed = nearest(name, [each for each in known if each != path.stem])
        raise SuiteError(
            f"{source.where('claims_of')}: no other suite {name!r} with claims beside it; {allowed}"
        )
    file, other_source = _read(other)
    if file.claims_of is not None:
        raise SuiteError(
            f"{source.where('claims_of')}: {other.name} has its claims from {file.claims_of}; name that"
        )
    return file, other_source


def _claims(file: ClaimsFile, source: Source) -> dict[str, Claim]:
    return {name: _claim(name, content, file, source) for name, content in file.claims.items()}


def _claim(name: str, content: Any, file: ClaimsFile, source: Source) -> Claim:
    kind: type[Claim] = Statement
    if isinstance(content, Mapping):
        kind = next((kind for key, kind in KINDS.items() if key in content), _likely(content))
        written = source.numbers.get(("claims", name, "value"))  # a float has lost its trailing zeros
        if written is not None and "value" in content:
            content = {**content, "value": written}
    claim = validated(kind, content, source, ("claims", name))
    if not isinstance(claim, Number | Ratio):
        return claim
    changes: dict[str, object] = {}
    usual = file.tolerances.get(claim.quantity)
    if isinstance(claim, Number) and usual is not None and claim.tolerance is None:
        changes |= {"tolerance": usual.tolerance, "because": usual.because}
    methods = [claim.method] if isinstance(claim, Number) else [*claim.of, *claim.to]
    reasons = dict.fromkeys(file.fitted[method] for method in methods if method in file.fitted)
    if reasons and claim.quantity in STATIC and claim.fitted is None:
        changes["fitted"] = "; ".join(reasons)
    return claim.model_copy(update=changes)


def _likely(content: YamlBlock) -> type[Claim]:
    """Return the most likely kind of a claim without the key that determines the kind.

    It is chosen by another key. The error message can then name the missing key.
    """
    telling: dict[str, type[Claim]] = {"to": Ratio, "quantity": Number, "than": Ordering, "fleet": Placed}
    return next((kind for key, kind in telling.items() if key in content), Statement)


def _unknown(name: str, claim: Claim, suite: Suite, source: Source) -> tuple[str, str] | None:
    """Return the first method or fleet of a claim that is not in the suite, as an error and as a reason; or None."""
    for key in ("method", "better", "than", "of", "to"):
        value = getattr(claim, key, None)
        for method in (value,) if isinstance(value, str) else value or ():
            if method not in suite.methods:
                where, allowed = source.where("claims", name, key), nearest(method, suite.methods)
                return (
                    f"{where}: no method {method!r} in the suite; {allowed}",
                    f"{suite.suite} has no {method}",
                )
    if isinstance(claim, Placed):
        fleets = [known for known, device in suite.devices.items() if device.fleet is not None]
        if claim.fleet not in fleets:
            where, allowed = source.where("claims", name, "fleet"), nearest(claim.fleet, fleets)
            return (
                f"{where}: no fleet {claim.fleet!r} in the suite; {allowed}",
                f"{suite.suite} has no {claim.fleet}",
            )
    return None


def _check_same(claims: Claims) -> None:
    """Check that each ``same_as`` names a claim that is counted.

    Raises:
        SuiteError: it names no claim, its own claim, a claim that is itself the same as another one, or one of another
            kind or with another figure.
    """
    for name, claim in claims.claims.items():
        if claim.same_as is None:
            continue
        where = claims.where(name, "same_as")
        others = [other for other, each in claims.claims.items() if each.same_as is None and other != name]
        if claim.same_as not in others:
            is_same = claim.same_as in claims.claims and claim.same_as != name
            what = "is itself the same as another one" if is_same else "is no other claim"
            raise SuiteError(f"{where}: {claim.same_as!r} {what}; {nearest(claim.same_as, others)}")
        if problem := _not_the_same(claim, claims.claims[claim.same_as]):
            raise SuiteError(f"{where}: {claim.same_as!r} {problem}")


def _not_the_same(claim: Claim, other: Claim) -> str | None:
    """Return why two claims cannot be about the same printed figure, or None if they can."""
    if type(claim) is not type(other):
        return "is another kind of claim"
    if isinstance(claim, Number | Ratio) and isinstance(other, Number | Ratio):
        ours, theirs = (_in_unit(each) for each in (claim, other))
        if abs(ours[0] - theirs[0]) > (ours[1] + theirs[1]) * (1 + 1e-9):  # 83 and 82.71 are the same figure
            return f"has the figure {other.value}, not {claim.value}"
    return None


def _in_unit(claim: Number | Ratio) -> tuple[float, float]:
    """Return the printed number and half a unit of its last digit, in the unit of the quantity."""
    factor = claim.divisor if isinstance(claim, Number) else 1.0
    return factor * claim.value.value, factor * claim.value.half_unit
