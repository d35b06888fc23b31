"""The OpenAPI document against reality: every operation is asked, and answers as it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from holdfast.messages import Gap, Inbound
from holdfast.web.openapi import Mistake, document
from holdfast.web.routes import Operation
from holdfast.web.server import table
from tests.web.http import Site, flock, serving

OPERATIONS = {told.name: told for told in table()}

BODIES: dict[str, Any] = {
    "send": {"chat": "den", "text": "hello", "anyway": True},
    "retry": {"names": ["in-1", "in-999"]},
    "drop": {"names": ["in-1", "in-999"]},
}


REFUSED = {"test_alerts": 422}
"""Nobody is told of these parrots."""

RELOADED = """
[gateway]
state_dir = "."
[accounts.dumb]
platform = "telegram"
token = "1:x"
base_url = "http://127.0.0.1:1"
"""


async def furnish(site: Site) -> None:
    """Something of everything that can be asked for."""
    store = site.gateway.store
    await store.receive("polly", [Inbound(id="1", chat="den", sender="ann", text="hi")], None)
    await store.add_gap("polly", Gap(since=1.0, until=2.0, reason="deaf"))
    site.gateway.kick("jack")
    account = site.gateway.desk("jack").account
    await account.until(lambda view: view.generation == 2 and view.published == "connected")


def path_of(told: Operation) -> str:
    """The path with names that are there."""
    names = {"name": "polly", "message": "in-1", "number": "1"}
    return re.sub(r"\{(\w+)\}", lambda found: names[found[1]], told.path)


def check(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> None:
    """Raise when a document is not as its schema says."""
    rooted = {**schema, "components": whole["components"]}
    Draft202012Validator.check_schema(rooted)
    Draft202012Validator(rooted).validate(value)


@pytest.mark.parametrize("name", [one.name for one in table() if not one.local])
async def test_every_operation_answers_as_documented(tmp_path: Path, name: str) -> None:
    async with serving(flock(tmp_path)) as site:
        await furnish(site)
        whole = (await site.ask("/api/v1/openapi.json"))[1]
        told = OPERATIONS[name]
        entry = whole["paths"][told.path][told.method.lower()]
        assert entry["operationId"] == name
        (tmp_path / "holdfast.toml").write_text(RELOADED)
        async with site.session.request(
            told.method, site.url + path_of(told), json=BODIES.get(name)
        ) as answer:
            if name == "events":
                assert answer.content_type == told.mime
                lines = [(await answer.content.readline()).decode() for _ in range(5)]
                (data,) = [line[6:] for line in lines if line.startswith("data: ")]
                body = msgspec.json.decode(data)
            else:
                body = await answer.json()
            good = name not in REFUSED
            assert answer.status == (200 if good else REFUSED[name]), body
            answers = entry["responses"]["200" if good else "default"]
            ((mime, content),) = answers["content"].items()
            assert answer.content_type == mime
        check(body, content["schema"], whole)
        msgspec.convert(body, told.answer if good else Mistake)
        if told.body is not None:
            ((_, sent),) = entry["requestBody"]["content"].items()
            check(BODIES[name], sent["schema"], whole)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/accounts/poly"), ("GET", "/uptime"), ("POST", "/status"), ("GET", "/gaps?limit=x")],
)
async def test_mistakes_are_told_as_documented(tmp_path: Path, method: str, path: str) -> None:
    async with serving(flock(tmp_path)) as site:
        whole = (await site.ask("/api/v1/openapi.json"))[1]
        entry = whole["paths"]["/api/v1/status"]["get"]["responses"]["default"]
        status, body = await site.ask("/api/v1" + path, method)
        assert status in (400, 404, 405)
        check(body, entry["content"]["application/json"]["schema"], whole)


async def test_every_route_is_in_the_document_and_every_parameter_is_taken(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        whole = (await site.ask("/api/v1/openapi.json"))[1]
        served = {
            (route.method.lower(), route.resource.canonical)
            for route in site.server.routes
            if route.resource is not None and route.resource.canonical.startswith("/api/v1/")
        }
        told = {(method, path) for path, entry in whole["paths"].items() for method in entry}
        apart = {("get", "/api/v1/openapi.json"), ("head", "/api/v1/openapi.json")}
        assert served - apart == told
        for path, entry in whole["paths"].items():
            for one in entry.values():
                names = [p["name"] for p in one["parameters"] if p["in"] == "path"]
                assert names == re.findall(r"\{(\w+)\}", path)


def test_names_are_unique_and_what_writes_files_is_not_served() -> None:
    assert len(OPERATIONS) == len(table())
    assert [one.name for one in table() if one.local] == ["backup"]


async def test_a_local_operation_is_not_there(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        status, _ = await site.ask("/api/v1/backup", "POST", json={"path": "/tmp/x"})
        assert status == 404


@pytest.mark.parametrize(
    ("url", "cookie"), [(None, "holdfast"), ("https://bots.example.org", "__Host-holdfast")]
)
async def test_the_cookie_is_named_as_it_is_set(
    tmp_path: Path, url: str | None, cookie: str
) -> None:
    async with serving(flock(tmp_path, url=url)) as site:
        whole = (await site.ask("/api/v1/openapi.json"))[1]
        assert whole["components"]["securitySchemes"]["session"]["name"] == cookie


def test_the_document_holds_together() -> None:
    whole = document(table(), "holdfast")
    assert whole["openapi"] == "3.1.0"
    for schema in whole["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    text = msgspec.json.encode(whole).decode()
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert name in whole["components"]["schemas"]


async def test_the_page_names_every_operation_and_no_other_host(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        async with site.session.get(site.url + "/api/") as answer:
            page = await answer.text()
        for told in table():
            assert (f"<code>{told.path}</code>" in page) == (not told.local)
        assert not re.findall(r"(?:src|href)=\"(?!/)", page)
        assert "<script" not in page
        assert " style=" not in page
