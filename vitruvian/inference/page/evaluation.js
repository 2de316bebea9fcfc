// What was measured on the test part: the numbers, each class, and which classes are taken for which.

import { byId, make, number, percent, row, words } from "./dom.js";

const DENSE = 16;
const COLUMNS = [["label", "class"], ["precision", "precision"], ["recall", "recall"], ["f1", "F1"], ["support", "examples"]];

/** Show an evaluation as bundles keep it. */
export function showEvaluation(place, metrics) {
  place.replaceChildren(
    headline(metrics),
    make("div", "sheet card", make("h3", "", "Each class"), scroll("Each class", perClass(metrics.classes))),
    make("div", "sheet card", make("h3", "", "What is taken for what"), confusion(metrics)));
}

function headline(metrics) {
  const { low, high } = metrics.accuracyInterval ?? {};
  const tiles = [
    ["accuracy", percent(metrics.accuracy), low == null ? "" : `${percent(low)} to ${percent(high)} with 95 % confidence`],
    ["balanced accuracy", percent(metrics.balancedAccuracy), "the mean recall of the classes"],
    ["F1", percent(metrics.f1), "weighted by examples"],
    ["worst class recall", percent(metrics.worstClassRecall), metrics.worstClass],
    ["calibration error", metrics.calibrationError?.toFixed(3) ?? "n/a", "of confidence against accuracy"],
    ["examples", String(metrics.examples), "in the test part"],
  ];
  return make("dl", "tiles", ...tiles.map(([name, value, note]) =>
    make("div", "card", make("dt", "", name), make("dd", "", value), make("dd", "note", note))));
}

/** A part that is scrolled by keyboard, too. */
function scroll(name, ...children) {
  const region = make("div", "scroll", ...children);
  region.tabIndex = 0;
  region.setAttribute("role", "region");
  region.setAttribute("aria-label", name);
  return region;
}

function perClass(classes) {
  const body = make("tbody"), heads = COLUMNS.map(([key, name]) => {
    const button = make("button", "", name), head = make("th", "", button);
    button.type = "button";
    head.scope = "col";
    button.addEventListener("click", () => sort(key, head));
    return head;
  });

  function sort(key, head) {
    const down = head.getAttribute("aria-sort") !== "descending";
    const sorted = [...classes].sort((a, b) => (a[key] < b[key] ? -1 : a[key] > b[key] ? 1 : 0) * (down ? -1 : 1));
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    fill(sorted);
  }

  function fill(sorted) {
    body.replaceChildren(...sorted.map((each) => row(each.label, ...["precision", "recall", "f1"].map((key) => share(each[key])), String(each.support))));
  }

  fill(classes);
  const table = make("table", "per-class", make("thead", "", make("tr", "", ...heads)), body);
  table.id = "per-class";
  return table;
}

function share(value) {
  const cell = make("td", "share", percent(value));
  cell.style.setProperty("--share", value);
  return cell;
}

function confusion({ confusion: counts, classes, mostConfused }) {
  const labels = classes.map(({ label }) => label), dense = labels.length > DENSE;
  const heads = labels.map((label) => {
    const head = make("th", "", make("span", "", label));
    head.scope = "col";
    return head;
  });
  const rows = counts.map((found, truth) => {
    const support = found.reduce((a, b) => a + b, 0) || 1;
    return row(labels[truth], ...found.map((count, predicted) => {
      const part = count / support, right = truth === predicted;
      const cell = make("td", right ? "right" : "wrong", count ? String(count) : "");
      cell.style.setProperty("--share", right ? part : Math.sqrt(part));
      cell.title = `${count} of ${labels[truth]} taken for ${labels[predicted]}, ${percent(part)}`;
      return cell;
    }));
  });
  const table = make("table", "confusion" + (dense ? " dense" : ""),
    make("thead", "", make("tr", "", make("td"), ...heads)), make("tbody", "", ...rows));
  table.id = "confusion";
  const pairs = (mostConfused ?? []).slice(0, 5).map(({ truth, predicted, count, share: part }) =>
    make("li", "", make("b", "", truth), " taken for ", make("b", "", predicted), ` ${count} times, ${percent(part)} of its examples`));
  const most = pairs.length ? [make("h4", "", "Most often"), make("ol", "pairs", ...pairs)] : [];
  const legend = make("p", "soft", "A row for each true class, a column for each answer; the stronger the colour, the larger the share of the row.");
  return make("div", "beside", scroll("Confusion matrix", table), make("div", "", legend, ...most));
}

/** The gates that the bundle was held against. */
export function showGates(gates) {
  byId("gates").replaceChildren(...gates.map((gate) => {
    const verdict = make("td", gate.passed ? "pass" : "fail", gate.passed ? "✓ passed" : "✗ failed");
    return row(gate.gate, verdict, number(gate.value));
  }));
  if (!gates.length) byId("gates").append(make("tr", "", make("td", "", "none were declared")));
}

/** Every number that the bundle's description names. */
export function showMeasured(metrics) {
  byId("measured").replaceChildren(...Object.entries(metrics).map(([name, value]) => row(words(name), number(value))));
}
