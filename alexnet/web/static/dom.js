// Elements made of text and properties. Nothing here takes markup: a name that looks like it is shown as it is.

export function byId(id) {
  return document.getElementById(id);
}

// element("li", {className: "x"}, "text", otherElement)
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

export function svgElement(tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

// A probability as text: "93 %", "0.4 %", "less than 0.1 %".
export function percent(share) {
  const value = 100 * share;
  if (value >= 9.95 || value === 0) return `${value.toFixed(0)} %`;
  return value >= 0.1 ? `${value.toFixed(1)} %` : "less than 0.1 %";
}

export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
