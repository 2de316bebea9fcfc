// How long this page's requests took, from sending to the whole answer.

import { byId, draw } from "./dom.js";

const KEPT = 120, HEIGHT = 132, LEFT = 56, TOP = 10, BOTTOM = 18;
const taken = [];

export function record(milliseconds, failed) {
  taken.push({ milliseconds, failed });
  if (taken.length > KEPT) taken.shift();
  byId("latency").hidden = false;
  show();
}

/** The value below which a share of the sorted ones lies. */
const quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];

/** A round number that is at least this one: 1, 2 or 5 times a power of ten. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= value);
}

function show() {
  const sorted = taken.map(({ milliseconds }) => milliseconds).sort((a, b) => a - b);
  const median = quantile(sorted, 0.5), tail = quantile(sorted, 0.95), failed = taken.filter((each) => each.failed).length;
  const count = `${taken.length} ${taken.length === 1 ? "request" : "requests"}`;
  const text = `${count} · median ${ms(median)} · 95th percentile ${ms(tail)}${failed ? ` · ${failed} failed` : ""}`;
  byId("latency-text").textContent = text;
  plot(byId("latency-plot"), roundUp(Math.max(1, sorted.at(-1))), median, `Latency of ${text.replaceAll(" ·", ",")}`);
}

const ms = (value) => (value < 10 ? value.toFixed(1) : value.toFixed(0)) + " ms";

function plot(svg, top, median, name) {
  const width = Math.max(200, svg.parentElement.clientWidth), right = width - 8;
  const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
  const x = (at) => (taken.length === 1 ? (LEFT + right) / 2 : LEFT + 6 + (at / (taken.length - 1)) * (right - LEFT - 12));
  const line = (value, className) => draw("line", { x1: LEFT, x2: right, y1: y(value), y2: y(value), class: className });
  const label = (value) => draw("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, `${+value.toPrecision(3)} ms`);
  const points = taken.map(({ milliseconds }, at) => `${x(at).toFixed(1)},${y(milliseconds).toFixed(1)}`).join(" ");
  const dots = taken.map(({ milliseconds, failed }, at) => draw("circle",
    { cx: x(at), cy: y(milliseconds), r: taken.length > 40 ? 2 : 3.5, class: failed ? "dot failed" : "dot" },
    draw("title", {}, ms(milliseconds) + (failed ? ", failed" : ""))));
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("aria-label", name);
  svg.replaceChildren(line(0, "grid"), line(top / 2, "grid"), line(top, "grid"), label(0), label(top / 2), label(top),
    line(median, "median"), draw("polyline", { points, class: "trace" }), ...dots,
    draw("text", { x: right, y: HEIGHT - 3, "text-anchor": "end" }, "latest"));
}

export function listenForWidth() {
  new ResizeObserver(() => taken.length && show()).observe(byId("latency"));
}
