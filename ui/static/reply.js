// One reply: what steered it, its text with the places where a slider was moved, its strip.
const FINISHED = { length: "cut at the token limit", cancelled: "stopped", steering_guard: "ended by the guard", steering_abort: "ended by a condition" };
const TITLES = { plain: "Unsteered", half: "Half as strong", steered: "Steered", more: "1.5 times", double: "Twice as strong" };

const drawReply = (line) => {
  const state = { text: "", offsets: [], marks: [], ended: false };
  const body = h("div", { class: "sd-body" }, h("span", { class: "sd-typing", "aria-label": "waiting for the first token" }, h("i"), h("i"), h("i")));
  const stats = h("span", { class: "sd-stats" });
  const tools = h("div", { class: "sd-tools" }, stats);
  const band = strip();
  const chip = ([number, label, setting, ref]) => h("span", { class: "sd-chip", title: label === ref ? label : `${label} (${ref})`, style: { "--c": colour(number) } }, h("span", { dir: "auto" }, label), h("b", {}, setting));
  const chips = h("div", { class: "sd-chips" }, line.chips.map(chip));
  const title = line.pair && h("h3", { dir: "auto" }, line.title || TITLES[line.lane]);
  const node = h("article", { class: "sd-reply", "data-lane": line.lane, "data-reply": line.r, "aria-busy": "true", tabindex: "-1" },
    (title || line.chips.length > 0) && h("header", {}, title, chips), body, band.node, tools);
  band.legend(line.features);
  band.node.open = true;

  // While a slider is dragged marks come thick: only the last of a run says what it was set to.
  const brief = (i) => state.marks[i + 1] && state.marks[i + 1].at - state.marks[i].at < 12;
  const turned = (i) => h("mark", { class: brief(i) ? "sd-turn sd-brief" : "sd-turn", title: state.marks[i].x, "aria-label": `here: ${state.marks[i].x}` }, brief(i) ? "" : state.marks[i].s);
  const draw = () => {
    if (!state.ended) band.follow();
    if (!state.text) return;
    const at = state.marks.map((mark) => state.offsets[mark.at] ?? state.text.length);
    body.replaceChildren(...markdown(state.text, at, turned));
  };
  const grow = (more) => {
    const count = more.t ? more.t.length : more.n || 0;
    for (let i = 0; i < count; i += 1) state.offsets.push(state.text.length);
    state.text += more.x;
    (more.t || []).forEach(band.add);
  };
  const mark = (more) => {
    if (state.marks.at(-1)?.at === more.at) state.marks.pop(); // it never acted
    state.marks.push(more);
    band.mark(more.at, more.x);
    band.legend(more.features, more.at);
  };
  const end = (more) => {
    state.ended = true;
    node.removeAttribute("aria-busy");
    if (!state.text) body.replaceChildren(more.error ? "" : h("p", { class: "sd-quiet" }, "(no text)"));
    if (more.error) node.insertBefore(h("p", { class: "sd-error", role: "alert" }, more.error), tools);
    const rate = more.seconds > 0.2 && more.tokens > 4 ? ` · ${Math.round(more.tokens / more.seconds)}/s` : "";
    const dropped = more.dropped ? ` · the ${more.dropped === 1 ? "oldest turn" : `${more.dropped} oldest turns`} no longer fit and were left out` : "";
    stats.textContent = `${more.tokens} token${more.tokens === 1 ? "" : "s"}${rate}${FINISHED[more.reason] ? ` · ${FINISHED[more.reason]}` : ""}${more.guard ? ` · ${more.guard}` : ""}${dropped}`;
    const receipt = more.receipt && h("pre", { class: "sd-receipt", hidden: true, tabindex: "0", "aria-label": "Receipt" }, more.receipt);
    const take = receipt && h("button", { type: "button", hidden: true, onclick: (event) => copy(more.receipt, event.target) }, "Copy receipt");
    tools.append(...[
      state.text && h("button", { type: "button", onclick: (event) => copy(state.text, event.target) }, "Copy"),
      h("button", { type: "button", class: "sd-again", onclick: () => trigger("again", {}) }, "Answer again"),
      receipt && h("button", { type: "button", "aria-expanded": "false", onclick: (event) => { receipt.hidden = take.hidden = !receipt.hidden; event.target.setAttribute("aria-expanded", String(!receipt.hidden)); } }, "Receipt"),
      take,
    ].filter(Boolean));
    if (receipt) node.append(receipt);
  };
  return { node, state, draw, grow, mark, end, fold: () => (band.node.open = false) };
};
