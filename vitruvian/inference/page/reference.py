"""The description of all routes as a page: HTML without scripts of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from vitruvian.inference.page import page_files

_MARK = b"<!-- routes -->"


def reference(document: dict[str, Any]) -> bytes:
    """Return the page for an OpenAPI document."""
    return page_files()["docs.html"].content.replace(_MARK, "\n".join(_page(document)).encode())


def _page(document: dict[str, Any]) -> Iterator[str]:
    yield f"<h1>{escape(document['info']['title'])}</h1>"
    yield f'<p class="lead">{escape(document["info"]["description"])}</p>'
    for tag in document["tags"]:
        routes = [
            (method, path, item[method] | {"parameters": _parameters(item, method)})
            for path, item in document["paths"].items()
            for method in ("get", "post")
            if tag["name"] in item.get(method, {}).get("tags", ())
        ]
        if routes:
            yield f"<h2>{escape(tag['name'])}</h2>"
            yield from (_route(*route) for route in routes)
    yield "<h2>Shapes</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield (
            f'<details class="route" id="{escape(name)}"><summary><b>{escape(name)}</b></summary>'
            f'<div class="inner">{_example(schema)}</div></details>'
        )


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f'<details class="route"><summary><span class="method {method}">{method.upper()}</span> '
        f"<code>{escape(path)}</code> <span>{escape(operation['summary'])}</span></summary>",
        '<div class="inner">',
    ]
    if operation["parameters"]:
        rows = "".join(_parameter(parameter) for parameter in operation["parameters"])
        parts.append(f"<h3>Path and headers</h3><table><tbody>{rows}</tbody></table>")
    if "requestBody" in operation:
        parts.append("<h3>Takes</h3>")
        parts += [_content(kind, media) for kind, media in operation["requestBody"]["content"].items()]
    parts.append("<h3>Answers</h3>")
    parts += [_content(kind, media) for kind, media in operation["responses"]["200"]["content"].items()]
    others = ", ".join(status for status in operation["responses"] if status != "200")
    parts.append(f"<p>Or {_link('Problem')} with status {escape(others)}.</p></div></details>")
    return "".join(parts)


def _parameters(item: dict[str, Any], method: str) -> list[dict[str, Any]]:
    return [*item.get("parameters", ()), *item[method].get("parameters", ())]


def _parameter(parameter: dict[str, Any]) -> str:
    said = parameter.get("description", "")
    values = ", ".join(parameter["schema"].get("enum", ()))
    return (
        f"<tr><th scope=row><code>{escape(parameter['name'])}</code></th><td>{escape(parameter['in'])}</td>"
        f"<td>{escape(said)}{escape(f' ({values})' if values else '')}</td></tr>"
    )


def _content(kind: str, media: dict[str, Any]) -> str:
    return f"<p><code>{escape(kind)}</code></p>{_example(media['schema'])}"


def _example(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return f"<p>{_link(schema['$ref'].rpartition('/')[2])}</p>"
    if schema in ({"type": "object"}, {"type": "string"}) or schema.get("format") == "binary":
        return ""
    return f"<pre tabindex=0>{escape(json.dumps(_shape(schema), indent=1, ensure_ascii=False))}</pre>"


def _shape(schema: dict[str, Any]) -> Any:
    """Return a schema as something that looks like what it describes."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "oneOf" in schema:
        return _shape(schema["oneOf"][0])
    if "enum" in schema:
        return " | ".join(schema["enum"][:6]) + (" | …" if len(schema["enum"]) > 6 else "")
    if "properties" in schema:
        return {name: _shape(inner) for name, inner in schema["properties"].items()}
    if schema.get("type") == "array":
        return [_shape(schema["items"])] if "items" in schema else []
    return schema.get("description") or schema.get("type", "any")


def _link(name: str) -> str:
    return f'a <a href="#{escape(name)}">{escape(name)}</a>'
