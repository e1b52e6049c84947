// The course of a training, drawn anew while it goes on.

import {byId, element, percent, svgElement} from "./dom.js";

const HEIGHT = 200, LEFT = 44, RIGHT = 8, TOP = 8, BOTTOM = 24;
let latest = null;

export function showCurves(curves) {
  latest = curves;
  const section = byId("curves-section");
  section.hidden = curves.imported;
  if (curves.imported) return;
  setText(byId("curves-text"), describe(curves));
  draw();
  fillTable(curves);
}

// Screen readers announce a change; the same text again is none.
function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

window.addEventListener("resize", () => latest && !latest.imported && draw());

function describe(curves) {
  const done = curves.epochs.length, last = curves.epochs.at(-1);
  const state = done >= curves.max_epochs ? `All ${done} epochs are done.` : `${done} of at most ${curves.max_epochs} epochs are done.`;
  const wait = done < curves.max_epochs && curves.seconds_ago > 120 ? ` The last line was written ${duration(curves.seconds_ago)} ago.` : "";
  const error = last?.top1_error != null ? ` ${measured(last.split)} error after the last one: ${percent(last.top1_error)}.` : "";
  return state + error + wait;
}

function duration(seconds) {
  if (seconds < 7200) return `${Math.round(seconds / 60)} minutes`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} hours` : `${Math.round(seconds / 86400)} days`;
}

function measured(split) {
  return {val: "Validation", test: "Test", train: "Training"}[split] ?? split;
}

function draw() {
  const {epochs, steps} = latest, split = measured(epochs[0]?.split ?? "val");
  const inTraining = (name) => epochs.map((line) => [line.epoch - 0.5, line[name]]);
  const afterwards = (name) => epochs.map((line) => [line.epoch, line[name]]);
  const errors = [
    {label: "training", style: "training", points: inTraining("train_error")},
    {label: split.toLowerCase(), style: "validation", points: afterwards("top1_error")},
  ];
  if (latest.classes > 5) errors.push({label: `${split.toLowerCase()}, top-5`, style: "top5", points: afterwards("top5_error")});
  byId("curves").replaceChildren(
    chart("Loss", (value) => value.toPrecision(2), [
      {label: "", style: "training faint", points: steps.map((line) => [line.epoch, line.loss])},
      {label: "training", style: "training", points: inTraining("train_loss")},
      {label: split.toLowerCase(), style: "validation", points: afterwards("log_prob")},
    ]),
    chart("Error", (value) => `${Math.round(100 * value)} %`, errors),
  );
}

function chart(title, format, series) {
  for (const line of series) line.points = line.points.filter(([, y]) => y !== null);
  const width = Math.max(240, byId("curves").clientWidth >= 620 ? (byId("curves").clientWidth - 16) / 2 : byId("curves").clientWidth);
  const xs = series.flatMap((line) => line.points.map(([x]) => x)), ys = series.flatMap((line) => line.points.map(([, y]) => y));
  const highestX = Math.max(1, ...xs), step = niceStep(Math.max(1e-6, ...ys) / 4), highestY = step * Math.ceil(Math.max(1e-6, ...ys) / step);
  const x = (value) => LEFT + (width - LEFT - RIGHT) * value / highestX;
  const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / highestY;
  const svg = svgElement("svg", {viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `${title} by epoch; the numbers are in the table below`});
  for (let value = 0; value <= highestY + step / 2; value += step) {
    svg.append(svgElement("line", {class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value)}),
      svgElement("text", {x: LEFT - 6, y: y(value) + 4, "text-anchor": "end"}, format(value)));
  }
  const epochStep = Math.max(1, niceStep(highestX / 6));
  for (let value = 0; value <= highestX; value += epochStep) {
    svg.append(svgElement("text", {x: x(value), y: HEIGHT - 6, "text-anchor": "middle"}, String(value)));
  }
  for (const line of series) {
    if (line.points.length === 1) svg.append(svgElement("circle", {class: line.style, cx: x(line.points[0][0]), cy: y(line.points[0][1]), r: 3}));
    else if (line.points.length) svg.append(svgElement("path", {class: line.style, d: "M" + line.points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("L")}));
  }
  const legend = element("ul", {className: "legend"}, ...series.filter((line) => line.label && line.points.length)
    .map((line) => element("li", {className: line.style}, element("span", {}, line.label))));
  return element("div", {}, element("h3", {}, title), svg, legend);
}

// 1, 2 or 5 times a power of ten, at least as large as a value.
function niceStep(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= value * 0.999);
}

function fillTable(curves) {
  const number = (value) => value === null ? "–" : value.toPrecision(3);
  const share = (value) => value === null ? "–" : `${(100 * value).toFixed(1)} %`;
  const split = measured(curves.epochs[0]?.split ?? "val").toLowerCase();
  const titles = ["epoch", "training loss", "training error", `${split} loss`, `${split} error`];
  if (curves.classes > 5) titles.push(`${split} top-5 error`);
  byId("epochs-panel").hidden = curves.epochs.length === 0;
  byId("epochs-head").replaceChildren(element("tr", {}, ...titles.map((title) => element("th", {scope: "col"}, title))));
  byId("epochs").replaceChildren(...curves.epochs.map((line) => {
    const cells = [String(line.epoch), number(line.train_loss), share(line.train_error), number(line.log_prob), share(line.top1_error)];
    if (curves.classes > 5) cells.push(share(line.top5_error));
    return element("tr", {}, ...cells.map((text) => element("td", {}, text)));
  }));
}
