// The conversation. props.value is the log of ui/transcript.py: JSON lines that mostly only grow. Its first
// line says from which line on it comes; the ones before are here already.
const root = element.querySelector(".sd-thread");
const told = element.querySelector(".sd-told");
let log = "";
let home = "";
let lines = []; // as drawn, without the first
let turns = []; // {start: its first line, node, said, replies: their numbers}
let replies = new Map();
let begun = 0;
let low = true; // the end of the conversation is in sight

const busy = () => [...replies.values()].some((reply) => !reply.state.ended);
const near = () => root.scrollHeight - root.scrollTop - root.clientHeight < 120;
const bottom = () => (root.scrollTop = root.scrollHeight);
// Take the turns away that hold the line or come after it.
const cut = (line) => {
  while (line < lines.length) {
    const turn = turns.pop();
    turn.node.remove();
    turn.replies.forEach((number) => replies.delete(number));
    lines.length = turn.start;
  }
};
// What is new of the lines `given`, which stand in the log from number `from` on; null: not yet to be drawn.
const fresh = (from, given) => {
  let same = 0;
  while (from + same < lines.length && lines[from + same] === given[same]) same += 1;
  if (same === given.length && from + same < lines.length) return null; // an older log that comes late
  cut(from + same);
  if (lines.length >= from) return given.slice(lines.length - from);
  trigger("whole", {}); // a frame was lost on the way
  return null;
};
const begin = {
  user: (line) => {
    replies.forEach((reply) => reply.fold());
    const answers = h("div", { class: "sd-turn-replies" });
    const edit = h("button", { type: "button", class: "sd-edit", title: "Take it back and change it", onclick: () => retype(line.x) && trigger("edit", {}) }, "Edit");
    const node = h("div", { class: "sd-exchange" }, h("p", { class: "sd-user", dir: "auto" }, line.x), edit, answers);
    turns.push({ start: lines.length, node, answers, said: line.x, replies: [] });
    root.append(node);
    heard();
    document.dispatchEvent(new CustomEvent("steerdeck:asked", { detail: line.rack })); // rack.js
  },
  reply: (line) => {
    const reply = drawReply(line);
    const { answers, replies: own } = turns.at(-1);
    replies.set(line.r, reply);
    own.push(line.r);
    answers.classList.toggle("sd-pair", line.pair);
    answers.classList.toggle("sd-columns", own.length > 2);
    answers.append(reply.node);
  },
  "+": (line) => replies.get(line.r)?.grow(line),
  mark: (line) => replies.get(line.r)?.mark(line),
  end: (line) => {
    replies.get(line.r)?.end(line);
    told.textContent = line.error ? line.error : "The reply is complete.";
    // A question that is too long is mended, not asked again.
    if (line.code === "context_length_exceeded" && !replies.get(line.r)?.state.text) unsaid(turns.at(-1).said);
  },
};
// Send and Stop stand in one place; the focus stays there.
const stand = () => {
  const held = document.activeElement?.id;
  const now = document.body.classList.toggle("sd-busy", busy());
  const other = held === "send" && now ? "stop" : held === "stop" && !now ? "send" : null;
  if (other) document.getElementById(other).focus({ preventScroll: true });
};
const news = (next) => {
  if (next.startsWith(log) && log) return next.slice(log.length).split("\n").filter(Boolean);
  const [first, ...given] = next.split("\n").filter(Boolean);
  const { begun: started = 0, from = 0 } = first ? JSON.parse(first) : {};
  if (started < begun) return null; // a late frame of a conversation that was cleared
  if (started > begun) cut(0);
  begun = started;
  return fresh(from, given);
};
const take = () => {
  const next = typeof props.value === "string" ? props.value : "";
  const held = document.activeElement;
  const inside = root.contains(held) && held !== root;
  const [stay, all] = [near(), next.split("\n", 1)[0]];
  const rest = news(next);
  if (!rest) return;
  log = next;
  const touched = new Set();
  let asked = false;
  for (const text of rest) {
    const line = JSON.parse(text);
    begin[line.k]?.(line);
    lines.push(text);
    asked ||= line.k === "user";
    if (line.r) touched.add(line.r);
  }
  touched.forEach((number) => replies.get(number)?.draw());
  if (turns.length) root.querySelector(".sd-home")?.remove();
  else if (all && (all !== home || !root.childElementCount)) root.replaceChildren(drawHome(JSON.parse(all)));
  if (all && !home) furnish();
  home = all;
  turns.forEach(({ node }, i) => node.classList.toggle("sd-last", i === turns.length - 1));
  stand();
  if (inside && !held.isConnected) (replies.get(turns.at(-1)?.replies[0])?.node || root).focus({ preventScroll: true });
  if (all) stored.set("talked", replies.size > 0); // for toast.js, should the page be loaded anew
  if (turns.length && (stay || asked)) bottom(); // the first screen is read from its top
  low = near();
};
root.addEventListener("scroll", () => (low = near()));
// On a phone the open rack makes it shorter: the newest words stay in sight.
new ResizeObserver(() => { if (turns.length && low) bottom(); }).observe(root);
watch("value", take);
take();
