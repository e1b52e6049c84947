// The page: shows the run, sends pictures, shows what the server answers.

import {api, ApiError, setToken} from "./api.js";
import {showAnswer} from "./answer.js";
import {showCurves} from "./curves.js";
import {byId, count, element, percent} from "./dom.js";
import {lazyPanel, loadActivities, loadKernels, loadMap, loadSimilar} from "./panels.js";
import {listenForPictures} from "./pictures.js";

const SECONDS_BETWEEN_LOOKS = 5;
let run = null, current = null, sending = null;

const refreshSimilar = lazyPanel("similar-panel", (isCurrent) => loadSimilar(current.id, isCurrent));
const refreshMap = lazyPanel("map-panel", (isCurrent) => loadMap(current.id, isCurrent));
const refreshLayers = lazyPanel("layers-panel", (isCurrent) => loadActivities(current.id, byId("layer").value, isCurrent));
const refreshKernels = lazyPanel("kernels-panel", loadKernels);
byId("layer").addEventListener("change", refreshLayers);
for (const id of ["map-class", "map-method"]) byId(id).addEventListener("change", refreshMap);

function report(error) {
  byId("status").textContent = "";
  byId("problem").textContent = error.message;
}

async function send(file) {
  byId("problem").textContent = "";
  if (!run?.net) {
    report(new Error(run?.reason ?? "the server has not answered yet"));
    return;
  }
  if (file.size > run.max_bytes) {
    report(new Error(`${file.name}: a picture file must have at most ${run.max_bytes / 2 ** 20} MiB; it has more: save it smaller`));
    return;
  }
  sending?.abort();
  const mine = sending = new AbortController();
  byId("status").textContent = `Reading ${file.name}.`;
  try {
    const options = {method: "POST", body: file, signal: mine.signal};
    const answer = await api(`/api/predict?name=${encodeURIComponent(file.name.slice(0, 255))}`, options);
    const {picture} = await api(`/api/pictures/${answer.id}`, {signal: mine.signal});
    show(answer, picture, file.name);
  } catch (error) {
    if (error.name !== "AbortError") report(error);
  }
}

function show(answer, picture, name) {
  current = answer;
  byId("picture").src = picture;
  byId("picture").alt = `The centre of ${name}, as the net sees it`;
  byId("result").hidden = false;
  showAnswer(answer, name);
  const [first] = answer.predictions;
  byId("status").textContent = `${name}: ${first.class}, ${percent(first.probability)}.`;
  byId("map-class").replaceChildren(...answer.predictions.map((guess) => element("option", {value: guess.class}, guess.class)));
  refreshMap();
  refreshSimilar();
  refreshLayers();
}

// ---- The run, looked at again while it is trained ----

function showRun() {
  const {net} = run;
  document.title = `${run.name}: alexnet`;
  byId("run-name").textContent = run.name;
  byId("version").textContent = `alexnet ${run.version}.`;
  byId("send-section").hidden = false;
  for (const id of ["choose", "photograph"]) byId(id).disabled = !net;
  byId("kernels-section").hidden = !net;
  if (!net) {
    byId("about").textContent = `There is no net yet, so no picture can be classified: ${run.reason}`;
    return;
  }
  const trained = net.step ? `, trained for ${count(net.epoch, "epoch")}` : "";
  byId("about").textContent = `${count(net.classes, "class").replace("classs", "classes")}; ${count(net.parameters, "weight")} and biases${trained}; ${count(net.views, "view")} of each picture.`;
  const names = net.layers.map((layer) => layer.name), chosen = byId("layer").value;
  byId("layer").replaceChildren(...names.map((layer) => element("option", {value: layer}, layer)));
  byId("layer").value = names.includes(chosen) ? chosen : names[0];
}

async function look() {
  try {
    const before = run?.net;
    run = await api("/api/run");
    byId("token-section").hidden = true;
    if (!before || !run.net || before.step !== run.net.step) {
      showRun();
      if (run.net) refreshKernels();
    }
    showCurves(await api("/api/curves"));
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) {
      byId("token-section").hidden = false;
      byId("about").textContent = "This server asks for a token.";
    } else if (!run) {
      byId("about").textContent = error.message;
    } else if (error.status === 404) {
      byId("curves-section").hidden = true;  // a net without metrics
    }
  }
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(byId("token").value);
  look();
});
listenForPictures(send, (message) => report(new Error(message)));
await look();
setInterval(() => document.visibilityState === "visible" && byId("token-section").hidden && look(), 1000 * SECONDS_BETWEEN_LOOKS);
