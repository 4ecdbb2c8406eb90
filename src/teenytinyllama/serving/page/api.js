// The page of the API: /openapi.json as headings and tables.

import { make } from "./words.js";

function nameOf(reference) {
  return reference.split("/").pop();
}

// A schema as short text: its types, limits and allowed values.
function typeOf(schema) {
  if (schema.$ref) return nameOf(schema.$ref);
  if (schema.enum) return schema.enum.filter((value) => value !== null).map((value) => JSON.stringify(value)).join(" or ") || "not supported";
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.anyOf) return schema.anyOf.filter((one) => one.type !== "null").map(typeOf).join(" or ");
  const low = schema.minimum ?? schema.exclusiveMinimum ?? schema.minItems ?? schema.minLength;
  const high = schema.maximum ?? schema.exclusiveMaximum ?? schema.maxItems ?? schema.maxLength;
  const unit = schema.type === "string" ? " characters" : schema.type === "array" ? " items" : "";
  const parts = [low === undefined ? "" : `from ${low}`, high === undefined ? "" : `to ${high}`];
  const limits = low === undefined && high === undefined ? "" : ` (${parts.filter(Boolean).join(" ")}${unit})`;
  const kind = schema.type === "array" ? `list of ${typeOf(schema.items ?? {})}` : schema.type ?? "any";
  return kind + limits;
}

function tableOf(schema) {
  const table = make("table");
  const head = make("tr");
  for (const word of ["field", "allowed"]) head.append(make("th", "", word));
  table.append(head);
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const row = make("tr");
    const title = make("td");
    title.append(make("code", "", name));
    if (schema.required?.includes(name)) title.append(make("span", "badge", "required"));
    row.append(title, make("td", "", typeOf(field)));
    table.append(row);
  }
  return table;
}

async function main() {
  const place = document.getElementById("operations");
  document.getElementById("base").textContent = `${location.origin}/v1`;
  const api = await (await fetch("/openapi.json")).json();
  const { schemas } = api.components;
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const [method, about] of Object.entries(operations)) {
      const heading = make("h2");
      heading.append(make("span", "badge", method.toUpperCase()), make("code", "", path));
      place.append(heading, make("p", "", about.summary));
      const body = about.requestBody?.content["application/json"].schema.$ref;
      if (body) place.append(tableOf(schemas[nameOf(body)]));
    }
  }
  for (const name of ["ChatMessage", "TextPart", "StreamOptions", "Error"]) {
    place.append(make("h2", "", name), tableOf(schemas[name].properties.error ?? schemas[name]));
  }
}

main();
