// What the net says about a picture: classes with bars, and what each view says.

import {byId, element, percent} from "./dom.js";

export function showAnswer(answer, name) {
  byId("labels").replaceChildren(...answer.predictions.map(labelRow));
  byId("picture-name").textContent = name;
  const [first] = answer.predictions;
  byId("agreement").textContent = describeAgreement(answer, first.class);
  byId("dots").replaceChildren(...answer.views.map((view) =>
    element("i", {className: view.class === first.class ? "agrees" : ""})));
  byId("views-panel").hidden = answer.views.length === 1;
  byId("views").replaceChildren(...answer.views.map((view) => element("tr", {},
    element("td", {}, view.name), element("td", {}, view.class),
    element("td", {className: "number"}, percent(view.probability)))));
}

function labelRow(prediction) {
  const bar = element("span", {className: "bar", ariaHidden: "true"});
  bar.style.width = `${100 * prediction.probability}%`;
  return element("li", {}, bar, element("span", {className: "name"}, prediction.class),
    element("span", {className: "share"}, percent(prediction.probability)));
}

function describeAgreement(answer, first) {
  const views = answer.views.length;
  if (views === 1) return "From one view, the centre.";
  const other = new Map();
  for (const view of answer.views) {
    if (view.class !== first) other.set(view.class, (other.get(view.class) ?? 0) + 1);
  }
  if (other.size === 0) return `All ${views} views agree on ${first}.`;
  const rest = [...other].sort((a, b) => b[1] - a[1]).map(([name, times]) => times > 1 ? `${name} (${times} times)` : name).join(", ");
  const others = views - answer.agreeing_views === 1 ? "the other one says" : "the others say";
  return `${answer.agreeing_views} of ${views} views agree on ${first}; ${others} ${rest}.`;
}
