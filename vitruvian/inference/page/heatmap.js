// Heatmaps as pictures: a .npy file of [1,17,64,48] in half, single or double precision.

import { make } from "./dom.js";

export const KEYPOINTS = ["nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
  "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle"];
const SIZE = 64 * 48, SCALE = 14;
const BONES = [[5, 7], [7, 9], [6, 8], [8, 10], [5, 6], [5, 11], [6, 12], [11, 12], [11, 13], [13, 15], [12, 14], [14, 16], [0, 5], [0, 6]];
const GLOW = [[10, 7, 20], [64, 18, 78], [142, 36, 90], [215, 78, 60], [246, 150, 70], [253, 232, 175]];

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/** The values of a file, 17 times 64 rows of 48; throws where it holds anything else. */
export function readNpy(buffer) {
  const view = new DataView(buffer);
  if (view.getUint32(0) !== 0x934e554d) throw new Error("not a .npy file");
  const wide = view.getUint8(6) > 1, start = wide ? 12 : 10;
  const size = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder("latin1").decode(new Uint8Array(buffer, start, size));
  const [, order, bytes] = /'descr':\s*'([<>|=])f([248])'/.exec(header);
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)[1].split(",").map(Number).filter(Boolean);
  if (/'fortran_order':\s*True/.test(header) || shape.slice(-3).join() !== "17,64,48") throw new Error("another layout");
  const little = order !== ">", width = +bytes, data = start + size, values = new Float64Array(17 * SIZE);
  const get = { 2: (at) => half(view.getUint16(at, little)), 4: (at) => view.getFloat32(at, little), 8: (at) => view.getFloat64(at, little) }[width];
  for (let i = 0; i < values.length; i++) values[i] = get(data + i * width);
  return values;
}

function glow(share) {
  const at = Math.min(Math.max(share, 0), 0.9999) * (GLOW.length - 1), below = Math.floor(at), rest = at - below;
  return GLOW[below].map((value, channel) => value + rest * (GLOW[below + 1][channel] - value));
}

function peak(values, joint) {
  let best = joint * SIZE;
  for (let i = best; i < (joint + 1) * SIZE; i++) if (values[i] > values[best]) best = i;
  const at = best - joint * SIZE;
  return { x: ((at % 48) + 0.5) * SCALE, y: (Math.floor(at / 48) + 0.5) * SCALE, height: values[best] };
}

/** Draw all keypoints' heatmaps, summed, with the figure that their peaks make; or one keypoint's alone. */
export function drawHeatmap(canvas, values, only = -1) {
  const sum = new Float64Array(SIZE), small = make("canvas"), pixels = new ImageData(48, 64);
  for (let i = 0; i < values.length; i++) if (only < 0 || Math.floor(i / SIZE) === only) sum[i % SIZE] += values[i];
  const top = sum.reduce((a, b) => Math.max(a, b), 0) || 1;
  [small.width, small.height, canvas.width, canvas.height] = [48, 64, 48 * SCALE, 64 * SCALE];
  sum.forEach((value, i) => pixels.data.set([...glow((value / top) ** 0.7), 255], 4 * i));
  small.getContext("2d").putImageData(pixels, 0, 0);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  const peaks = KEYPOINTS.map((_, joint) => peak(values, joint));
  const strongest = Math.max(...peaks.map(({ height }) => height)), sure = (joint) => peaks[joint].height > 0.2 * strongest;
  Object.assign(pen, { lineWidth: 3, lineCap: "round", strokeStyle: `rgb(255 255 255 / ${only < 0 ? 45 : 15}%)`, fillStyle: "#fff" });
  for (const [a, b] of BONES) if (sure(a) && sure(b)) {
    pen.beginPath();
    pen.moveTo(peaks[a].x, peaks[a].y);
    pen.lineTo(peaks[b].x, peaks[b].y);
    pen.stroke();
  }
  peaks.forEach(({ x, y }, joint) => {
    if (only < 0 ? !sure(joint) : joint !== only) return;
    pen.beginPath();
    pen.arc(x, y, only < 0 ? 4 : 6, 0, 7);
    pen.fill();
  });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", only < 0 ? "The heatmaps of 17 keypoints, summed" : `The heatmap of the ${KEYPOINTS[only]}`);
}
