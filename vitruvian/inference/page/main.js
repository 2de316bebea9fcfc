// The page: what serves, files and the camera in, answers out.

import { showAnswer, showClasses } from "./answer.js";
import { listenForMost } from "./bars.js";
import { Camera } from "./camera.js";
import { cardElements } from "./card.js";
import { comparing, offerCompare } from "./compare.js";
import { byId, make, percent, row, words } from "./dom.js";
import { showEvaluation, showGates, showMeasured } from "./evaluation.js";
import { Files } from "./files.js";
import { listenForLabels, offerLabels, ownLabels } from "./labels.js";
import { listenForWidth, record } from "./latency.js";
import { listenForJoint, prepare, showPicture } from "./preview.js";
import { ask, listenForKey } from "./server.js";
import { listenForViews } from "./views.js";

const FIRST = ["accuracy", "f1", "weightedF1", "worstClassRecall"];
let about = null;

// Asking

async function question(file, name) {
  const form = new FormData(), own = ownLabels(), both = comparing();
  form.append("file", file, name);
  for (const [field, texts] of Object.entries(own ?? {})) if (texts.length) form.append(field, JSON.stringify(texts));
  const { ok, body, milliseconds, retryAfter } = await ask(both ? "compare" : "predict/image", { method: "POST", body: form });
  record(milliseconds, !ok);
  return { [ok ? (both ? "both" : "one") : "problem"]: body, milliseconds, retryAfter };
}

const files = new Files({ prepare, answer: (item) => question(item.file, item.name), changed: show });
let live = null;
const camera = new Camera({
  answer: (blob) => question(blob, "camera.jpg"),
  began: () => { live = null; byId("joints").hidden = true; showAnswer(null); },
  show: (answer) => { live = answer; showAnswer(answer, { live: Boolean(camera.stream) }); },
  keep: (file) => add([file]),
  ended: show,
});

function add(list) {
  if (!list.length) return;
  if (opened !== "try") location.hash = "try";
  camera.stop();
  files.add(list);
}

function show() {
  if (camera.stream) return;
  const item = files.current;
  showPicture(item);
  if (item) showAnswer(item.answer);
  else if (about) showClasses(ownLabels()?.labels ?? about.labels);
}

function changed() {
  showCommand();
  files.again();
}

// The bundle

async function describe() {
  const { ok, body } = await ask("./"), state = ok ? body.state : "unreachable";
  byId("state").dataset.state = byId("state").textContent = state;
  if (ok && body.digest !== about?.digest) showAbout(body);
  const soon = state !== "ready" || (await offerCompare(changed));
  byId("whose-choice").hidden = opened === "try" || byId("whose").hidden;
  setTimeout(describe, soon ? 1000 : 30000);
}

function showAbout(told) {
  about = told;
  document.title = about.classifier + " · Vitruvian";
  byId("name").textContent = about.classifier;
  byId("version").textContent = about.version;
  byId("digest").textContent = about.digest.replace("sha256:", "").slice(0, 12);
  const heatmap = about.input.kind === "heatmap";
  byId("thing").textContent = heatmap ? "a heatmap" : "a picture";
  byId("hint").textContent = heatmap ? "One person's 17 keypoints, .npy of 1×17×64×48" : "One person in a pose: JPEG, PNG, WebP, GIF, BMP, TIFF";
  byId("file").accept = about.input.suffixes.join(",");
  byId("camera").hidden = heatmap;
  const metrics = about.metrics, headline = FIRST.filter((name) => metrics[name] != null).slice(0, 3);
  byId("numbers").replaceChildren(...headline.map((name) =>
    make("div", "", make("dd", "", percent(metrics[name])), make("dt", "", words(name)))));
  const origin = [["architecture", about.architecture], ["created", about.created], ["digest", about.digest], ...flat(about.lineage)];
  byId("lineage").replaceChildren(...origin.map(([name, value]) => row(words(name), value == null ? "none" : String(value))));
  showGates(about.gates);
  showMeasured(metrics);
  offerLabels(about);
  showCommand();
  show();
}

function flat(value, path = "") {
  return Object.entries(value || {}).flatMap(([name, inner]) => inner && typeof inner === "object" && !Array.isArray(inner)
    ? flat(inner, path + name + " ") : [[path + name, inner]]);
}

/** The command that asks what the page asks. */
function showCommand() {
  if (!about) return;
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const fields = Object.entries(ownLabels() ?? {}).filter(([, texts]) => texts.length);
  byId("curl").textContent = ["curl", "-F", "file=@" + (about.input.kind === "heatmap" ? "heatmap.npy" : "photo.jpg"),
    ...fields.flatMap(([name, texts]) => ["-F", quoted(`${name}=${JSON.stringify(texts)}`)]),
    new URL(comparing() ? "compare" : "predict/image", document.baseURI)].join(" ");
}

// Evaluation and card, once they are looked at

let opened = "try";

async function look(name) {
  opened = name;
  byId("whose-choice").hidden = name === "try" || byId("whose").hidden;
  if (name === "try") return;
  camera.stop();
  const place = byId(name === "card" ? "card-here" : "evaluation-here");
  // Named even where it is the champion: a cookie may speak for the other.
  const whose = byId("whose").value, headers = byId("whose").hidden ? {} : { "X-Vitruvian-Track": whose };
  byId("of-champion").hidden = whose === "canary";
  const { ok, body } = await ask(name, { headers });
  if (whose !== byId("whose").value) return;
  if (!ok) place.replaceChildren(make("p", "waiting", body.detail || body.title));
  else if (name === "card") place.replaceChildren(...cardElements(body));
  else showEvaluation(place, body);
}

byId("whose").addEventListener("change", () => look(opened));
byId("file").addEventListener("change", (event) => { add([...event.target.files]); event.target.value = ""; });
document.addEventListener("paste", (event) => add(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  // Text that is dragged into a field is none of this.
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  byId("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  byId("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
listenForJoint(() => files.current?.redraw?.());
listenForMost(() => (camera.stream ? live && showAnswer(live, { live: true }) : show()));
listenForLabels(() => about, changed);
listenForKey(() => { look(opened); describe(); changed(); });
listenForWidth();
listenForViews(look);
describe();
