// The picture that an answer belongs to.

import { byId, make } from "./dom.js";
import { KEYPOINTS, drawHeatmap, readNpy } from "./heatmap.js";

/** Make the picture of an item, and the small one of the list. */
export async function prepare(item) {
  try {
    if (/\.npy$/i.test(item.name)) {
      const values = readNpy(await item.file.arrayBuffer());
      item.picture = make("canvas");
      item.redraw = () => drawHeatmap(item.picture, values, +byId("joint").value);
      drawHeatmap(item.picture, values);
      item.thumb = item.picture.toDataURL("image/jpeg", 0.8);
      item.redraw();
    } else {
      item.thumb = URL.createObjectURL(item.file);
      item.picture = make("img");
      item.picture.src = item.thumb;
      item.picture.alt = item.name;
      await item.picture.decode();
    }
  } catch {
    item.picture = make("span", "waiting", "No preview of this file");
    item.thumb = null;
  }
}

export function showPicture(item) {
  byId("invite").hidden = Boolean(item);
  byId("preview").hidden = !item;
  byId("joints").hidden = !item?.redraw;
  if (!item) return;
  item.redraw?.();
  const line = make("span", "file", make("span", "", item.name), make("span", "", "choose another"));
  byId("preview").replaceChildren(item.picture || "", line);
}

/** Let people look at one keypoint's heatmap. */
export function listenForJoint(changed) {
  byId("joint").append(...["all, summed", ...KEYPOINTS].map((name, at) => {
    const option = make("option", "", name);
    option.value = at - 1;
    return option;
  }));
  byId("joint").addEventListener("change", changed);
}
