"""A collection as tools of an assistant: ``ctxembed mcp``, over the Model Context Protocol.

| modules | what they do |
|---|---|
| ``server`` | the protocol: the list of tools, calls, standard streams |
| ``tools`` | the tools, of which each returns text and the same as JSON |
| ``arguments``, ``results`` | their models, from which the schemas are made |

``server`` imports the package ``mcp`` (extra ``mcp``), and ``arguments`` and ``results`` pydantic, which it brings.
"""
