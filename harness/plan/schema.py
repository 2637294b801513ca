"""The JSON Schema of suites: the core's keys, and the parameters of the installed plugins' entries."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import JsonSchemaValue

from harness.plugins import Plugins
from harness.registry import Registry
from harness.suite.loading import OWN
from harness.suite.suite import Suite
from harness.types.data import DataChoice
from harness.types.recipe import TrainRecipe

__all__ = ["suite_schema"]


def suite_schema(plugins: Plugins) -> JsonSchemaValue:
    """Return the JSON Schema with which editors complete and check suites."""
    schema = Suite.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    definitions["train"] = TrainRecipe.model_json_schema()
    definitions["data"] = _data(plugins)
    definitions.update(DataChoice.model_json_schema().get("$defs", {}))
    for registry in (
        plugins.models,
        plugins.compressors,
        plugins.partitioners,
        plugins.placers,
        plugins.runtimes,
    ):
        definitions[registry.kind] = _reference(registry, definitions)

    def ref(name: str) -> dict[str, str]:
        return {"$ref": f"#/$defs/{name}"}

    method = definitions["Method"]["properties"]
    method["build"], method["partition"] = ref("model"), ref("partitioner")
    method["place"], method["runtime"] = ref("placer"), ref("runtime")
    method["compress"] = {"type": "array", "items": ref("compressor")}
    method["train"], method["data"] = ref("train"), ref("data")
    method["grid"] = {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}}
    definitions["Defaults"]["properties"].update(train=ref("train"), runtime=ref("runtime"))
    definitions["RunItem"]["properties"]["runtimes"] = {"type": "array", "items": ref("runtime")}
    definitions["RunItem"]["properties"]["measure"] = ref("Measure")
    schema["properties"]["data"] = {**ref("data"), "required": ["name"]}
    schema["patternProperties"] = {f"^{OWN}": {}}
    # a grid's names hold ${variables}
    schema["properties"]["methods"] = {
        "type": "object",
        "additionalProperties": ref("Method"),
        "minProperties": 1,
    }
    backends = [item.entry.name for item in plugins.backends]
    definitions["DeviceChoice"]["properties"]["backend"] = {"type": "string", "enum": backends}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "harness suite", **schema}


def _reference(registry: Registry[Any], definitions: JsonSchemaValue) -> JsonSchemaValue:
    """Return the schema of a reference: NAME, or {NAME: {parameter: value}}.

    What the parameters refer to is added to ``definitions``, since references begin at the root of the schema.
    """
    schemas = {item.entry.name: item.entry.params.model_json_schema() for item in registry}
    for schema in schemas.values():
        definitions.update(schema.pop("$defs", {}))
    objects = [
        {
            "type": "object",
            "properties": {
                item.entry.name: _loose(schemas[item.entry.name]),
                "each_part": {"type": "boolean"},
            },
            "required": [item.entry.name],
            "additionalProperties": False,
            "description": item.entry.summary,
        }
        for item in registry
    ]
    return {"anyOf": [{"type": "string", "enum": [item.entry.name for item in registry]}, *objects]}


def _loose(schema: JsonSchemaValue) -> JsonSchemaValue:
    """Return a schema that allows a variable of a grid, like ``"${blocks}"``, in place of each value."""
    properties = {
        name: {"anyOf": [value, {"type": "string", "pattern": r"\$\{\w+\}"}]}
        for name, value in schema.get("properties", {}).items()
    }
    return {**schema, "properties": properties}


def _data(plugins: Plugins) -> JsonSchemaValue:
    properties = dict(DataChoice.model_json_schema()["properties"])
    for item in plugins.datasets:
        for name, value in item.entry.params.model_json_schema().get("properties", {}).items():
            properties.setdefault(name, {} if "$ref" in str(value) else value)
    properties["name"] = {"type": "string", "enum": [item.entry.name for item in plugins.datasets]}
    return {"type": "object", "properties": properties, "additionalProperties": False}
