// The playground: connects the form, the gallery and the API.

import { Api, newName, Refused } from "./api.js";
import { el, find, say } from "./dom.js";
import { Form } from "./form.js";
import { Gallery, promptOf } from "./gallery.js";
import { memory } from "./memory.js";
import { CodeDialog, Viewer } from "./viewer.js";
import { Watch } from "./watch.js";
import { advice, failure, isFinal, money, plural, proposals } from "./words.js";

const ORDER = { pending: 0, processing: 1, completed: 2, failed: 2 };

const api = new Api("");
const code = new CodeDialog(() => api.key);
const form = new Form(submit, (fields) => code.open(fields));
const actions = {
  open: (id, index) => viewer.open(gallery.pictures(), id, index),
  code: (id) => code.open(gallery.fieldsOf(id)),
  edit: (id) => {
    form.fill(gallery.fieldsOf(id));
    form.clear();
    find("prompt").focus();
    find("prompt").scrollIntoView({ block: "center" });
  },
  retry: (id) => submit(gallery.fieldsOf(id)),
  cancel,
  remove: (id) => {
    memory.hide(id);
    gallery.remove(id);
    say("Removed from this list", { shown: true });
  },
};
const gallery = new Gallery(actions);
const viewer = new Viewer(actions, gallery.fieldsOf);
const watch = new Watch(api, learn, lose);
let oldest; // where the next page of history begins
let user = 0; // grows with each change of key, so that answers for the one before are let go

// -- the key

/** A key in the fragment is taken, and gone from the address at once. */
function keyOfAddress() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (key === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  signIn(key.trim());
}

async function signIn(key) {
  if (!/^[\x21-\x7e]{1,512}$/.test(key)) return askForKey("That cannot be an API key.");
  try {
    const page = await new Api(key).tasks();
    if (key !== memory.key) leave(); // what is remembered is somebody else's
    api.key = memory.key = key;
    const mine = ++user;
    find("sign-in").hidden = true;
    find("sign-out").hidden = false;
    find("key").value = "";
    banner("");
    await showHistory(page, mine);
    showUsage();
  } catch (error) {
    refused(error, { trying: key });
  }
}

function leave() {
  user++;
  watch.stop();
  gallery.clear();
  memory.clear();
  api.key = "";
  for (const id of ["usage", "sign-out", "older"]) find(id).hidden = true;
}

function askForKey(problem = "") {
  find("sign-in").hidden = false;
  find("key-problem").hidden = !problem;
  find("key-problem").textContent = problem;
  find("key").toggleAttribute("aria-invalid", Boolean(problem));
  find("empty").hidden = true;
  if (problem) find("key").focus();
}

/** What to do about an error that any request can meet. */
function refused(error, { trying } = {}) {
  if (error instanceof Refused && error.status === 401) {
    if (!trying || trying === memory.key) leave();
    find("key").value = trying ?? "";
    const kind = error.error.code === "expired_api_key" ? "The key has expired." : "This server does not know the key.";
    return askForKey(`${kind} ${advice(error.error)}`.trim());
  }
  banner(`${error.message} ${error instanceof Refused ? advice(error.error) : ""}`, true);
}

function banner(text, again = false) {
  find("banner").hidden = !text;
  const retry = again && el("button", { type: "button", onclick: start }, "Try again");
  find("banner").replaceChildren(text, ...(retry ? [" ", retry] : []));
}

// -- history

async function showHistory(page, mine) {
  show(page.data);
  turnedTo(page);
  // What was submitted here and is not on the page: older, or no longer kept.
  const listed = new Set(page.data.map((task) => task.id));
  const open = page.has_more ? [] : memory.ids.filter((id) => !listed.has(id));
  for (const id of open) {
    try {
      const task = await api.task(id);
      if (mine !== user) return;
      show([task]);
    } catch (error) {
      if (error instanceof Refused && error.status === 404) memory.forget(id);
    }
  }
}

function show(tasks) {
  for (const task of [...tasks].reverse()) {
    if (memory.isHidden(task.id)) continue;
    gallery.show(task, memory.fieldsOf(task.id));
    if (!isFinal(task)) watch.add(task.id);
  }
  gallery.settle();
}

function turnedTo(page) {
  oldest = page.last_id;
  find("older").hidden = !page.has_more;
}

find("older").addEventListener("click", async () => {
  try {
    const page = await api.tasks(oldest);
    show(page.data);
    turnedTo(page);
  } catch (error) {
    refused(error);
  }
});

// -- tasks

async function submit(fields) {
  if (!api.key) return askForKey("A key is needed to make pictures.");
  // The same request after one that may not have arrived is the same submit: it is bought once.
  const body = JSON.stringify(fields);
  const before = memory.attempt;
  const attempt = before?.body === body ? before : { name: newName(), body };
  memory.attempt = attempt;
  form.busy(true);
  form.clear();
  try {
    const task = await api.submit(fields, attempt.name);
    memory.attempt = null;
    memory.keep(task.id, fields);
    gallery.show({ size: fields.size, ...task }, fields); // the server says the size with its next answer
    watch.add(task.id);
    say("Submitted");
    reveal(task.id);
  } catch (error) {
    if (error instanceof Refused && error.status < 500) memory.attempt = null;
    if (error instanceof Refused && error.status === 401) refused(error);
    else trouble(error, fields);
  } finally {
    form.busy(false);
  }
}

/** On a small screen the new card is below the form: show that something happens. */
function reveal(id) {
  const card = document.querySelector(`.card[data-id="${id}"]`);
  const { top } = card.getBoundingClientRect();
  if (top > innerHeight - 80) card.scrollIntoView({ block: "nearest" });
}

/** Say what is wrong with a submit: beside the fields that are to blame, and what would help. */
function trouble(error, fields) {
  const { error: about = {}, fields: wrong = [] } = error;
  const elsewhere = wrong.filter(({ field, message }) => !form.blame(field, message));
  const arrived = error instanceof Refused;
  const again = !wrong.length && (about.retryable || !arrived);
  const offers = form.has(about.param) ? proposals(about) : [];
  const lines = wrong.length ? elsewhere.map(({ message }) => message) : [error.message];
  const help = arrived ? advice(about) : "Sent again, it is still one task: nothing is bought twice.";
  find("trouble").replaceChildren(
    ...lines.map((line) => el("p", {}, el("b", {}, line))),
    el("p", {}, help),
    el(
      "p",
      { class: "stack" },
      ...offers.map((value) =>
        el("button", { type: "button", onclick: () => form.apply(about.param, value) }, `Use ${value}`),
      ),
      again && el("button", { type: "button", onclick: () => submit(fields) }, "Try again"),
    ),
  );
  find("trouble").hidden = !(lines.length || help || offers.length);
  if (lines.length) find("trouble").focus();
}

/** Take what was told of a task, unless it is older than what is known. */
function learn(task) {
  const known = gallery.task(task.id);
  if (!known || isFinal(known)) return;
  if (isFinal(task) && !task.data) return; // the pictures come with the next word
  const status = task.status ?? known.status;
  if (ORDER[status] < ORDER[known.status]) return;
  const progress = Math.max(task.progress ?? 0, known.progress ?? 0);
  // What a whole answer does not say any more is over.
  const over = task.data
    ? { queue_position: undefined, eta_seconds: undefined, blocked_reason: undefined }
    : {};
  gallery.show({ ...over, ...task, status, progress });
  const prompt = promptOf(known, gallery.fieldsOf(task.id)).slice(0, 60);
  if (status === "completed") say(`${plural(task.data.length, "picture")} ready: ${prompt}`);
  else if (status === "failed") {
    const { title, text, billed } = failure(task);
    say(`${title}: ${prompt}. ${text} ${billed}`);
  } else if (status !== known.status) say(`Started: ${prompt}`);
  if (isFinal({ status })) showUsage();
}

function lose(id, error) {
  if (error.status === 401) return refused(error);
  if (error.status !== 404) return gallery.note(id, error.message);
  memory.forget(id);
  gallery.remove(id);
}

async function cancel(id) {
  gallery.note(id, "");
  try {
    learn(await api.cancel(id));
  } catch (error) {
    if (error instanceof Refused && error.status === 401) refused(error);
    else gallery.note(id, `${error.message} ${advice(error.error ?? {})}`.trim());
  }
}

async function showUsage() {
  const mine = user;
  try {
    const { month, limits } = await api.usage();
    if (mine !== user) return;
    const most = limits.usd_per_month ? ` of ${money(limits.usd_per_month.limit)}` : "";
    const spent = month.spend_usd ? `, ${money(month.spend_usd)}${most}` : "";
    find("usage").textContent = `${plural(month.images, "picture")} this month${spent}`;
    find("usage").hidden = false;
  } catch {
    find("usage").hidden = true; // it is no more than a nicety
  }
}

// -- the beginning

find("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  find("key-problem").hidden = true;
  signIn(find("key").value.trim());
});
find("sign-out").addEventListener("click", () => {
  leave();
  find("key").value = "";
  askForKey();
  find("key").focus();
  say("Signed out. This browser has forgotten the key.", { shown: true });
});
addEventListener("hashchange", keyOfAddress);

async function start() {
  banner("");
  keyOfAddress();
  if (!api.key) {
    if (memory.key) signIn(memory.key);
    else askForKey();
  }
  try {
    form.offer(await api.models());
  } catch (error) {
    refused(error);
  }
}

start();
