// The page of the interface, made of openapi.json.

import {byId, element} from "./dom.js";

function typeName(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(typeName).join(" or ");
  if (schema.enum) return schema.enum.join(", ");
  if (schema.type === "array") return `list of ${typeName(schema.items)}`;
  return schema.type ?? "any";
}

function table(titles, rows) {
  const head = element("tr", {}, ...titles.map((title) => element("th", {scope: "col"}, title)));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))));
  return element("div", {className: "wide", tabIndex: 0}, element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

function properties(schema) {
  return Object.entries(schema.properties ?? {}).map(([name, part]) => [element("code", {}, name), typeName(part), part.description ?? ""]);
}

function endpoint(method, path, operation) {
  const section = element("section", {}, element("h2", {}, element("code", {}, `${method.toUpperCase()} ${path}`)), element("p", {}, operation.summary));
  if (operation.requestBody) section.append(element("p", {}, `Body: ${operation.requestBody.description}`));
  if (operation.parameters) {
    const rows = operation.parameters.map((part) => [element("code", {}, part.name), part.in, typeName(part.schema), part.description ?? ""]);
    section.append(table(["parameter", "in", "type", "means"], rows));
  }
  const content = operation.responses[200]?.content?.["application/json"]?.schema;
  if (content) section.append(element("p", {className: "soft"}, `Response: ${typeName(content)}`));
  return section;
}

const description = await (await fetch("/openapi.json")).json();
byId("curl").textContent = `curl --data-binary @robin.jpg '${location.origin}/api/predict?top=3'`;
for (const [path, operations] of Object.entries(description.paths)) {
  for (const [method, operation] of Object.entries(operations)) byId("endpoints").append(endpoint(method, path, operation));
}
for (const [name, schema] of Object.entries(description.components.schemas)) {
  if (!schema.properties || name.includes("Validation")) continue;
  byId("endpoints").append(element("section", {}, element("h2", {}, name), element("p", {className: "soft"}, schema.description ?? ""), table(["key", "type", "means"], properties(schema))));
}
