// The little Markdown that chat models write, drawn as DOM nodes and never as HTML.
// Places in the text are carried through as private-use characters: MARK + n stands for marks[n].
const MARK = 0xe000;
const MARKS = /[\ue000-\ue0ff]/g;
const INLINE = /(`[^`\n]+`|\*\*[^*\n]+\*\*|\*[^*\s][^*\n]*\*|[\ue000-\ue0ff])/;

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

const inline = (text, mark) =>
  text.split(INLINE).filter(Boolean).map((part) => {
    if (part.length === 1 && part.charCodeAt(0) >= MARK && part.charCodeAt(0) < MARK + 256) return mark(part.charCodeAt(0) - MARK);
    if (/^`.+`$/s.test(part)) return h("code", {}, part.slice(1, -1));
    if (/^\*\*.+\*\*$/s.test(part)) return h("strong", {}, inline(part.slice(2, -2), mark));
    if (/^\*.+\*$/s.test(part)) return h("em", {}, inline(part.slice(1, -1), mark));
    return part;
  });

const lines = (text, mark) => text.split("\n").flatMap((line, i) => (i ? [h("br"), ...inline(line, mark)] : inline(line, mark)));

const block = (text, mark) => {
  const heading = /^(#{1,4}) +(.*)$/s.exec(text);
  if (heading && !heading[2].includes("\n")) return h("h4", {}, inline(heading[2], mark));
  const rows = text.split("\n");
  const bullet = /^\s*[-*•] +/;
  const number = /^\s*\d+[.)] +/;
  const item = rows.every((row) => bullet.test(row)) ? bullet : rows.every((row) => number.test(row)) ? number : null;
  if (!item) return h("p", {}, lines(text, mark));
  return h(item === bullet ? "ul" : "ol", { start: item === number ? parseInt(text.trim(), 10) : null }, rows.map((row) => h("li", {}, inline(row.replace(item, ""), mark))));
};

// text, offsets into it, and what to draw at each: an array of nodes.
const markdown = (text, offsets, mark) => {
  const nodes = [];
  withMarks(text, offsets).split(/^```[^\n]*\n?/m).forEach((part, i) => {
    if (i % 2) nodes.push(h("pre", {}, h("code", {}, inline(part.replace(/\n$/, ""), mark).map((node) => node))));
    else {
      for (const piece of part.split(/\n{2,}/)) {
        const trimmed = piece.replace(/^\n+|\s+$/g, "");
        if (trimmed) nodes.push(block(trimmed, mark));
      }
    }
  });
  return nodes;
};
