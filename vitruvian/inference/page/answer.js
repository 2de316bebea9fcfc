// What the server answered.

import { Bars } from "./bars.js";
import { compared } from "./compare.js";
import { byId, make, percent, say } from "./dom.js";

const bars = new Bars("Probabilities, best first");

/** Show an answer; `live` ones follow each other, and only another label is worth saying aloud. */
export function showAnswer(answer, { live = false } = {}) {
  const place = byId("answer-here");
  place.classList.toggle("following", live);
  byId("most-choice").hidden = true;
  if (!answer) return place.replaceChildren(make("div", "busy"));
  if (answer.problem) return place.replaceChildren(problem(answer.problem));
  if (answer.both) {
    place.replaceChildren(...compared(answer.both));
    return tell(answer.both.same ? `both say ${answer.both.stable.label}` : `champion ${answer.both.stable.label}, challenger ${answer.both.canary.label}`, live);
  }
  const { label, confidence, predictions, version, track } = answer.one;
  const who = track === "canary" ? `challenger ${version}` : `version ${version}`;
  bars.show(predictions);
  // Taken out and put in again, bars would not move: only what is above them is new.
  if (!bars.list.isConnected) place.replaceChildren(make("div", "above"), bars.list);
  place.querySelector(".above").replaceChildren(
    make("div", "verdict", make("h2", "", label), make("strong", "", percent(confidence))),
    make("p", "took", `answered in ${answer.milliseconds.toFixed(0)} ms · ${who}`));
  return tell(live ? label : `${label}, ${percent(confidence)}`, live);
}

const QUIET = 2000;
let told = "", toldAt = -Infinity;

function tell(text, live) {
  const now = performance.now();
  if (live && (text === told || now - toldAt < QUIET)) return;
  [told, toldAt] = [text, now];
  say(text);
}

function problem({ title, detail, request_id: id }) {
  const box = make("div", "error", make("h2", "", title || "Something went wrong"), make("p", "", detail || ""));
  box.setAttribute("role", "alert");
  if (id) box.append(make("p", "id", "request " + id));
  return box;
}

/** Before anything is asked: what the model knows. */
export function showClasses(labels) {
  byId("answer-here").replaceChildren(make("div", "classes", make("p", "", `This model tells ${labels.length} classes apart`),
    make("ol", "", ...labels.map((label) => make("li", "", label)))));
}
