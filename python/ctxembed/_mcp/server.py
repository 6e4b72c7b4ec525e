"""The tools over the Model Context Protocol, on stdin and stdout. Needs the package ``mcp``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool, ToolAnnotations
from pydantic import BaseModel, ValidationError

from ctxembed import _core
from ctxembed._errors import CtxembedError
from ctxembed._mcp.arguments import DocumentArguments, SearchArguments
from ctxembed._mcp.results import DocumentResult, SearchResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcp_types import CallToolRequestParams

    from ctxembed._mcp.tools import CollectionTools

__all__ = ["create_server", "serve"]

_SEARCH: Final = (
    "Find passages of documents by meaning. Returns the chunks nearest to the question, best first, each with its "
    "text, its score, the id of its document and its number there. Ask in full words; ask again in other words where "
    "the results do not fit. get_document reads on around a result."
)
_GET_DOCUMENT: Final = (
    "Read a document by its id, some chunks at a time. To read around a result of search, begin a few chunks before "
    "its number. `next` is the `first` of the call that goes on."
)


def create_server(tools: CollectionTools, name: str) -> Server[Any]:
    """Create the server of a collection's tools."""
    calls: dict[str, tuple[type[BaseModel], Callable[[Any], tuple[str, BaseModel]]]] = {
        "search": (SearchArguments, tools.search),
        "get_document": (DocumentArguments, tools.get_document),
    }

    async def list_tools(_: Any, __: Any) -> ListToolsResult:
        what = await anyio.to_thread.run_sync(tools.describe)
        return ListToolsResult(
            tools=[
                _tool("search", "Search documents", f"{_SEARCH} {what}", SearchArguments, SearchResult),
                _tool("get_document", "Read a document", _GET_DOCUMENT, DocumentArguments, DocumentResult),
            ]
        )

    async def call_tool(_: Any, params: CallToolRequestParams) -> CallToolResult:
        if params.name not in calls:
            return _failed(f"there is no tool {params.name!r}: there are {', '.join(calls)}")
        kind, call = calls[params.name]
        try:
            arguments = kind.model_validate(params.arguments or {})
        except ValidationError as error:
            return _failed("; ".join(map(_problem, error.errors())))
        try:
            # The thread of a call that is cancelled ends by itself: it only reads.
            text, result = await anyio.to_thread.run_sync(partial(call, arguments), abandon_on_cancel=True)
        except (CtxembedError, TypeError, ValueError, OSError, ImportError) as error:
            return _failed(str(error) or type(error).__name__)
        return CallToolResult(
            content=[TextContent(type="text", text=text)], structured_content=result.model_dump(mode="json")
        )

    return Server(
        name,
        version=_core.__version__,
        instructions=f"Search and read the documents of the collection {name}.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def serve(server: Server[Any]) -> None:
    """Serve one assistant until stdin ends. Meanwhile stdout is the protocol's, and what is printed goes to stderr."""

    async def run() -> None:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    anyio.run(run)


def _tool(name: str, title: str, description: str, arguments: type[BaseModel], result: type[BaseModel]) -> Tool:
    return Tool(
        name=name,
        title=title,
        description=description,
        input_schema=arguments.model_json_schema(),
        output_schema=result.model_json_schema(),
        annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
    )


def _problem(problem: Any) -> str:
    place = ".".join(map(str, problem["loc"]))
    given = "" if problem["type"] == "missing" else f", got {problem['input']!r:.100}"
    return f"{place}: {problem['msg']}{given}"


def _failed(message: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=message)], is_error=True)
