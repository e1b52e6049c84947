// The panels that are computed only when they are open.

import {api} from "./api.js";
import {byId, count, element, percent} from "./dom.js";

// Load a panel when it is opened, and again when refresh() is called while it is open.
export function lazyPanel(id, load) {
  const panel = byId(id), note = panel.querySelector(".note");
  let isStale = true, request = 0;
  const update = async () => {
    if (!panel.open || !isStale) return;
    isStale = false;
    const mine = ++request;
    note.textContent = "Computing.";
    let text;
    try {
      text = await load(() => mine === request) ?? "";
    } catch (error) {
      text = error.message;
      isStale = true;
    }
    if (mine === request) note.textContent = text;
  };
  panel.addEventListener("toggle", update);
  return () => {
    isStale = true;
    update();
  };
}

export async function loadSimilar(id, isCurrent) {
  const list = byId("similar");
  list.replaceChildren();
  const {similar} = await api(`/api/pictures/${id}/similar`);
  if (!isCurrent()) return "";
  list.replaceChildren(...similar.map((near) => {
    const item = element("li", {});
    if (near.picture) item.append(element("img", {src: near.picture, alt: ""}));
    item.append(element("b", {}, near.class),
      element("span", {className: "soft"}, `${near.image}, distance ${near.distance.toPrecision(3)}`));
    return item;
  }));
  return similar.some((near) => near.picture) ? "" : "The store of these pictures is not there; only their names are shown.";
}

const MEANINGS = {
  occlusion: "Red: where the picture is hidden, the class becomes less probable. Blue: it becomes more probable (Zeiler and Fergus).",
  gradient: "Red: where a small change of the pixels changes the probability most (SmoothGrad).",
};

export async function loadMap(id, isCurrent) {
  const image = byId("map"), query = new URLSearchParams({class: byId("map-class").value, method: byId("map-method").value});
  image.hidden = true;
  const answer = await api(`/api/pictures/${id}/map?${query}`);
  if (!isCurrent()) return "";
  const place = `${percent(answer.column / answer.side)} from the left and ${percent(answer.row / answer.side)} from the top`;
  image.src = answer.picture;
  image.alt = `Map of what speaks for ${answer.class}, strongest ${place}`;
  image.hidden = false;
  const fall = answer.method === "occlusion" ? `, where the probability falls by ${percent(Math.max(0, answer.strongest))}` : "";
  return `${MEANINGS[answer.method]} Strongest ${place} of the centre${fall}.`;
}

export async function loadActivities(id, layer, isCurrent) {
  const image = byId("activities");
  const answer = await api(`/api/pictures/${id}/layers/${encodeURIComponent(layer)}`);
  if (!isCurrent()) return "";
  const isMaps = answer.rows * answer.columns > 1;
  const size = isMaps ? `${count(answer.maps, "map")} of ${answer.rows} × ${answer.columns}` : count(answer.maps, "unit");
  const text = `${size}, for the centre of the picture; ${percent(answer.active)} of the activities are above zero.`;
  image.src = answer.picture;
  image.alt = `The activities of ${answer.layer}: ${text}`;
  image.hidden = false;
  return `${text} White is the most active${isMaps ? "" : "; the units stand row by row"}.`;
}

export async function loadKernels() {
  const answer = await api("/api/kernels");
  byId("kernels").replaceChildren(...answer.towers.map((picture, number) => {
    const name = answer.towers.length > 1 ? `GPU ${number + 1}` : answer.layer;
    const image = element("img", {src: picture, className: "pixels", alt: `The kernels of ${name}`});
    const figure = element("figure", {}, image);
    if (answer.towers.length > 1) figure.append(element("figcaption", {className: "soft"}, name));
    return figure;
  }));
  return `${answer.kernels} kernels of ${answer.side} × ${answer.side} × 3, each scaled to its own range (Figure 3).`;
}
