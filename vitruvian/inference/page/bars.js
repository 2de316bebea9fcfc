// Probabilities as bars, the best first.

import { byId, make, percent } from "./dom.js";

const CHOICES = [3, 5, 10, 20], MANY = 12;
let most = null;

export class Bars {
  constructor(name) {
    this.list = make("ol", "bars");
    this.list.setAttribute("aria-label", name);
    this.rows = new Map();
  }

  /** Show as many of the predictions as are wished for, in their order; bars that were there before move to their new length. */
  show(predictions) {
    const shown = predictions.slice(0, most ?? (predictions.length > MANY ? 10 : predictions.length));
    const rows = new Map(shown.map(({ class_name: name }) => [name, this.rows.get(name) ?? bar(name)]));
    const order = [...rows.values()].map(({ item }) => item);
    // Moving an element would end its transition.
    if (order.length !== this.list.children.length || order.some((item, at) => item !== this.list.children[at])) {
      this.list.replaceChildren(...order);
    }
    this.rows = rows;
    const best = shown.reduce((a, b) => (b.score > a.score ? b : a)).class_name;
    for (const { class_name: name, score } of shown) {
      const { item, fill, share } = rows.get(name);
      item.classList.toggle("best", name === best);
      share.textContent = percent(score);
      requestAnimationFrame(() => requestAnimationFrame(() => { fill.style.transform = `scaleX(${score})`; }));
    }
    offer(predictions.length);
  }
}

function bar(name) {
  const fill = make("span", "fill"), track = make("span", "track", fill), label = make("span", "label", name);
  const share = make("span", "percent");
  label.title = name;
  track.setAttribute("aria-hidden", "true");
  return { item: make("li", "", label, track, share), fill, share };
}

function offer(count) {
  const select = byId("most"), choices = CHOICES.filter((choice) => choice < count);
  byId("most-choice").hidden = count <= CHOICES[0];
  if (select.dataset.count === String(count)) return;
  select.dataset.count = count;
  const options = choices.map((choice) => [choice, `the best ${choice}`]);
  select.replaceChildren(...[...options, ["", `all ${count} classes`]].map(([value, text]) => {
    const option = make("option", "", text);
    option.value = value;
    return option;
  }));
  const chosen = most ?? (count > MANY ? 10 : count);
  select.value = chosen < count ? chosen : "";
}

export function listenForMost(changed) {
  byId("most").addEventListener("change", (event) => {
    most = +event.target.value || Infinity;
    changed();
  });
}
