// Labels that nobody trained the model for, and the sentences they stand in: for a CLIP with prompts.

import { byId } from "./dom.js";

let chosen = null;

/** What requests carry: {labels, templates}, or null for the model's own. */
export const ownLabels = () => chosen;

const lines = (id) => byId(id).value.split("\n").map((line) => line.trim()).filter(Boolean);

/** Offer the box with the model's own labels and templates as a beginning. */
export function offerLabels(about) {
  byId("zero").hidden = !about.text;
  if (!about.text || byId("labels").value) return;
  byId("labels").value = about.labels.join("\n");
  byId("templates").value = about.text.templates.join("\n");
}

/** Why these can't be asked about; null where they can. */
function refusal(labels, templates) {
  if (!labels.length) return ["labels", "Write at least one label."];
  if (new Set(labels).size < labels.length) return ["labels", "One label is there twice."];
  const wrong = templates.find((template) => template.split("{}").length !== 2);
  return wrong ? ["templates", `“${wrong}” needs {} once, where the label stands.`] : null;
}

export function listenForLabels(about, changed) {
  byId("zero-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const labels = lines("labels"), templates = lines("templates"), refused = refusal(labels, templates);
    show(refused);
    if (refused) return byId(refused[0]).focus();
    chosen = { labels, templates };
    byId("zero-state").textContent = `These ${labels.length} labels are asked about.`;
    return changed();
  });
  byId("own").addEventListener("click", () => {
    chosen = null;
    show(null);
    byId("labels").value = "";
    offerLabels(about());
    byId("zero-state").textContent = "The model's own labels are asked about.";
    changed();
  });
}

function show(refused) {
  byId("zero-problem").textContent = refused ? refused[1] : "";
  for (const id of ["labels", "templates"]) byId(id).setAttribute("aria-invalid", String(refused?.[0] === id));
}
