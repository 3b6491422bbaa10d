// The little Markdown that chat models write, drawn as DOM nodes and never as HTML.
// Places in the text are carried through as private-use characters: MARK + n stands for marks[n].
const MARK = 0xe000;
const MARKS = /[\ue000-\ue0ff]/g;
const marked = (character) => character >= "\ue000" && character <= "\ue0ff";
// Not within a word: 2*3*4 and 2**3**2 are sums.
const INLINE = /(`[^`\n]+`|(?<![\w*])\*\*[^*\s](?:[^*\n]*[^*\s])?\*\*(?![\w*])|(?<![\w*])\*[^*\s](?:[^*\n]*[^*\s])?\*(?![\w*]))/;
const FENCE = /^(\s*)(`{3,}|~{3,})[^`]*$/;
const HEADING = /^#{1,6} +/;
const BULLET = /^(\s*)[-*+•] +/;
const NUMBER = /^(\s*)(\d{1,9})[.)] +/;

const withMarks = (text, offsets) => {
  const clean = text.replace(MARKS, "�");
  const cuts = offsets.map((offset, i) => [Math.min(offset, clean.length), i]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  let [out, from] = ["", 0];
  for (const [offset, i] of cuts.slice(0, 256)) {
    out += clean.slice(from, offset) + String.fromCharCode(MARK + i);
    from = offset;
  }
  return out + clean.slice(from);
};

// The match of what a line begins with, and the rest of the line. Marks within that go behind it.
const lead = (line, pattern) => {
  const match = pattern.exec(line.replace(MARKS, ""));
  if (!match) return null;
  let [i, read, marks] = [0, 0, ""];
  for (; read < match[0].length || (i < line.length && marked(line[i])); i += 1) {
    if (marked(line[i])) marks += line[i];
    else read += 1;
  }
  return { match, rest: marks + line.slice(i) };
};

const plain = (text, mark) =>
  text.split(/([\ue000-\ue0ff])/).filter(Boolean).map((part) => (marked(part) ? mark(part.charCodeAt(0) - MARK) : part));

const inline = (text, mark) =>
  text.split(INLINE).flatMap((part, i) => {
    if (i % 2 === 0) return plain(part, mark);
    if (part[0] === "`") return [h("code", {}, plain(part.slice(1, -1), mark))];
    if (part.startsWith("**")) return [h("strong", {}, inline(part.slice(2, -2), mark))];
    return [h("em", {}, inline(part.slice(1, -1), mark))];
  });

// text, offsets into it, and what to draw at each: an array of nodes. The text goes in line by line;
// a block ends where the next line is of another kind, with or without an empty line between.
const markdown = (text, offsets, mark) => {
  const nodes = [];
  let code = null; // {indent, fence, marks before its first line, lines} of a block that has begun
  let lists = []; // those that are open, the innermost last: {indent, ordered, node}
  let paragraph = null;
  let waiting = ""; // marks of empty lines
  const add = (node) => nodes.push(node) && node;

  const closeCode = () => {
    add(h("pre", { dir: "ltr" }, h("code", {}, plain(code.marks + code.lines.join("\n"), mark))));
    code = null;
  };
  const within = (line) => {
    const end = lead(line, FENCE);
    const closes = end && end.match[2].startsWith(code.fence) && end.match[0].trim() === end.match[2];
    if (!closes) code.lines.push(line.startsWith(code.indent) ? line.slice(code.indent.length) : line);
    else {
      code.lines.push((code.lines.pop() ?? "") + end.rest);
      closeCode();
    }
  };
  const item = (indent, number, rest) => {
    paragraph = null;
    while (lists.length && lists.at(-1).indent > indent) lists.pop();
    const top = lists.at(-1);
    const ordered = number !== null;
    if (!top || indent > top.indent + 1 || top.ordered !== ordered) {
      const node = h(ordered ? "ol" : "ul", { start: number });
      if (top && indent > top.indent + 1) top.node.lastChild.append(node);
      else if (top && lists.length > 1) top.node.parentNode.append(node);
      else add(node);
      if (top && indent <= top.indent + 1) lists.pop();
      lists.push({ indent, ordered, node });
    }
    lists.at(-1).node.append(h("li", { dir: "auto" }, inline(rest, mark)));
  };
  const words = (line) => {
    if (lists.length && /^\s{2}/.test(line)) return lists.at(-1).node.lastChild.append(h("br"), ...inline(line.trim(), mark));
    lists = [];
    if (paragraph) paragraph.append(h("br"), ...inline(line, mark));
    else paragraph = add(h("p", { dir: "auto" }, inline(line, mark)));
  };
  const outside = (line) => {
    const [fence, heading, bullet, number] = [FENCE, HEADING, BULLET, NUMBER].map((kind) => lead(line, kind));
    if (fence || heading) [paragraph, lists] = [null, []];
    if (fence) code = { indent: fence.match[1], fence: fence.match[2], marks: fence.rest, lines: [] };
    else if (heading) add(h("h4", { dir: "auto" }, inline(heading.rest, mark)));
    else if (bullet) item(bullet.match[1].length, null, bullet.rest);
    else if (number && (!paragraph || number.match[2] === "1")) item(number.match[1].length, Number(number.match[2]), number.rest);
    else words(line);
  };

  for (const line of withMarks(text, offsets).split("\n")) {
    if (code) within(line);
    else if (line.replace(MARKS, "").trim() === "") {
      paragraph = null;
      waiting += line.trim();
    } else {
      outside(waiting + line);
      waiting = "";
    }
  }
  if (code) closeCode();
  if (waiting) add(h("p", {}, plain(waiting, mark)));
  return nodes;
};
