// Champion and challenger beside each other.

import { Bars } from "./bars.js";
import { byId, make, percent } from "./dom.js";
import { ask } from "./server.js";

const NAMES = { stable: "Champion", canary: "Challenger" };
const bars = { stable: new Bars("Probabilities of the champion"), canary: new Bars("Probabilities of the challenger") };

/** Whether both are asked. */
export const comparing = () => byId("compare").checked && !byId("compare").disabled;

/** Offer what there is to compare with, `changed()` being called when people choose; return whether that may be another soon. */
export async function offerCompare(changed) {
  const { ok, body } = await ask("tracks"), other = ok ? body.tracks.canary : null;
  byId("comparing").hidden = byId("whose").hidden = !other;
  if (!other) return false;
  const ready = other.state === "ready", was = comparing();
  byId("compare").disabled = !ready;
  byId("compare-name").textContent = other.version ?? "";
  byId("compare-why").textContent = ready ? "" : ` (${other.reason ? `not served: ${other.reason}` : other.state})`;
  byId("compare").onchange = changed;
  if (was !== comparing()) changed();
  return ["loading", "starting"].includes(other.state);
}

export function compared({ stable, canary, same, difference }) {
  const verdict = same ? `Both say ${stable.label}` : `They differ: ${stable.label}, ${canary.label}`;
  const columns = [stable, canary].map((answer) => {
    // In the champion's order, so that what belongs together is side by side.
    const rank = new Map(stable.predictions.map(({ class_name: name }, at) => [name, at]));
    const at = ({ class_name: name }) => rank.get(name) ?? Infinity;
    bars[answer.track].show([...answer.predictions].sort((a, b) => at(a) - at(b)));
    return make("section", "version",
      make("h3", "", NAMES[answer.track], " ", make("code", "", answer.version)),
      make("div", "verdict", make("p", "called", answer.label), make("strong", "", percent(answer.confidence))),
      make("p", "took", `predicted in ${(1000 * answer.seconds).toFixed(1)} ms`), bars[answer.track].list);
  });
  return [make("h2", same ? "same" : "other", verdict),
    make("p", "took", `Largest difference of a probability: ${percent(difference)}`), make("div", "versions", ...columns)];
}
