// The message field, which is Gradio's. It is emptied at the press that sends it, not when the first word
// comes, so that what is typed meanwhile stays; what was not said goes back into it.
const field = () => document.querySelector("#prompt textarea");
let sent = ""; // until it stands in the conversation
const keep = () => stored.set("draft", field().value || sent);
const write = (text) => {
  field().value = text;
  field().dispatchEvent(new Event("input", { bubbles: true })); // or Gradio would not know
};
const heard = () => {
  sent = "";
  if (field()) keep();
};
const unsaid = (text) => {
  sent = "";
  if (field() && !field().value.trim()) write(text);
};
// The last question again, to be changed. Whether it is there.
const retype = (text) => {
  const free = field() && !field().value.trim();
  if (!free) say("Something is typed already: send it, or clear the message field first.");
  else {
    write(text);
    field().focus();
  }
  return free;
};
// Once the page has loaded: the draft of the tab, which Gradio loads anew after a broken connection.
const furnish = () => {
  if (!field()) return;
  field().dir = "auto";
  const draft = stored.get("draft");
  if (draft && !sent && !field().value) write(draft); // sent: before this
};
document.addEventListener("steerdeck:sent", (event) => {
  if (!event.detail.trim()) return;
  sent = event.detail;
  write("");
});
document.addEventListener("steerdeck:unsaid", (event) => unsaid(event.detail));
document.addEventListener("input", (event) => { if (event.target === field()) keep(); });
