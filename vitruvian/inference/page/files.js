// The files so far: each is asked about in its turn, and can be gone back to.

import { byId, make, percent } from "./dom.js";

const MOST = 200;

export class Files {
  /** `answer(item)` fills in what an item was answered; `changed()` is called when the current item, or its answer, is another. */
  constructor({ prepare, answer, changed }) {
    Object.assign(this, { prepare, answer, changed, items: [], current: null, working: false });
  }

  /** Take on files as a browser hands them over: dropped, pasted, chosen or kept from the camera. */
  add(files) {
    const fresh = [...files].slice(0, MOST).map((file) => ({ file, name: file.name || "pasted picture" }));
    if (!fresh.length) return;
    this.items.push(...fresh);
    this.select(fresh[0]);
    this.work();
  }

  select(item) {
    this.current = item;
    this.changed();
    this.show();
  }

  /** Ask all of them again: other labels count now, or another version is asked, too. */
  again() {
    for (const item of this.items) Object.assign(item, { done: false, answer: null });
    this.changed();
    this.work();
  }

  async work() {
    if (this.working) return;
    this.working = true;
    const waits = (item) => item && !item.done;
    // One after the other: a folder dropped here must not fill the server's queue.
    for (let item; (item = waits(this.current) ? this.current : this.items.find(waits)); ) {
      item.done = true;
      const prepared = item.picture ? null : this.prepare(item).then(() => item === this.current && this.changed());
      const [found] = await Promise.all([this.answer(item), prepared]);
      // Meanwhile it may have been asked for anew.
      if (item.done) item.answer = found;
      if (item === this.current) this.changed();
      this.show();
    }
    this.working = false;
  }

  show() {
    const strip = byId("strip");
    strip.hidden = this.items.length < 2;
    for (const item of this.items) {
      if (!item.button) {
        item.button = make("button");
        item.button.type = "button";
        item.button.addEventListener("click", () => this.select(item));
        strip.append(item.button);
      }
      const thumb = make("span", "thumb"), [label, share] = said(item.answer);
      if (item.thumb) thumb.style.backgroundImage = `url("${item.thumb}")`;
      item.button.className = item.answer?.problem ? "failed" : "";
      item.button.setAttribute("aria-current", String(item === this.current));
      item.button.replaceChildren(thumb, make("b", "", make("span", "", label), " ", share), make("small", "", item.name));
    }
  }
}

/** An answer in a few letters: what it is, and how sure. */
function said(answer) {
  if (!answer) return ["…", ""];
  if (answer.problem) return ["can't be used", ""];
  if (answer.one) return [answer.one.label, percent(answer.one.confidence)];
  const { stable, canary, same } = answer.both;
  return [same ? stable.label : `${stable.label} / ${canary.label}`, ""];
}
