// Live pictures: the next frame is sent when the last one's answer is there, so a slow server is never asked for two at once.

import { byId, make, say } from "./dom.js";

const LONGEST = 640, WEIGHT = 0.2;
const WHY = {
  NotAllowedError: "The browser was told not to let this page use the camera; allow it in the page's settings.",
  NotFoundError: "There is no camera here.",
  NotReadableError: "Another program uses the camera.",
};

export class Camera {
  /** `answer(blob)` asks about a frame; `began()` and `ended()` tell of the stage, `show(answer)` shows, `keep(file)` keeps a frame. */
  constructor({ answer, began, show, keep, ended }) {
    Object.assign(this, { answer, began, show, keep, ended, stream: null, turn: 0, canvas: make("canvas") });
    this.video = byId("video");
    byId("camera").addEventListener("click", () => (this.stream ? this.stop() : this.start()));
    byId("keep").addEventListener("click", () => this.snap());
    byId("device").addEventListener("change", (event) => this.start(event.target.value));
  }

  async start(device) {
    this.stop();
    const turn = this.turn;
    let stream;
    try {
      // Browsers hide it from pages that came over plain http from elsewhere.
      if (!navigator.mediaDevices) throw new Error("Browsers lend the camera only over https, or to http://localhost.");
      const video = device ? { deviceId: { exact: device } } : { width: { ideal: 1280 }, facingMode: "user" };
      stream = await navigator.mediaDevices.getUserMedia({ video });
    } catch (error) {
      this.show({ problem: { title: "The camera can't be used", detail: WHY[error.name] ?? error.message } });
      return null;
    }
    // While the browser asked its user, they may have gone elsewhere, or asked again.
    if (turn !== this.turn) return stream.getTracks().forEach((each) => each.stop());
    this.stream = stream;
    const [track] = stream.getVideoTracks();
    track.addEventListener("ended", () => stream === this.stream && this.stop());
    // People know themselves from mirrors; what is sent isn't mirrored.
    this.video.classList.toggle("mirrored", track.getSettings().facingMode !== "environment");
    this.video.srcObject = stream;
    this.began();
    this.showTools(true);
    // It may be stopped before it plays.
    await this.video.play().catch(() => {});
    await this.offerDevices(track);
    if (stream !== this.stream) return null;
    say("The camera is on");
    return this.run(stream);
  }

  stop() {
    this.turn += 1;
    if (!this.stream) return;
    for (const track of this.stream.getTracks()) track.stop();
    this.stream = this.video.srcObject = null;
    this.showTools(false);
    say("The camera is off");
    this.ended();
  }

  async run(stream) {
    let rate = 0, last = performance.now();
    while (await this.frame(stream)) {
      const answer = await this.answer(await this.blob());
      if (stream !== this.stream) return;
      this.show(answer);
      const now = performance.now(), momentary = 1000 / (now - last);
      rate = rate ? rate + WEIGHT * (momentary - rate) : momentary;
      last = now;
      byId("rate").textContent = `${rate.toFixed(1)} frames/s`;
      // A server that is busy, or gone, gets the time it asked for.
      if (answer.problem) await new Promise((done) => setTimeout(done, 1000 * Math.max(1, answer.retryAfter)));
    }
  }

  /** Wait for the next frame; false once this stream has ended. */
  async frame(stream) {
    await new Promise((done) => (this.video.requestVideoFrameCallback ? this.video.requestVideoFrameCallback(done) : requestAnimationFrame(done)));
    return stream === this.stream;
  }

  blob() {
    const { videoWidth: width, videoHeight: height } = this.video, scale = Math.min(1, LONGEST / Math.max(width, height));
    [this.canvas.width, this.canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    this.canvas.getContext("2d").drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    return new Promise((done) => this.canvas.toBlob(done, "image/jpeg", 0.85));
  }

  async snap() {
    const blob = await this.blob(), time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    this.keep(new File([blob], `camera ${time}.jpg`, { type: blob.type }));
  }

  async offerDevices(track) {
    const devices = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
    byId("device").replaceChildren(...devices.map(({ deviceId, label }, at) => {
      const option = make("option", "", label || `camera ${at + 1}`);
      option.value = deviceId;
      return option;
    }));
    byId("device").value = track.getSettings().deviceId;
    byId("device").hidden = devices.length < 2 || !this.stream;
  }

  showTools(on) {
    byId("camera-text").textContent = on ? "Stop the camera" : "Use the camera";
    byId("camera").setAttribute("aria-pressed", String(on));
    byId("keep").hidden = !on;
    byId("live").hidden = !on;
    byId("drop").hidden = on;
    if (!on) byId("device").hidden = true;
    byId("rate").textContent = on ? "…" : "";
  }
}
