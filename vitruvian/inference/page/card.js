// The model card: the Markdown that bundles are written with, as elements. Whatever it holds stays text.

import { make } from "./dom.js";

/** Return the elements of a card, without the block that only hubs read. */
export function cardElements(markdown) {
  const lines = markdown.replace(/^---\n[\s\S]*?\n---\n/, "").split("\n"), found = [];
  while (lines.length) {
    const line = lines[0], heading = /^(#{1,6}) (.*)/.exec(line);
    if (!line.trim()) lines.shift();
    else if (heading) {
      // The page has a heading of the first order already.
      found.push(make(`h${Math.min(6, heading[1].length + 1)}`, "", ...inline(heading[2])));
      lines.shift();
    } else if (line.startsWith("```")) found.push(code(lines));
    else if (line.startsWith("|")) found.push(table(take(lines, (each) => each.startsWith("|"))));
    else if (/^[-*] /.test(line)) {
      found.push(make("ul", "", ...take(lines, (each) => /^[-*] /.test(each)).map((each) => make("li", "", ...inline(each.slice(2))))));
    } else found.push(make("p", "", ...inline(take(lines, (each) => each.trim() && !/^(#{1,6} |```|\||[-*] )/.test(each)).join(" "))));
  }
  return found;
}

function take(lines, belongs) {
  const taken = [lines.shift()];
  while (lines.length && belongs(lines[0])) taken.push(lines.shift());
  return taken;
}

function code(lines) {
  lines.shift();
  const end = lines.findIndex((line) => line.startsWith("```"));
  const inner = lines.splice(0, end < 0 ? lines.length : end);
  lines.shift();
  const block = make("pre", "", inner.join("\n"));
  block.tabIndex = 0;
  return block;
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function table(lines) {
  const [head, , ...rows] = lines.map(cells);
  const heads = head.map((cell) => {
    const element = make(cell ? "th" : "td", "", ...inline(cell));
    if (cell) element.scope = "col";
    return element;
  });
  return make("div", "scroll", make("table", "", make("thead", "", make("tr", "", ...heads)),
    make("tbody", "", ...rows.map((row) => make("tr", "", ...row.map((cell) => make("td", "", ...inline(cell))))))));
}

/** `code` and **strong**; everything else as it is written. */
function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (/^`.+`$/.test(part)) return make("code", "", part.slice(1, -1));
    if (/^\*\*.+\*\*$/.test(part)) return make("strong", "", part.slice(2, -2));
    return part;
  });
}
