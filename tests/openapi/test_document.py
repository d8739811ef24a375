"""The document is whole and valid, and says what the code says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.openapi.doors import document_of
from tests.sockets.test_tokens import proxy_app
from twisted_kv import errors
from twisted_kv.errors import KvError
from twisted_kv.limits import Limits
from twisted_kv.web.answers import RETRY_AFTER_S, STATUS, status_of_kind
from twisted_kv.web.calls.shared import GROUPS
from twisted_kv.web.openapi.document import METHODS
from twisted_kv.web.openapi.route import written_of
from twisted_kv.web.site import App

OF_NODES = {
    errors.BadConfig,
    errors.NotAMember,
    errors.Damaged,
    errors.DiskBusy,
    errors.DiskFull,
    errors.DiskFailed,
    errors.PeerRefused,
    errors.OtherEpoch,
    errors.PeerUnreachable,
    errors.PeerSilent,
}
"""What a proxy is told by nodes, or its operator by the command, and no client of a proxy by HTTP."""

BY_PATH = {errors.WrongMethod}
"""What belongs to no operation: it is about those that there are not."""

both = pytest.mark.parametrize("tokens", [False, True], ids=["open", "guarded"])


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, item in document["paths"].items():
        for field, operation in item.items():
            yield field.removeprefix("x-").upper(), path, operation


def answers_of(document: Any, operation: Any) -> dict[str, Any]:
    named = document["components"]["responses"]
    return {
        status: named[one["$ref"].rpartition("/")[2]] if "$ref" in one else one
        for status, one in operation["responses"].items()
    }


def slugs_of(answer: Any) -> set[str]:
    content = answer.get("content", {}).get("application/problem+json")
    return set(content["schema"]["allOf"][1]["properties"]["type"]["enum"]) if content else set()


def test_every_route_of_the_router_is_in_the_document_with_its_methods_and_nothing_else_is() -> None:
    routed = {
        (method, re.sub("-$", "", rule.rule)) for rule in proxy_app().url_map.iter_rules() for method in rule.methods
    }

    said = {(method, re.sub(r"\{\w+\}$", "", path)) for method, path, _ in operations(document_of())}

    assert said == routed


def test_a_route_that_nothing_describes_has_no_document() -> None:
    app = App()

    @app.route("/v1/new", methods=["GET"])
    def new(request: Any) -> bytes:
        return b""

    with pytest.raises(AssertionError, match="nothing describes /v1/new"):
        written_of(app, Limits(), tokens=False)


@both
def test_the_document_is_valid(tokens: bool) -> None:
    OpenAPIV31SpecValidator(document_of(tokens=tokens)).validate()


def test_methods_that_openapi_does_not_know_stand_beside_the_others() -> None:
    item = document_of()["paths"]["/GET"]

    assert set(item) == {"get", "post", "head", "x-query"}
    assert "QUERY" not in METHODS
    assert item["x-query"]["requestBody"] == item["post"]["requestBody"]


def test_every_call_has_a_name_of_its_own_a_title_and_a_group() -> None:
    document = document_of()
    names = [operation["operationId"] for _, _, operation in operations(document)]

    assert len(set(names)) == len(names)
    for _, path, operation in operations(document):
        assert operation["summary"], path
        assert set(operation["tags"]) <= set(GROUPS), path
    assert [tag["name"] for tag in document["tags"]] == list(GROUPS)


def test_every_error_that_a_client_may_meet_is_in_the_document() -> None:
    document = document_of()
    guarded = document_of(tokens=True)
    said = {
        slug
        for one in (document, guarded)
        for _, _, operation in operations(one)
        for answer in answers_of(one, operation).values()
        for slug in slugs_of(answer)
    }

    met = {kind.slug for kind in STATUS if kind not in OF_NODES | BY_PATH}

    assert said == met | {"internal-error"}


def test_each_problem_stands_under_the_status_with_which_it_is_answered() -> None:
    kinds: dict[str, type[KvError]] = {kind.slug: kind for kind in STATUS}
    document = document_of(tokens=True)
    for _, path, operation in operations(document):
        original = operation["tags"] == ["The original's calls"]
        for status, answer in answers_of(document, operation).items():
            for slug in slugs_of(answer) - {"internal-error"}:
                assert status == str(status_of_kind(kinds[slug], original)), (path, slug)
            if slugs_of(answer) and int(status) in RETRY_AFTER_S:
                assert "Retry-After" in answer["headers"], (path, status)


@both
def test_tokens_are_asked_for_where_there_are_some(tokens: bool) -> None:
    document = document_of(tokens=tokens)

    assert (document.get("security") == [{"token": []}]) is tokens
    assert ("securitySchemes" in document["components"]) is tokens
    for _, path, operation in operations(document):
        public = path in ("/", "/ui", "/ui/{file}")
        assert ("401" in operation["responses"]) is (tokens and not public), path
        assert ("421" in operation["responses"]) is not tokens, path
        assert (operation.get("security") == []) is (tokens and public), path


def test_bounds_are_those_of_the_limits() -> None:
    limits = Limits(key_bytes_max=7, value_bytes_max=77, zone_chars_max=5, operation_timeout_s_max=3.5, keys_page_max=9)
    document = document_of(limits)
    schemas, paths = document["components"]["schemas"], document["paths"]

    def parameter(path: str, name: str) -> Any:
        return next(one for one in paths[path]["get"]["parameters"] if one["name"] == name)["schema"]

    assert schemas["PutBody"]["properties"]["Key"]["maxLength"] == 7
    assert schemas["PutBody"]["properties"]["Value"]["maxLength"] == 77
    assert schemas["Newcomer"]["properties"]["zone"]["maxLength"] == 5
    assert parameter("/v1/kv/{key}", "key")["maxLength"] == 7
    assert parameter("/v1/kv/{key}", "timeout") == {"type": "number", "exclusiveMinimum": 0, "maximum": 3.5}
    assert parameter("/v1/keys", "limit") == {"type": "integer", "minimum": 1, "maximum": 9}
    assert "x-limit" not in str(document)


def test_a_limit_without_an_end_makes_no_bound() -> None:
    document = document_of(Limits(operation_timeout_s_max=float("inf"), ttl_s_max=float("inf")))
    named = {one["name"]: one["schema"] for one in document["paths"]["/v1/kv/{key}"]["get"]["parameters"]}

    assert named["timeout"] == {"type": "number", "exclusiveMinimum": 0}
    assert "maximum" not in document["components"]["schemas"]["Line"]["properties"]["ttl"]


def test_examples_are_of_the_shape_that_is_asked_for() -> None:
    document = document_of()
    seen = 0
    for _, path, operation in operations(document):
        bodies = operation.get("requestBody", {}).get("content", {}).values()
        for one in (*operation.get("parameters", ()), *bodies):
            if "example" in one and "schema" in one:
                schema = {**one["schema"], "components": document["components"]}
                assert [error.message for error in Draft202012Validator(schema).iter_errors(one["example"])] == [], path
                seen += 1
    assert seen > 20


def test_every_place_in_a_path_has_an_example() -> None:
    for _, path, operation in operations(document_of()):
        for one in operation.get("parameters", ()):
            assert one["in"] != "path" or one.get("example"), path
